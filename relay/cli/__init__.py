"""The command line: one function a command. What they do is done elsewhere; here it is read and printed.

The commands stand in the modules of this package, by who uses them. What a command alone needs it imports
itself, so that each starts as fast as it can.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import NoReturn

import click

from relay import __version__
from relay.cli import configuring, looking, moving, playing, quarantine, repair, routing, serving

__all__ = ["cli", "main"]

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main() -> None:
    """Run the command `itscope-relay`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # there is none where it was closed
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(windows_expand_args=False)
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        _end_unprinted(error)


def _end_unprinted(error: OSError) -> NoReturn:
    """End, exit code 1, where what a command prints can't be written."""
    with contextlib.suppress(OSError):
        click.echo(f"can't write the output: {(error.strerror or 'error').lower()}", err=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # or what is still in the buffers would fail again at the very end
        os.dup2(nowhere, descriptor)
    sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="itscope-relay")
def cli() -> None:
    """Accepts each ITscope webhook once and delivers it to every internal system that wants it.

    \b
    First steps:
      itscope-relay demo                          see it work, without any configuration
      itscope-relay check -c config.yaml          is my configuration right?
      itscope-relay serve -c config.yaml          run it
    \b
    With a running relay:
      itscope-relay events                        what came, and what became of it
      itscope-relay destinations                  who takes what, and who doesn't
      itscope-relay replay --help                 deliver again what went wrong
    """


for _command in (
    *(serving.serve, serving.backup, moving.migrate_store),
    *(configuring.check, configuring.notify_test, configuring.hash_password_command, configuring.schema),
    *(routing.route, routing.test_routes, routing.diff_routes),
    *(looking.events, looking.event, looking.deliveries, looking.destinations, looking.changes),
    *(repair.replay, repair.discard, repair.skip, repair.pause, repair.resume),
    quarantine.quarantine,
    *(playing.send, playing.demo_command),
):
    cli.add_command(_command)
