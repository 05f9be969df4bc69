"""When a certificate expires. Pure: text in, an instant out.

The standard library decodes only what a peer has shown and what it trusts, so here is as much of DER as it
takes to reach one field. Whether a certificate is valid otherwise is left to OpenSSL.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18  # tags of DER
_FIRST_OF_LAST_CENTURY = 50  # two digits of a year are of this century below it (RFC 5280, 4.1.2.5.1)


def expires_at(pem: str) -> float:
    """Return when the first certificate of a PEM text expires, as seconds since 1970.

    The first is the server's own; those that follow lead from it to an authority.

    Raises:
        ValueError: there is none, or it isn't readable.
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("there is no certificate")
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(found[0]))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the certificate can't be read") from error


def _not_after(der: bytes) -> float:
    """Return `notAfter`: the second time in the fourth part (fifth, behind a version) of what is signed."""
    signed = _parts(_parts(der)[0][1])[0][1]
    parts = _parts(signed)
    (_, _), (tag, written) = _parts(parts[3 + (parts[0][0] == _VERSION)][1])[:2]
    text = written.decode("ascii")
    if tag not in {_UTC_TIME, _GENERALIZED_TIME}:
        raise ValueError("the certificate has no time of expiry")
    if tag == _UTC_TIME:
        text = f"{'20' if int(text[:2]) < _FIRST_OF_LAST_CENTURY else '19'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of each element, one after the other."""
    parts = []
    while der:
        tag, size, start = der[0], der[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(der[2:start])
        parts.append((tag, der[start : start + size]))
        der = der[start + size :]
    return parts
