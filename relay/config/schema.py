"""What a configuration may say, and every default. Pydantic checks it and writes the JSON Schema.

The types of retrying, routing, breakers, rates and windows are those of their own modules: nothing is
declared twice.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from yarl import URL

from relay.breaker import BreakerPolicy
from relay.hold import Hold
from relay.pace import RateLimit
from relay.passwords import PasswordHash, parse_password_hash
from relay.retry import REJECT, SUCCESS, DeliveryPolicy, RetryPolicy
from relay.routing import Route
from relay.units import Duration, Size, Statuses, format_duration

MAX_SECRET_BYTES = 64 << 10
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = re.compile(
    r"(?i)host|connection|content-(?:length|type|encoding)|transfer-encoding|te|trailer|upgrade|expect|user-agent"
    r"|idempotency-key|traceparent|x-itscope-.*|x-relay-.*|authorization"
)

Name = Annotated[str, Field(pattern=_NAME)]


def _text(value: Any) -> Any:
    """Let a number stand where a text is wanted (a password of digits, an X-Company of 100)."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("a header's value must be printable ASCII")
    return value


def _resolved(value: Any, info: ValidationInfo) -> Path:
    """Return a path relative to the file that names it."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("write the path of a file")
    folder = (info.context or {}).get("folder", ".")
    return Path(folder) / value


def _read_secret(value: Any, info: ValidationInfo) -> str:
    path = _resolved(value, info)
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


def _is_loopback(host: str) -> bool:
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


def _http_url(value: str) -> str:
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


def _store_url(value: str, info: ValidationInfo) -> str:
    if not re.fullmatch(r"sqlite:///[^?#]+", value):
        raise ValueError("write sqlite:///PATH, such as sqlite:///relay.db or sqlite:////var/lib/relay.db")
    return f"sqlite:///{_resolved(value.removeprefix('sqlite:///'), info)}"


def _at_least_one(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Checked after the items, so that a wrong item isn't reported as a missing one too."""
    if not values:
        raise ValueError("must have at least one entry")
    return values


Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
Secret = Annotated[SecretStr, BeforeValidator(_text), Field(min_length=1), WithJsonSchema({"type": "string"})]
SecretFile = Annotated[SecretStr, BeforeValidator(_read_secret), WithJsonSchema({"type": "string"})]
FilePath = Annotated[Path, BeforeValidator(_resolved), WithJsonSchema({"type": "string"})]
HeaderName = Annotated[str, Field(pattern=f"^{_TOKEN.pattern}$")]
HeaderValue = Annotated[
    str,
    BeforeValidator(_text),
    AfterValidator(_header_value),
    WithJsonSchema({"type": ["string", "integer"]}),
]


class _Options(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


def _only_one(**given: SecretStr | None) -> str:
    """Return the one value that is given among several ways to give it."""
    values = [value for value in given.values() if value is not None]
    if len(values) != 1:
        raise ValueError(f"give {'one' if not values else 'only one'} of {', '.join(given)}")
    return values[0].get_secret_value()


class Account(_Options):
    """One user name and password that a listener takes."""

    username: Annotated[str, Field(min_length=1, max_length=255, pattern="^[^:]+$")]
    password: Secret | None = None
    password_file: SecretFile | None = None
    password_hash: Annotated[SecretStr, WithJsonSchema({"type": "string"})] | None = None
    """As `itscope-relay hash-password` prints it."""

    @property
    def secret(self) -> str | PasswordHash:
        """The password, or its hash where that is all that was given."""
        secret = _only_one(
            password=self.password, password_file=self.password_file, password_hash=self.password_hash
        )
        return secret if self.password_hash is None else parse_password_hash(secret)

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        _ = self.secret
        return self


class Tls(_Options):
    """A certificate and its key, both PEM; read again when the files change."""

    cert_file: FilePath
    key_file: FilePath

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self.context()
        return self

    def context(self) -> ssl.SSLContext:
        """Return a server's TLS context with the files as they are now.

        Raises:
            ValueError: a file can't be read, or the key isn't the certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert_file, self.key_file, password=_no_passphrase)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or (error.strerror or "not PEM files").lower()
            raise ValueError(f"can't use {self.cert_file} with {self.key_file}: {reason}") from error
        return context


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted with a passphrase, which is not supported")


class Server(_Options):
    """The public listener, where ITscope posts to."""

    listen: Address = "0.0.0.0:8080"
    tls: Tls | None = None
    """Serve HTTPS. Without it, a TLS-terminating proxy must stand in front."""
    max_body: Annotated[Size, Field(le=16 << 20)] = 1 << 20
    """A larger body is answered 413; at most 16MiB."""
    body_timeout: Duration = timedelta(seconds=30)
    """A body that takes longer to arrive is answered 408."""
    idle_timeout: Duration = timedelta(seconds=60)
    """A connection without a complete request head is closed after it."""
    trusted_proxies: tuple[Network, ...] = ()
    """Proxies whose X-Forwarded-For names the client."""
    drain_timeout: Duration = timedelta(seconds=8)
    """On a stop, how long webhooks and deliveries under way may take to finish; the rest is put back."""


class Admin(_Options):
    """The listener for operators and Prometheus; never on the public port."""

    listen: Address = "127.0.0.1:8081"
    auth: tuple[Account, ...] = ()
    """Required when `listen` is not a loopback address."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.auth and not _is_loopback(split_address(self.listen)[0]):
            raise ValueError("auth is required, as listen is not a loopback address")
        return self


class StoreOptions(_Options):
    """Where events and deliveries are kept."""

    url: Annotated[str, AfterValidator(_store_url), Field(validate_default=True)] = "sqlite:///relay.db"
    """`sqlite:///PATH`, relative to the configuration file."""
    retention: Duration = timedelta(days=90)
    """Finished events are deleted when older; nothing else is ever deleted."""

    @property
    def path(self) -> Path:
        """The database file."""
        return Path(self.url.removeprefix("sqlite:///"))


class Source(_Options):
    """One named ingress, with the credentials that its sender uses."""

    path: Annotated[str, AfterValidator(_url_path)] | None = None
    """Default: `/webhooks/<name>`."""
    auth: Annotated[
        tuple[Account, ...], AfterValidator(_at_least_one), Field(json_schema_extra={"minItems": 1})
    ]


class BasicCredentials(_Options):
    """`Authorization: Basic` for a destination."""

    type: Literal["basic"]
    username: Annotated[str, Field(pattern="^[^:]+$")]
    password: Secret | None = None
    password_file: SecretFile | None = None

    @property
    def secret(self) -> str:
        """The password."""
        return _only_one(password=self.password, password_file=self.password_file)

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        _ = self.secret
        return self


class BearerCredentials(_Options):
    """`Authorization: Bearer` for a destination."""

    type: Literal["bearer"]
    token: Secret | None = None
    token_file: SecretFile | None = None

    @property
    def secret(self) -> str:
        """The token."""
        return _only_one(token=self.token, token_file=self.token_file)

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        _header_value(self.secret)
        return self


class HeaderCredentials(_Options):
    """A header of the destination's own choice that carries a secret."""

    type: Literal["header"]
    name: HeaderName
    value: Secret | None = None
    value_file: SecretFile | None = None

    @property
    def secret(self) -> str:
        """The header's value."""
        return _only_one(value=self.value, value_file=self.value_file)

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        _header_value(self.secret)
        return self


class Destination(_Options):
    """One internal system that events are delivered to."""

    url: Annotated[str, AfterValidator(_http_url)]
    method: Literal["POST", "PUT"] = "POST"
    auth: Annotated[
        BasicCredentials | BearerCredentials | HeaderCredentials | None, Field(discriminator="type")
    ] = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    timeout: Duration = timedelta(seconds=30)
    """Of one attempt, from connecting to the status of the answer."""
    concurrency: Annotated[int, Field(strict=True, ge=1, le=1000)] = 8
    """Attempts at the same time."""
    success: Statuses = SUCCESS
    """Statuses that mean delivered; they win over `reject`."""
    reject: Statuses = REJECT
    """Statuses that mean the event will never be taken: dead at once."""
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy | None = None
    """Send nothing for a while to a system that fails again and again. Off by default; `{}` turns it on."""
    order_by: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Field of the payload; deliveries with the same value go one after the other, in order of acceptance."""
    on_dead: Literal["hold", "continue"] = "hold"
    """Of `order_by`: whether a dead delivery holds up those behind it."""
    rate_limit: RateLimit | None = None
    """Attempts in a time, such as `100/min` or `100/min burst 10`."""
    hold: Annotated[tuple[Hold, ...], Field(max_length=50)] = ()
    """Maintenance windows in which nothing is sent, such as `Sun 02:00-05:00 Europe/Berlin`."""

    @model_validator(mode="after")
    def _own_headers_only(self) -> Self:
        names = [*self.headers, *([self.auth.name] if isinstance(self.auth, HeaderCredentials) else [])]
        for name in names:
            if _OWN_HEADERS.fullmatch(name) and not (
                name.lower() == "authorization" and name not in self.headers
            ):
                raise ValueError(f"the header {name} is set by the relay; use another name or auth")
        return self

    @property
    def policy(self) -> DeliveryPolicy:
        """How its answers are read."""
        holds_when_dead = self.order_by is not None and self.on_dead == "hold"
        return DeliveryPolicy(self.success, self.reject, self.retry, holds_when_dead)


class Config(_Options):
    """One whole configuration of the relay."""

    server: Server = Field(default={}, validate_default=True)
    admin: Admin = Field(default={}, validate_default=True)
    store: StoreOptions = Field(default={}, validate_default=True)
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    destinations: Annotated[dict[Name, Destination], Field(min_length=1)]
    routes: Annotated[
        tuple[Route, ...], AfterValidator(_at_least_one), Field(json_schema_extra={"minItems": 1})
    ]

    @property
    def paths(self) -> dict[str, str]:
        """The URL path of each source: path to name."""
        return {source.path or f"/webhooks/{name}": name for name, source in self.sources.items()}


def named(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Return the routes, each with a name: its own, or its place in the file."""
    return tuple(
        route if route.name else replace(route, name=f"routes[{index}]") for index, route in enumerate(routes)
    )


class _AsWritten(GenerateJsonSchema):
    """Writes defaults as a person would write them into the file."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case timedelta():
                return format_duration(dft.total_seconds())
            case frozenset() if dft == SUCCESS:
                return ["2xx"]
            case frozenset():
                return sorted(dft)
            case RetryPolicy():
                return {option.name: self.encode_default(getattr(dft, option.name)) for option in fields(dft)}
            case _:
                return super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file, for editors and for checks outside."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(schema_generator=_AsWritten),
    }
