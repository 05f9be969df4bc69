"""What a configuration may say, and every default. Pydantic checks it and writes the JSON Schema.

The types of retrying, routing, breakers, rates and windows are those of their own modules: nothing is
declared twice. What a single value may be is left to `values` and `store_url`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema

from relay.breaker import BreakerPolicy
from relay.config.notify import Notify
from relay.config.options import Options, only_one
from relay.config.store_url import is_postgres, sqlite_path, store_url, with_password
from relay.config.values import (
    Address,
    FilePath,
    HeaderName,
    HeaderValue,
    HttpUrl,
    Name,
    Network,
    PlainHeaderName,
    Secret,
    SecretFile,
    UrlPath,
    at_least_one,
    header_value,
    is_loopback,
    split_address,
)
from relay.hold import Hold
from relay.pace import RateLimit
from relay.passwords import PasswordHash, parse_password_hash
from relay.retry import REJECT, SUCCESS, DeliveryPolicy, RetryPolicy
from relay.routing import Route
from relay.units import Duration, Size, Statuses, format_duration


class Account(Options):
    """One user name and password that a listener takes."""

    username: Annotated[str, Field(min_length=1, max_length=255, pattern="^[^:]+$")]
    password: Secret | None = None
    password_file: SecretFile | None = None
    password_hash: Annotated[SecretStr, WithJsonSchema({"type": "string"})] | None = None
    """As `itscope-relay hash-password` prints it."""

    @property
    def secret(self) -> str | PasswordHash:
        """The password, or its hash where that is all that was given."""
        secret = only_one(
            password=self.password, password_file=self.password_file, password_hash=self.password_hash
        )
        return secret if self.password_hash is None else parse_password_hash(secret)

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        _ = self.secret
        return self


Role = Literal["operator", "viewer"]


class AdminAccount(Account):
    """One user name and password for the admin listener, and what may be done with them."""

    role: Role = "operator"
    """A `viewer` may look at everything, and change nothing."""


class Tls(Options):
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


class Server(Options):
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


class Admin(Options):
    """The listener for operators and Prometheus; never on the public port."""

    listen: Address = "127.0.0.1:8081"
    auth: tuple[AdminAccount, ...] = ()
    """Required when `listen` is not a loopback address."""

    @property
    def roles(self) -> dict[str, Role]:
        """The role of each user name."""
        return {account.username: account.role for account in self.auth}

    @model_validator(mode="after")
    def _one_role_each(self) -> Self:
        for account in self.auth:
            if account.role != self.roles[account.username]:
                raise ValueError(f"auth: {account.username} has two roles; give its accounts the same")
        return self

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.auth and not is_loopback(split_address(self.listen)[0]):
            raise ValueError("auth is required, as listen is not a loopback address")
        return self


class StoreOptions(Options):
    """Where events and deliveries are kept."""

    url: Annotated[str, AfterValidator(store_url), Field(validate_default=True)] = "sqlite:///relay.db"
    """`sqlite:///PATH`, relative to the configuration file; or `postgresql://USER@HOST/DATABASE`."""
    password: Secret | None = None
    """Of the PostgreSQL user."""
    password_file: SecretFile | None = None
    retention: Duration = timedelta(days=90)
    """Finished events are deleted when older; nothing else is ever deleted."""

    @model_validator(mode="after")
    def _password_fits(self) -> Self:
        if self._has_password and not self.is_postgres:
            raise ValueError("a password is for postgresql://; a SQLite file has none")
        if self.is_postgres:
            self.conninfo()
        return self

    @property
    def _has_password(self) -> bool:
        return self.password is not None or self.password_file is not None

    @property
    def is_postgres(self) -> bool:
        """Whether it is a PostgreSQL database, which several relays may share; else it is a SQLite file."""
        return is_postgres(self.url)

    @property
    def path(self) -> Path:
        """The SQLite file.

        Raises:
            ValueError: there is none, as it is a PostgreSQL database.
        """
        return Path(sqlite_path(self.url))

    def conninfo(self) -> str:
        """Return what libpq connects to a PostgreSQL database by; it has the password, so never show it.

        Without a password here, libpq looks for one itself, in PGPASSWORD and in a password file.
        """
        if not self._has_password:
            return self.url
        return with_password(self.url, only_one(password=self.password, password_file=self.password_file))


class Source(Options):
    """One named ingress, with the credentials that its sender uses."""

    path: UrlPath | None = None
    """Default: `/webhooks/<name>`."""
    auth: Annotated[
        tuple[Account, ...], AfterValidator(at_least_one), Field(json_schema_extra={"minItems": 1})
    ]


class BasicCredentials(Options):
    """`Authorization: Basic` for a destination."""

    type: Literal["basic"]
    username: Annotated[str, Field(pattern="^[^:]+$")]
    password: Secret | None = None
    password_file: SecretFile | None = None

    @property
    def secret(self) -> str:
        """The password."""
        return only_one(password=self.password, password_file=self.password_file)

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        _ = self.secret
        return self


class BearerCredentials(Options):
    """`Authorization: Bearer` for a destination."""

    type: Literal["bearer"]
    token: Secret | None = None
    token_file: SecretFile | None = None

    @property
    def secret(self) -> str:
        """The token."""
        return only_one(token=self.token, token_file=self.token_file)

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        header_value(self.secret)
        return self


class HeaderCredentials(Options):
    """A header of the destination's own choice that carries a secret."""

    type: Literal["header"]
    name: HeaderName
    value: Secret | None = None
    value_file: SecretFile | None = None

    @property
    def secret(self) -> str:
        """The header's value."""
        return only_one(value=self.value, value_file=self.value_file)

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        header_value(self.secret)
        return self


class Destination(Options):
    """One internal system that events are delivered to."""

    url: HttpUrl
    method: Literal["POST", "PUT"] = "POST"
    auth: Annotated[
        BasicCredentials | BearerCredentials | HeaderCredentials | None, Field(discriminator="type")
    ] = None
    headers: dict[PlainHeaderName, HeaderValue] = Field(default_factory=dict)
    timeout: Duration = timedelta(seconds=30)
    """Of one attempt, from connecting to the status of the answer."""
    concurrency: Annotated[int, Field(strict=True, ge=1, le=1000)] = 8
    """Attempts at the same time."""
    success: Annotated[Statuses, AfterValidator(at_least_one)] = SUCCESS
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

    @property
    def policy(self) -> DeliveryPolicy:
        """How its answers are read."""
        holds_when_dead = self.order_by is not None and self.on_dead == "hold"
        return DeliveryPolicy(self.success, self.reject, self.retry, holds_when_dead)


class Config(Options):
    """One whole configuration of the relay."""

    server: Server = Field(default={}, validate_default=True)
    admin: Admin = Field(default={}, validate_default=True)
    store: StoreOptions = Field(default={}, validate_default=True)
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    destinations: Annotated[dict[Name, Destination], Field(min_length=1)]
    routes: Annotated[
        tuple[Route, ...], AfterValidator(at_least_one), Field(json_schema_extra={"minItems": 1})
    ]
    notify: Notify | None = None

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
