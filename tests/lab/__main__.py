"""`python -m tests.lab`: kill relays under load and compare what was acknowledged with what arrived."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import click

from tests.lab.command import report_of, seed_option
from tests.lab.laboratory import Plan, run
from tests.lab.series import Terms
from tests.lab.webhook import ORDER_FIELD


@click.command()
@click.option("--kills", type=click.IntRange(1), default=1000, show_default=True)
@seed_option
@click.option("--side-by-side", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--order/--no-order", default=True, help="Whether one destination has order_by.")
@click.option("--ack-before-commit", is_flag=True, help="Sabotage: shows that a loss is found.")
def main(kills: int, seed: int, side_by_side: int, *, order: bool, ack_before_commit: bool) -> None:
    """Kill relays with SIGKILL under load, and compare what was acknowledged with what arrived.

    Exit 1 if anything was lost, out of order, or repeated more often than the kills explain.
    """
    terms = Terms(order_by=ORDER_FIELD if order else None, postpones_commits=ack_before_commit)
    folder = Path(mkdtemp(prefix="itscope-relay-crash-"))
    click.echo(f"seed {seed}, stores and logs in {folder}")
    report_of(lambda say: run(Plan(kills, seed, side_by_side, terms), folder, say))
    folder.rmdir()


if __name__ == "__main__":
    main()
