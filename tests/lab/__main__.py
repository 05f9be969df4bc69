"""`python -m tests.lab`: kill relays under load and compare what was acknowledged with what arrived."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import click

from tests.lab.laboratory import Plan, run
from tests.lab.report import Report
from tests.lab.series import Terms
from tests.lab.webhook import ORDER_FIELD


@click.command()
@click.option("--kills", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seed", type=int, help="Of all chances; default: another one each time.")
@click.option("--side-by-side", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--order/--no-order", default=True, help="Whether one destination has order_by.")
@click.option("--ack-before-commit", is_flag=True, help="Sabotage: shows that a loss is found.")
def main(kills: int, seed: int | None, side_by_side: int, *, order: bool, ack_before_commit: bool) -> None:
    """Kill relays with SIGKILL under load, and compare what was acknowledged with what arrived.

    Exit 1 if anything was lost, out of order, or repeated more often than the kills explain.
    """
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    terms = Terms(order_by=ORDER_FIELD if order else None, postpones_commits=ack_before_commit)
    folder = Path(mkdtemp(prefix="itscope-relay-crash-"))
    click.echo(f"seed {seed}, stores and logs in {folder}")
    started = time.monotonic()

    def say(progress: str) -> None:
        click.echo(f"{time.monotonic() - started:6.0f} s  {progress}")

    try:
        report = asyncio.run(_run(Plan(kills, seed, side_by_side, terms), folder, say))
    except asyncio.CancelledError:
        sys.exit("stopped")
    except TimeoutError:
        sys.exit("it hangs: the run took far too long")
    click.echo(report.text())
    if report.faults:
        sys.exit(1)
    folder.rmdir()


async def _run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Report:
    """Run, and end all that was started also when asked to stop."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(plan, folder, say)


if __name__ == "__main__":
    main()
