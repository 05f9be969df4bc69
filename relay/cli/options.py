"""What commands share: options for the configuration, the running relay and a search; how they fail."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from relay.cli.printing import printable, printable_lines
from relay.errors import ConfigError, RelayError

if TYPE_CHECKING:
    from relay.config import Config

Command = Callable[..., None]


def text(value: str) -> str:
    """Return a text that was given for an option, if the relay can take it."""
    if not value:
        raise click.BadParameter("must not be empty")
    if not is_text(value):
        raise click.BadParameter("is not UTF-8 text")
    return value


def when(value: str) -> str:
    """Return an instant or a duration as it is written; the relay is stricter about instants."""
    from datetime import datetime

    from relay.units import parse_duration

    try:
        if datetime.fromisoformat(text(value).upper()).tzinfo is not None:
            return value
    except ValueError:
        pass  # then it is a duration
    try:
        parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(
            "write an instant such as 2026-11-22T11:01:36Z, or a duration before now such as 7d"
        ) from error
    return value


_BAD_REQUEST = 400
# The API's. They are written here once more since reading them from there would slow down every command.
_STATES = ("pending", "in_flight", "delivered", "dead", "discarded", "unrouted")
_FILTER = {
    "id": click.option("--id", type=text, help="Any id: of the event, order, document or transaction."),
    "type": click.option("--type", type=text, help="The eventType, such as INVOICE."),
    "status": click.option("--status", type=text, help="The transactionStatus, such as CANCELLED."),
    "source": click.option("--source", type=text, help="The source it came from."),
    "since": click.option(
        "--since", type=when, help="Not before: 7d, 30m (so long ago), 2026-11-22T08:00:00Z."
    ),
    "until": click.option("--until", type=when, help="Before that."),
    "state": click.option(
        "--state", type=click.Choice(_STATES), help="With a delivery in it; unrouted: with none."
    ),
    "destination": click.option("--destination", type=text, help="With a delivery to it."),
}

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    envvar="ITSCOPE_RELAY_CONFIG",
    default="config.yaml",
    show_default=True,
    show_envvar=True,
    type=click.Path(path_type=Path, readable=False),  # reading it tells more
    help="A configuration file, or a folder whose *.yaml make one.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For scripts: one JSON document.")


def fail(message: str) -> NoReturn:
    """End with what is wrong: exit code 1."""
    click.echo(printable_lines(message), err=True)
    sys.exit(1)


def loaded(path: Path) -> Config:
    """Return the configuration, or end with every problem it has."""
    from relay.config import load

    try:
        return load(path, os.environ)
    except ConfigError as error:
        fail(str(error))


def login(user: str | None) -> tuple[str, str] | None:
    """Return the name and password of NAME:PASSWORD; ask for a missing password."""
    if user is None:
        return None
    name, colon, password = user.partition(":")
    if not colon:
        password = click.prompt(f"Password of {name}", hide_input=True, err=True)
    if not is_text(name + password):
        raise click.BadParameter("is not UTF-8 text", param_hint="--user")
    return name, password


def is_text(value: str) -> bool:
    """Tell whether an argument came as UTF-8; bytes that were none can't be sent as text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_text(context: click.Context) -> None:
    """Refuse what was given to a command and isn't UTF-8, but names of files."""
    for parameter in context.command.params:
        given = context.params.get(parameter.name or "")
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, str) and not is_text(value):
                raise click.BadParameter("is not UTF-8 text", ctx=context, param=parameter)


def with_relay(command: Command) -> Command:
    """Add --url and --user to a command, and give it a client of the running relay, as `relay`, for them."""

    @click.option(
        "--url",
        envvar="ITSCOPE_RELAY_ADMIN_URL",
        default="http://127.0.0.1:8081",
        show_default=True,
        show_envvar=True,
        help="Where the relay's admin listener is.",
    )
    @click.option(
        "--user",
        envvar="ITSCOPE_RELAY_ADMIN_USER",
        show_envvar=True,
        metavar="NAME[:PASSWORD]",
        help="A login of admin.auth; asks for a missing password.",
    )
    @functools.wraps(command)
    def connected(url: str, user: str | None, **options: Any) -> None:
        from relay.client import Client, RefusedError

        _require_text(click.get_current_context())
        if not re.match(r"https?://[^/]", url):
            raise click.BadParameter("must be http:// or https:// and an address", param_hint="--url")
        try:
            client = Client(url, login(user))
        except RelayError as error:
            raise click.BadParameter(printable(str(error)), param_hint="--url") from error
        try:
            with client as relay:
                command(relay=relay, **options)
        except RelayError as error:
            if isinstance(error, RefusedError) and error.status == _BAD_REQUEST:
                raise click.UsageError(printable(str(error))) from error
            fail(str(error))

    return connected


def with_filter(command: Command) -> Command:
    """Add the options that say which events or deliveries are meant; the command gets them as `wanted`."""

    @functools.wraps(command)
    def filtered(**options: Any) -> None:
        given = {name: options.pop(name) for name in _FILTER}
        command(wanted={name: value for name, value in given.items() if value is not None}, **options)

    for option in reversed(_FILTER.values()):  # as decorators, the first on top
        filtered = option(filtered)
    return filtered


def limit_option(default: int) -> Callable[[Command], Command]:
    """Return an option that bounds a list."""
    return click.option(
        "--limit",
        type=click.IntRange(1, 100_000),
        default=default,
        show_default=True,
        help="How many at most.",
    )
