"""One series: one store, its senders and receivers, many lives of a relay, and the comparison at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.e2e.relay_process import until, write_config
from tests.lab.comparison import compare
from tests.lab.order import OrderWatch
from tests.lab.points import HIGHEST, Axe, Point
from tests.lab.process import Relay
from tests.lab.receivers import Character, Receiver
from tests.lab.report import Report
from tests.lab.senders import Senders
from tests.lab.store_file import Pair, damages, in_flight
from tests.lab.victim import Trap

ORDERED = "ordered"
CHARACTERS = {
    "steady": Character(),
    "flaky": Character(refused=0.3, thinks_seconds=0.003),
    ORDERED: Character(refused=0.15, thinks_seconds=0.001),
}
RETRY = {"initial": "20ms", "max": "200ms"}
LONGEST_LIFE_SECONDS = 0.5  # after the start, of a relay that is killed at any moment
# Bounds for what hangs; nothing is measured by them.
ROUND_SECONDS = 40.0
DRAIN_SECONDS = 180.0
_TRAPS = {Point.BEFORE_COMMIT: Trap.BEFORE_COMMIT, Point.AFTER_COMMIT: Trap.AFTER_COMMIT}


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all series of a run.

    Attributes:
        order_by: the field by which one destination wants its deliveries in order; None: no order.
        postpones_commits: sabotage: the relay answers before it commits.
    """

    order_by: str | None
    postpones_commits: bool = False


class Series:
    """Lives of one relay on one store."""

    def __init__(self, folder: Path, terms: Terms, chance: random.Random) -> None:
        self._folder = folder
        self._log = folder / "errors.log"
        self._terms = terms
        self._chance = chance
        self._axe = Axe()
        self._watches = {name: OrderWatch() for name in CHARACTERS}
        self._receivers = {
            name: Receiver(character, self._axe, chance, self._watches[name])
            for name, character in CHARACTERS.items()
        }
        self._senders = Senders(self._axe, chance, self._taken_by_the_slowest)
        self._start_seconds = 1.0
        self._died_with: list[set[Pair]] = [set()]  # by life: in flight when it was killed
        self.report = Report()

    async def run(self, rounds: int, point: Callable[[], Point | None]) -> None:
        """Live and die, for so many rounds at the most or until there is no point, and compare."""
        async with AsyncExitStack() as stack:
            for receiver in self._receivers.values():
                await receiver.start()
                stack.push_async_callback(receiver.close)
            config = self._configure()
            for _ in range(rounds):
                if (here := point()) is None:
                    break
                await self._live(config, here)
            await self._drain(config)
        await self._compare()

    def _configure(self) -> Path:
        destinations = {
            name: {"url": receiver.url, "retry": RETRY} for name, receiver in self._receivers.items()
        }
        if self._terms.order_by is not None:
            destinations[ORDERED]["order_by"] = self._terms.order_by
        return write_config(self._folder, destinations)

    def _taken_by_the_slowest(self) -> int:
        return min(len(receiver.taken_in) for receiver in self._receivers.values())

    # ---- one life

    async def _live(self, config: Path, point: Point) -> None:
        """Start a relay, post to it, and kill it at a point."""
        number = self._chance.randint(1, HIGHEST.get(point, 1))
        self._axe.life += 1
        started = time.monotonic()
        relay = await Relay.start(config, self._log, self._trap(point, number))
        self._axe.aim(point, number, lambda _life: relay.kill())
        fuse = asyncio.create_task(self._burn(relay, point))
        try:
            if await relay.ready():
                self._start_seconds = time.monotonic() - started
                await self._senders.post_until_gone(relay.ingress, lambda: relay.runs)
            await self._bury(relay, point)
        finally:
            fuse.cancel()
            await relay.end()

    def _trap(self, point: Point, number: int) -> tuple[Trap, int] | None:
        if self._terms.postpones_commits:
            return Trap.POSTPONED_COMMIT, 0
        return (_TRAPS[point], number) if point in _TRAPS else None

    async def _burn(self, relay: Relay, point: Point) -> None:
        """Kill a relay at a moment, or, if its point never comes, at a deadline."""
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                await self._moment(relay, point)
        except TimeoutError:
            self.report.missed += 1
            self.report.kills[point] -= 1
        relay.kill()

    async def _moment(self, relay: Relay, point: Point) -> None:
        match point:
            case Point.STARTING:
                await asyncio.sleep(self._chance.uniform(0, self._start_seconds * 1.1))
            case Point.ANY_MOMENT:
                await relay.is_ready.wait()
                await asyncio.sleep(self._chance.uniform(0, LONGEST_LIFE_SECONDS))
            case _:
                await relay.ended()

    async def _bury(self, relay: Relay, point: Point) -> None:
        """Note how a relay died, and what it left."""
        code = await relay.ended()
        self._axe.rest()
        if code != -9:
            raise RuntimeError(f"a relay ended by itself with {code}: {self._log.read_text('utf-8')[-4000:]}")
        self.report.kills[point] += 1
        self.report.owing[point] += self._senders.behind > 0
        self._died_with.append(await asyncio.to_thread(in_flight, self._folder / "relay.db"))

    # ---- the end

    async def _drain(self, config: Path) -> None:
        """Start a last time, and stop when nothing is owed any more."""
        self._axe.life += 1
        relay = await Relay.start(config, self._log)
        try:
            if not await relay.ready():
                raise RuntimeError(f"no last start: {self._log.read_text('utf-8')[-4000:]}")
            async with aiohttp.ClientSession() as client:
                await until(lambda: relay.owes_nothing(client), DRAIN_SECONDS)
            relay.stop()
            if code := await relay.ended():
                self.report.faults.append(f"the last relay ended with {code}")
        except AssertionError:  # as `until` says it
            self.report.faults.append(f"the backlog was not delivered within {DRAIN_SECONDS:g} s")
        finally:
            await relay.end()

    async def _compare(self) -> None:
        report, senders = self.report, self._senders
        compare(report, senders.acknowledged, self._receivers, dict(enumerate(self._died_with)))
        if self._terms.order_by is not None:
            report.faults += [f"{ORDERED}: {violation}" for violation in self._watches[ORDERED].violations]
        report.faults += [f"{event_id} was forgotten" for event_id in sorted(senders.forgotten)]
        report.faults += senders.unexpected
        report.faults += await asyncio.to_thread(damages, self._folder / "relay.db")
        report.faults += self._log.read_text("utf-8").splitlines()
