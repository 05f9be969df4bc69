"""`python -m tests.fleet`: kill replicas and their PostgreSQL under load, and compare as `tests.lab` does."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from tempfile import mkdtemp

import click

from tests.fleet.database import Restart
from tests.fleet.laboratory import Laboratory, Plan
from tests.lab.command import report_of, seed_option


@click.command()
@click.option("--replicas", type=click.IntRange(1, 8), default=2, show_default=True)
@click.option("--kills", type=click.IntRange(0), default=50, show_default=True)
@click.option("--database-restarts", type=click.IntRange(0), default=5, show_default=True)
@click.option("--pauses", type=click.IntRange(0), default=0, show_default=True, help="Longer than a lease.")
@seed_option
@click.option("--fsync/--no-fsync", default=False, help="Whether PostgreSQL waits for the disk.")
def main(replicas: int, kills: int, database_restarts: int, pauses: int, seed: int, *, fsync: bool) -> None:
    """Kill replicas on one PostgreSQL under load, and compare what was acknowledged with what arrived.

    Exit 1 if anything was lost, out of order, or repeated more often than the kills explain.
    """
    restarts = list(itertools.islice(itertools.cycle([Restart.FAST, Restart.IMMEDIATE]), database_restarts))
    folder = Path(mkdtemp(prefix="itscope-relay-fleet-"))
    click.echo(f"seed {seed}, logs in {folder}")
    plan = Plan(replicas, kills, restarts, pauses, seed, fsync)
    report_of(lambda say: Laboratory(plan, folder, say).run())
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
