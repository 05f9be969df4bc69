"""A whole run: deals the points to a few series side by side, and adds up what they report."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.points import IN_COMMITS, Point, deck
from tests.lab.report import Report
from tests.lab.series import DRAIN_SECONDS, Series, Terms

ROUNDS = 40  # of a series: afterwards a new store begins
SAID_EVERY = 25  # kills
SECONDS_A_KILL = 5.0  # a bound for a run that hangs


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        kills: how many.
        seed: of all chances; the moments depend on the machine, too.
        side_by_side: how many relays are killed at a time.
        terms: of every series.
    """

    kills: int
    seed: int
    side_by_side: int
    terms: Terms

    @property
    def points(self) -> list[Point]:
        """Where to kill; a relay that postpones its commits can't be killed at one."""
        return [point for point in Point if not (self.terms.postpones_commits and point in IN_COMMITS)]


async def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Report:
    """Kill as planned and return what it came to.

    Args:
        plan: what to do.
        folder: for the stores and the logs; what a series without a fault leaves is removed.
        say: told how far it is.

    Raises:
        TimeoutError: it took far too long.
        ExceptionGroup: a relay ended by itself.
    """
    chance = random.Random(plan.seed)  # noqa: S311 (seeded)
    points = deck(plan.kills, plan.points, chance)
    seeds = iter(chance.random, None)
    total = Report()
    numbers = iter(range(1, plan.kills + 1))

    def deal() -> Point | None:
        if points and len(points) % SAID_EVERY == 0:
            say(f"{len(points)} of {plan.kills} kills to go")
        return points.pop() if points else None

    async def work() -> None:
        while points:
            own = folder / f"series-{next(numbers)}"
            own.mkdir()
            series = Series(own, plan.terms, random.Random(next(seeds)))  # noqa: S311 (seeded)
            await series.run(ROUNDS, deal)
            total.add(series.report)
            if not series.report.faults:
                shutil.rmtree(own)
            say(f"compared: {total.killed} kills, {total.acknowledged} acknowledged, {total.lost} lost")

    bound_seconds = DRAIN_SECONDS * 2 + SECONDS_A_KILL * plan.kills
    async with asyncio.timeout(bound_seconds), asyncio.TaskGroup() as workers:
        for _ in range(plan.side_by_side):
            workers.create_task(work())
    for point in {*plan.points} if plan.kills >= len(plan.points) else ():
        if not total.kills[point]:
            total.faults.append(f"no relay was killed {point.value}")
    return total
