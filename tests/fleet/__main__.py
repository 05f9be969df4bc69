"""`python -m tests.fleet`: kill replicas and their PostgreSQL under load, and compare as `tests.lab` does."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import click

from tests.fleet.database import Restart
from tests.fleet.laboratory import Laboratory, Plan
from tests.fleet.report import FleetReport


@click.command()
@click.option("--replicas", type=click.IntRange(1, 8), default=2, show_default=True)
@click.option("--kills", type=click.IntRange(0), default=50, show_default=True)
@click.option("--database-restarts", type=click.IntRange(0), default=5, show_default=True)
@click.option("--pauses", type=click.IntRange(0), default=0, show_default=True, help="Longer than a lease.")
@click.option("--seed", type=int, help="Of all chances; default: another one each time.")
@click.option("--fsync/--no-fsync", default=False, help="Whether PostgreSQL waits for the disk.")
def main(
    replicas: int, kills: int, database_restarts: int, pauses: int, seed: int | None, *, fsync: bool
) -> None:
    """Kill replicas on one PostgreSQL under load, and compare what was acknowledged with what arrived.

    Exit 1 if anything was lost, out of order, or repeated more often than the kills explain.
    """
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    restarts = list(itertools.islice(itertools.cycle([Restart.FAST, Restart.IMMEDIATE]), database_restarts))
    folder = Path(mkdtemp(prefix="itscope-relay-fleet-"))
    click.echo(f"seed {seed}, logs in {folder}")
    started = time.monotonic()

    def say(progress: str) -> None:
        click.echo(f"{time.monotonic() - started:6.0f} s  {progress}")

    try:
        report = asyncio.run(_run(Plan(replicas, kills, restarts, pauses, seed, fsync), folder, say))
    except asyncio.CancelledError:
        sys.exit("stopped")
    except TimeoutError:
        sys.exit("it hangs: the run took far too long")
    click.echo(report.text())
    if report.faults:
        sys.exit(1)
    shutil.rmtree(folder)


async def _run(plan: Plan, folder: Path, say: Callable[[str], None]) -> FleetReport:
    """Run, and end all that was started also when asked to stop."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await Laboratory(plan, folder, say).run()


if __name__ == "__main__":
    main()
