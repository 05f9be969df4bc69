"""What the commands of the laboratories share: the seed, how a run ends, and what is said of it."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import click

from tests.lab.report import Report

Say = Callable[[str], None]


def _drawn(_context: click.Context, _parameter: click.Parameter, given: int | None) -> int:
    return random.SystemRandom().randrange(1 << 32) if given is None else given


seed_option = click.option(
    "--seed", type=int, callback=_drawn, help="Of all chances; default: another one each time."
)


def report_of(run: Callable[[Say], Coroutine[Any, Any, Report]]) -> None:
    """Run, say how far it is, and print the report; exit 1 if there are faults."""
    started = time.monotonic()

    def say(progress: str) -> None:
        click.echo(f"{time.monotonic() - started:6.0f} s  {progress}")

    try:
        report = asyncio.run(_stoppable(run, say))
    except asyncio.CancelledError:
        sys.exit("stopped")
    except TimeoutError:
        sys.exit("it hangs: the run took far too long")
    click.echo(report.text())
    if report.faults:
        sys.exit(1)


async def _stoppable(run: Callable[[Say], Coroutine[Any, Any, Report]], say: Say) -> Report:
    """Run, and end all that was started also when asked to stop."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(say)
