"""The command line: one function a command. What they do is done elsewhere; here it is read and printed.

The commands stand in the modules of this package, by who uses them. What a command alone needs it imports
itself, so that each starts as fast as it can.
"""

from __future__ import annotations

import click

from relay import __version__
from relay.cli import configuring, looking, playing, quarantine, repair, routing, serving

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command `itscope-relay`."""
    cli(windows_expand_args=False)


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
    *(serving.serve, serving.backup),
    *(configuring.check, configuring.hash_password_command, configuring.schema),
    *(routing.route, routing.test_routes, routing.diff_routes),
    *(looking.events, looking.event, looking.deliveries, looking.destinations, looking.changes),
    *(repair.replay, repair.discard, repair.skip, repair.pause, repair.resume),
    quarantine.quarantine,
    *(playing.send, playing.demo_command),
):
    cli.add_command(_command)
