"""Password hashes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.passwords import SALT_BYTES, Costs, PasswordHash, hash_password, parse_password_hash

CHEAP = Costs(ln=10, r=1, p=1)
SALT, KEY = "c2FsdHNhbHRzYWx0c2FsdA", "A" * 43


def test_key_is_that_of_rfc_7914() -> None:
    key = Costs(ln=14, r=8, p=1).derive(b"pleaseletmein", b"SodiumChloride", 64)
    assert key.hex() == (
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
        "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
    )


def test_printed_hash_is_read_back_and_matches_only_its_password() -> None:
    printed = str(hash_password("Süß und geheim", b"s" * SALT_BYTES))
    assert printed.startswith("$scrypt$ln=14,r=8,p=1$c3Nzc3Nzc3Nzc3Nzc3Nzcw$")
    assert "=" not in printed.rpartition("p=1")[2]
    read = parse_password_hash(printed)
    assert read.matches("Süß und geheim".encode())
    assert not read.matches(b"Suess und geheim")
    assert not read.matches(b"")


def test_salt_changes_the_hash() -> None:
    assert hash_password("x", b"1" * SALT_BYTES).key != hash_password("x", b"2" * SALT_BYTES).key


@given(st.binary(min_size=6, max_size=64), st.binary(min_size=17, max_size=64))
def test_any_salt_and_key_are_read_back(salt: bytes, key: bytes) -> None:
    password_hash = PasswordHash(CHEAP, salt, key)
    assert parse_password_hash(str(password_hash)) == password_hash


@given(st.text())
def test_text_is_a_hash_or_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a password hash; make one with `itscope-relay hash-password`"):
        parse_password_hash(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        f"$scrypt$ln=14,r=8,p=1${SALT}",
        f"$scrypt$ln=14,r=8,p=1${SALT}${KEY}\n",
        f" $scrypt$ln=14,r=8,p=1${SALT}${KEY}",
        f"$scrypt$ln=14,r=8,p=1${SALT}==${KEY}",
        f"$scrypt$ln=14,r=8,p=1${SALT}$short",
        f"$scrypt$ln=14,r=8,p=1$A${KEY}",
        f"$scrypt$ln=14,r=8,p=1${'A' * 9}${KEY}",
        f"$scrypt$ln=14,r=8,p=1${SALT}${'A' * 45}",
        f"$scrypt$ln=-1,r=8,p=1${SALT}${KEY}",
        f"$scrypt$r=8,ln=14,p=1${SALT}${KEY}",
        "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
    ],
)
def test_other_formats_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a password hash; make one with `itscope-relay hash-password`"):
        parse_password_hash(text)


@pytest.mark.parametrize(
    "costs",
    [
        "ln=9,r=8,p=1",
        "ln=21,r=1,p=1",
        "ln=99,r=99,p=99",
        "ln=18,r=8,p=1",
        "ln=14,r=0,p=1",
        "ln=14,r=33,p=1",
        "ln=14,r=8,p=0",
        "ln=14,r=8,p=9",
        "ln=20,r=32,p=8",
        "ln=16,r=1,p=1",  # RFC 7914: N < 2 ** (128 * r / 8)
        "ln=17,r=1,p=1",
        "ln=20,r=1,p=1",
    ],
)
def test_costs_that_could_exhaust_the_machine_are_refused(costs: str) -> None:
    with pytest.raises(ValueError, match="the costs of this password hash are out of bounds"):
        parse_password_hash(f"$scrypt${costs}${SALT}${KEY}")


@pytest.mark.parametrize("costs", ["ln=10,r=1,p=1", "ln=15,r=1,p=1", "ln=17,r=8,p=1", "ln=14,r=8,p=8"])
def test_costs_within_bounds_can_be_paid(costs: str) -> None:
    assert not parse_password_hash(f"$scrypt${costs}${SALT}${KEY}").matches(b"wrong")
