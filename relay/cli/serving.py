"""Commands on the machine of the relay: `serve` and `backup`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from relay.cli.options import config_option, fail, json_option, loaded
from relay.cli.printing import number_of, size
from relay.errors import RelayError

# How long the interpreter lets one thread run while another waits. The default of 5 ms is what each statement
# of the store's thread would wait for a busy event loop.
_SWITCH_INTERVAL_SECONDS = 0.0001


@click.command()
@config_option
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="debug shows every accepted event and every delivery.",
)
def serve(config_path: Path, log_format: str, log_level: str) -> None:
    """Run the relay.

    SIGTERM and SIGINT drain: no new webhooks, deliveries under way finish or are put back, exit 0 within
    server.drain_timeout and a few seconds. SIGHUP reads the configuration again.

    \b
    Example:
      itscope-relay serve -c /etc/itscope-relay/config.yaml --log-format text
    """
    from relay import logs
    from relay.cli.running import run, serve_until_stopped

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    config = loaded(config_path)
    listener = logs.start(log_format, log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    try:
        try:
            run(serve_until_stopped(config_path, config))
        finally:
            listener.stop()  # so that the reason comes last
    except RelayError as error:
        fail(str(error))


@click.command()
@config_option
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@json_option
def backup(config_path: Path, file: Path, *, force: bool, as_json: bool) -> None:
    """Copy the database into FILE while the relay runs.

    FILE is one consistent database, checked, and readable for its owner alone. It is there complete or not at
    all. The relay isn't held up.

    \b
    Example:
      itscope-relay backup -c /etc/itscope-relay/config.yaml /var/backups/itscope-relay/monday.db
    """
    from relay.store.sqlite_backup import back_up

    options = loaded(config_path).store
    if options.is_postgres:
        fail("backup copies SQLite files; back up PostgreSQL with its own tools, such as pg_dump")
    store = options.path
    terminal = sys.stderr.isatty()

    def show(written: int) -> None:
        click.echo(f"\r{size(written)} written ", nl=False, err=True)

    try:
        with _signals_as_errors():
            made = back_up(store, file, replace=force, progress=show if terminal else None)
    except RelayError as error:
        fail(f"\n{error}" if terminal else str(error))
    if terminal:
        click.echo("\r", nl=False, err=True)
    if as_json:
        click.echo(json.dumps({"file": str(file), "bytes": made.bytes, "events": made.events}))
    else:
        click.echo(f"{file}: {number_of(made.events, 'event')}, {size(made.bytes)}")


@contextlib.contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is done here with an error, so that it cleans up after itself.

    SIGHUP that is ignored, as under nohup, stays so.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for caught in before:
            signal.signal(caught, signal.SIG_IGN)  # one is enough
        raise RelayError(f"ended by {signal.Signals(number).name}")

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
