"""What may be said under `notify`: who is told, and of what."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from relay.config.options import Options, only_one
from relay.config.values import (
    Address,
    HttpUrl,
    Secret,
    SecretFile,
    at_least_one,
    http_url,
    is_loopback,
    split_address,
)
from relay.hold import Hold, elapses_at
from relay.units import Duration

_MAIL_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9][A-Za-z0-9.-]{0,250}")
_SOME_DAY = 1_800_000_000.0  # any would do: the hours of a week repeat


def _mail_address(value: str) -> str:
    if not _MAIL_ADDRESS.fullmatch(value):
        raise ValueError("write a mail address alone, such as it@example.com")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("must be a text of one line")
    return value


MailAddress = Annotated[str, AfterValidator(_mail_address)]


class NotifyWebhook(Options):
    """A channel of a chat, by its incoming webhook."""

    url: Secret | None = None
    """A secret: whoever has it can write there."""
    url_file: SecretFile | None = None
    format: Literal["teams", "slack", "mattermost"]

    @property
    def secret(self) -> str:
        """The URL."""
        return only_one(url=self.url, url_file=self.url_file)

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        secret = self.secret
        try:
            http_url(secret)
        except ValueError as error:
            raise ValueError("url must be a full http or https URL, as the chat gave it") from error
        return self


class NotifyEmail(Options):
    """Mail, by one SMTP server."""

    smtp: Address
    """Host and port, such as `smtp.example.com:587`."""
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    """`starttls` is usual on port 587, `implicit` on 465."""
    username: Annotated[str, Field(min_length=1)] | None = None
    password: Secret | None = None
    password_file: SecretFile | None = None
    from_: Annotated[MailAddress, Field(alias="from")]
    to: Annotated[
        tuple[MailAddress, ...], AfterValidator(at_least_one), Field(json_schema_extra={"minItems": 1})
    ]

    @property
    def login(self) -> tuple[str, str] | None:
        """Name and password, None where the server wants none."""
        if self.username is None:
            return None
        return self.username, only_one(password=self.password, password_file=self.password_file)

    @model_validator(mode="after")
    def _login_fits(self) -> Self:
        if self.login is None and (self.password or self.password_file):
            raise ValueError("a password needs a username")
        if self.login is not None and self.tls == "none" and not is_loopback(split_address(self.smtp)[0]):
            raise ValueError("a password must not be sent without TLS; set tls to starttls or implicit")
        return self


class Silence(Options):
    """When a source has been silent for too long."""

    after: Duration = timedelta(hours=4)
    """Time without an event, of which only what lies within `hours` counts."""
    hours: Annotated[tuple[Hold, ...], Field(max_length=10)] = ()
    """In which events are expected, such as `Mon-Fri 08:00-18:00 Europe/Berlin`; default: always."""

    @model_validator(mode="after")
    def _comes_true(self) -> Self:
        if elapses_at(self.hours, _SOME_DAY, self.after.total_seconds()) is None:
            raise ValueError("in so few hours, so much time doesn't pass within five weeks")
        return self


class NotifyWhen(Options):
    """What is worth a message."""

    dead: bool = True
    """A delivery is dead."""
    overdue: Duration | None = timedelta(minutes=30)
    """An event has been waiting for so long; times in which nothing is to be sent don't count."""
    breaker: Duration | None = timedelta(minutes=15)
    """A breaker has been open for so long."""
    silent: Silence | None = None
    """A source sends nothing. Off by default; `{}` turns it on."""


class Notify(Options):
    """Messages for people, where nobody watches the metrics."""

    name: Annotated[str, Field(max_length=64), AfterValidator(_one_line)] = "itscope-relay"
    """What the relay calls itself in them."""
    webhooks: Annotated[tuple[NotifyWebhook, ...], Field(max_length=20)] = ()
    email: NotifyEmail | None = None
    when: NotifyWhen = Field(default={}, validate_default=True)
    link: HttpUrl | None = None
    """Stands in every message, such as the address of the operator's pages."""

    @model_validator(mode="after")
    def _someone_is_told(self) -> Self:
        if not self.webhooks and self.email is None:
            raise ValueError("give webhooks or email, or nobody is told")
        return self
