"""The command that moves a relay's store from the one kind to the other: `migrate-store`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from relay.cli.options import fail, is_text, json_option
from relay.cli.printing import table
from relay.errors import RelayError

if TYPE_CHECKING:
    from relay.config import StoreOptions
    from relay.store.moving import Moved, Progress

_IN_CONFIGURATION = "write it under store.password"
_HERE = "use --password-file, PGPASSWORD or PGPASSFILE"


@click.command("migrate-store")
@click.option("--from", "source", required=True, metavar="URL", help="The SQLite file: sqlite:///relay.db")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="URL",
    help="The PostgreSQL database, without a password: postgresql://USER@HOST/DATABASE",
)
@click.option(
    "--password-file",
    metavar="FILE",
    help="Holds the PostgreSQL user's password. Or set PGPASSWORD, or PGPASSFILE.",
)
@json_option
def migrate_store(source: str, target: str, password_file: str | None, *, as_json: bool) -> None:
    """Move all that a relay has stored from its SQLite file into an empty PostgreSQL database.

    Stop the relay before. All of it is copied, read again and compared in one transaction: it is there
    completely, or not at all. So this can be repeated, and ends in the same state; where all is there
    already, it is only compared. The file stays as it is, but is brought up to date where it is of an older
    version.

    A database that holds something else is refused, exit 1. A password is taken from --password-file, or from
    the environment variables PGPASSWORD or PGPASSFILE; never from a URL, which others can see.

    \b
    Examples:
      itscope-relay migrate-store --from sqlite:///relay.db --to postgresql://relay@db.example.internal/relay
      itscope-relay migrate-store --from sqlite:////var/lib/itscope-relay/relay.db \\
        --to 'postgresql://relay@db.example.internal/relay?sslmode=verify-full' \\
        --password-file /etc/itscope-relay/secrets/database
    """
    from relay.cli.running import run

    file = _options("--from", source)
    if file.is_postgres:
        raise click.BadParameter("only a SQLite file can be moved: sqlite:///PATH", param_hint="--from")
    database = _options("--to", target, password_file)
    if not database.is_postgres:
        raise click.BadParameter("it can only be moved to postgresql://USER@HOST/DATABASE", param_hint="--to")
    try:
        from relay.store.moving import move
    except ImportError:
        fail("PostgreSQL needs the package's extra: itscope-relay[postgres]")
    try:
        with _progress() as progress:
            moved = run(move(file.path, database.conninfo(), progress))
    except RelayError as error:
        fail(str(error))
    _print(moved, as_json=as_json)


def _options(option: str, url: str, password_file: str | None = None) -> StoreOptions:
    """Return a store as the configuration would name it; paths are relative to the present folder."""
    from pydantic import ValidationError

    from relay.config import StoreOptions

    if not is_text(url):
        raise click.BadParameter("is not UTF-8 text", param_hint=option)
    given = {} if password_file is None else {"password_file": password_file}
    try:
        return StoreOptions.model_validate({"url": url, **given}, context={"folder": "."})
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_input=False)
        why = str(first.get("ctx", {}).get("error", first["msg"])).replace(_IN_CONFIGURATION, _HERE)
        about = "--password-file" if first["loc"] == ("password_file",) else option
        raise click.BadParameter(why, param_hint=about) from None  # the cause quotes what was given


@contextlib.contextmanager
def _progress() -> Iterator[Progress | None]:
    """Show on a terminal how far it is, on a line that is empty afterwards."""

    def show(doing: str, name: str, done: int, total: int) -> None:
        click.echo(f"\r\x1b[K{doing} {name}: {done} of {total} ", nl=False, err=True)

    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _print(moved: Moved, *, as_json: bool) -> None:
    if as_json:
        tables = {name: asdict(contents) for name, contents in moved.tables.items()}
        click.echo(json.dumps({"moved": moved.anew, "tables": tables}))
        return
    rows = [(name, contents.rows, contents.sha256) for name, contents in moved.tables.items()]
    click.echo(table(("TABLE", "ROWS", "SHA-256"), rows))
    click.echo(
        "all of it was moved and compared; have store.url name the database now"
        if moved.anew
        else "all of it was there already, and is the same; nothing was changed"
    )
