"""Commands for whoever writes a configuration: `check`, `notify-test`, `hash-password`, `schema`."""

from __future__ import annotations

import difflib
import json
import secrets
import sys
from pathlib import Path

import click

from relay.cli.options import config_option, fail, loaded
from relay.cli.printing import number_of


@click.command()
@config_option
def check(config_path: Path) -> None:
    """Validate a configuration: exit 0, or 1 with every problem and its place.

    \b
    Examples:
      itscope-relay check -c config.yaml
      itscope-relay check -c /etc/itscope-relay/conf.d/     a folder: all its *.yaml
    """
    config = loaded(config_path)
    for rule in config.routes:
        for field in (*rule.match, *rule.except_):
            if meant := _meant_field(field):
                click.echo(f"{config_path}: warning: {rule.name}: {field}: did you mean {meant}?", err=True)
    click.echo(
        f"{config_path}: OK: {number_of(len(config.sources), 'source')},"
        f" {number_of(len(config.destinations), 'destination')}, {number_of(len(config.routes), 'route')}"
    )


@click.command("notify-test")
@config_option
def notify_test(config_path: Path) -> None:
    """Send a test message to everybody that `notify` names, and say what came of it.

    Exit 1 if one could not be sent. The relay needn't run.

    \b
    Example:
      itscope-relay notify-test -c config.yaml
    """
    import time

    from relay.cli.running import run
    from relay.notify import NotSentError, channels_of, send, trial

    options = loaded(config_path).notify
    if options is None:
        fail(f"{config_path}: there is no notify, so nobody is told of anything")
    message = trial(options.name, options.link, time.time())
    failed = False
    for channel in channels_of(options):
        try:
            run(send(channel, message))
            click.echo(f"{channel.label}: sent")
        except NotSentError as error:
            failed = True
            click.echo(f"{channel.label}: not sent: {error}", err=True)
    if failed:
        sys.exit(1)


def _meant_field(field: str) -> str | None:
    """Return the field of ITscope that another, similar one was probably meant to be."""
    from relay import samples
    from relay.payload import parse
    from relay.routing import SOURCE_FIELD

    known = {name.lower(): name for name in (*parse(samples.DOCUMENTED_SAMPLE), SOURCE_FIELD)}
    close = difflib.get_close_matches(field.lower(), known, n=1, cutoff=0.8)
    return known[close[0]] if close and field not in known.values() else None


@click.command("hash-password")
def hash_password_command() -> None:
    """Print the hash of a password, for password_hash in the configuration.

    Asks for the password, or reads one line where standard input is not a terminal.

    \b
    Example:
      pwgen 32 1 | tee webhook-password | itscope-relay hash-password
    """
    from relay.passwords import SALT_BYTES, hash_password

    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        try:
            password = sys.stdin.buffer.readline().decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise click.UsageError("the password is not UTF-8 text") from error
    if not password:
        raise click.UsageError("the password is empty")
    click.echo(str(hash_password(password, secrets.token_bytes(SALT_BYTES))))


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    \b
    Example:
      itscope-relay schema > config.schema.json
      and as the first line of config.yaml:
      # yaml-language-server: $schema=config.schema.json
    """
    from relay.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
