"""Single values of a configuration: what each kind may be, with the words in which another is refused.

Which section has which value is left to `schema`, and the URL of a store to `store_url`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, WithJsonSchema
from yarl import URL

_C = TypeVar("_C", bound=Collection[Any])
MAX_SECRET_BYTES = 64 << 10
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = re.compile(
    r"(?i)host|connection|content-(?:length|type|encoding)|transfer-encoding|te|trailer|upgrade|expect|user-agent"
    r"|idempotency-key|traceparent|x-itscope-.*|x-relay-.*"
)

Name = Annotated[str, Field(pattern=_NAME)]


def _text(value: Any) -> Any:
    """Let a number stand where a text is wanted (a password of digits, an X-Company of 100)."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _free_header(name: str) -> str:
    """Return the name of a header, if the relay doesn't set it itself."""
    if _OWN_HEADERS.fullmatch(name):
        raise ValueError(f"the header {name} is set by the relay; use another name")
    return name


def _not_of_auth(name: str) -> str:
    if name.lower() == "authorization":
        raise ValueError(f"write the header {name} under auth")
    return name


def header_value(value: str) -> str:
    """Return the value of a header, if it can't break a request."""
    if not value.isascii() or not value.isprintable():
        raise ValueError("a header's value must be printable ASCII")
    return value


def resolved(value: Any, info: ValidationInfo) -> Path:
    """Return a path relative to the file that names it."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("write the path of a file")
    folder = (info.context or {}).get("folder", ".")
    return Path(folder) / value


def _read_secret(value: Any, info: ValidationInfo) -> str:
    path = resolved(value, info)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"can't read {path}: {(error.strerror or 'error').lower()}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text") from error
    if not text or len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"{path} is {'too large for a secret' if text else 'empty'}")
    return text


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not port.isdecimal() or int(port) > 65535 or not host or (":" in host and not value.startswith("[")):
        raise ValueError("write an address as host:port, such as 0.0.0.0:8080 or [::1]:8080")
    return value


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of a checked `host:port`."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, as seen by itself alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError("write an address or a network, such as 10.0.0.5 or 10.0.0.0/8") from error
    return value


def http_url(value: str) -> str:
    """Return a full URL without credentials."""
    try:
        url = URL(value)
        usable = url.scheme in {"http", "https"} and url.host and 0 < (url.port or 0) <= 65535
        (url.raw_host or "").encode("idna")  # what a resolver does first
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f]", value):
        raise ValueError("write a full URL, such as https://erp.example.internal/api/itscope")
    if url.user is not None or url.password is not None:
        raise ValueError("credentials don't belong into the URL; write them under auth")
    return value


def _url_path(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", value) or "//" in value:
        raise ValueError("write a path that starts with / and has only letters, digits and ._~-/")
    return value


def at_least_one(values: _C) -> _C:
    """Return a list or set, if it has an entry.

    Checked after the items, so that a wrong item isn't reported as a missing one too.
    """
    if not values:
        raise ValueError("must have at least one entry")
    return values


Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
UrlPath = Annotated[str, AfterValidator(_url_path)]
Secret = Annotated[SecretStr, BeforeValidator(_text), Field(min_length=1), WithJsonSchema({"type": "string"})]
SecretFile = Annotated[SecretStr, BeforeValidator(_read_secret), WithJsonSchema({"type": "string"})]
FilePath = Annotated[Path, BeforeValidator(resolved), WithJsonSchema({"type": "string"})]
HeaderName = Annotated[str, Field(pattern=f"^{_TOKEN.pattern}$"), AfterValidator(_free_header)]
PlainHeaderName = Annotated[HeaderName, AfterValidator(_not_of_auth)]
HeaderValue = Annotated[
    str,
    BeforeValidator(_text),
    AfterValidator(header_value),
    WithJsonSchema({"type": ["string", "integer"]}),
]
