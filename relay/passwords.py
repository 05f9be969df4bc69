"""Password hashes: scrypt (RFC 7914) in the PHC string format. Pure; the salt is an argument.

A hash reads `$scrypt$ln=14,r=8,p=1$<salt>$<key>`, both base64 without padding.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import NamedTuple

SALT_BYTES = 16
_KEY_BYTES = 32
_FORMAT = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{8,86})\$([A-Za-z0-9+/]{22,86})"
)
_MAX_MEMORY = 256 << 20


class Costs(NamedTuple):
    """What one check costs: 2**ln * 128 * r bytes of memory, p times."""

    ln: int
    r: int
    p: int

    def derive(self, password: bytes, salt: bytes, length: int) -> bytes:
        """Return the key of a password."""
        return hashlib.scrypt(
            password,
            salt=salt,
            n=2**self.ln,
            r=self.r,
            p=self.p,
            dklen=length,
            maxmem=_MAX_MEMORY + (1 << 20),
        )


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """The parts of one hash; costs are bounded, so that a check can't exhaust the machine."""

    costs: Costs
    salt: bytes
    key: bytes

    def __str__(self) -> str:
        ln, r, p = self.costs
        return f"$scrypt$ln={ln},r={r},p={p}${_encode(self.salt)}${_encode(self.key)}"

    def matches(self, password: bytes) -> bool:
        """Tell, in a time that depends on the costs alone, whether this is the password's hash."""
        return hmac.compare_digest(self.costs.derive(password, self.salt, len(self.key)), self.key)


# 16 MiB and some 40 ms a check. OWASP asks for more of a browser's login; here a verified login is remembered
# and a guess is throttled.
DEFAULT_COSTS = Costs(ln=14, r=8, p=1)


def hash_password(password: str, salt: bytes) -> PasswordHash:
    """Return the hash of a password under a salt, which must be random and SALT_BYTES long."""
    return PasswordHash(DEFAULT_COSTS, salt, DEFAULT_COSTS.derive(password.encode(), salt, _KEY_BYTES))


def parse_password_hash(text: str) -> PasswordHash:
    """Return the parts of a hash.

    Raises:
        ValueError: another format, or costs above what this relay is willing to pay.
    """
    found = _FORMAT.fullmatch(text)
    if found is None or any(len(found[part]) % 4 == 1 for part in (4, 5)):  # no base64 has such a length
        raise ValueError("not a password hash; make one with `itscope-relay hash-password`")
    ln, r, p = int(found[1]), int(found[2]), int(found[3])
    if (
        ln >= 16 * r
        or not 10 <= ln <= 20
        or not 1 <= r <= 32
        or not 1 <= p <= 8
        or 128 * r * (p + 2**ln) > _MAX_MEMORY
    ):
        raise ValueError("the costs of this password hash are out of bounds (ln=10..17 with r=8, p=1)")
    return PasswordHash(Costs(ln, r, p), _decode(found[4]), _decode(found[5]))


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
