"""When a certificate expires."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from relay.certificate import expires_at

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("relay.example").cert_chain_pems[0].bytes().decode()


@pytest.mark.parametrize("year", [1999, 2001, 2027, 2049, 2050, 2110])  # from 2050 on, years have four digits
def test_expiry_is_that_of_the_certificate(year: int) -> None:
    expiry = datetime(year, 11, 22, 17, 30, 59, tzinfo=UTC)
    made = AUTHORITY.issue_cert(
        "relay.example", not_before=datetime(1998, 1, 1, tzinfo=UTC), not_after=expiry
    )
    assert expires_at(made.cert_chain_pems[0].bytes().decode()) == expiry.timestamp()


def test_first_certificate_of_a_file_counts_whatever_stands_around_it() -> None:
    expiry = datetime(2031, 1, 1, tzinfo=UTC)
    own = AUTHORITY.issue_cert("relay.example", not_after=expiry)
    key, leaf = own.private_key_pem.bytes().decode(), own.cert_chain_pems[0].bytes().decode()
    assert expires_at(f"a comment\n{key}{leaf}{CERTIFICATE}") == expiry.timestamp()


@pytest.mark.parametrize("pem", ["", "-----BEGIN CERTIFICATE-----", CERTIFICATE.replace("MII", "ABC", 1)])
def test_what_is_no_certificate_is_refused(pem: str) -> None:
    with pytest.raises(ValueError, match=r"certificate|unconverted|match"):
        expires_at(pem)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        expires_at(ssl.DER_cert_to_PEM_cert(content))
