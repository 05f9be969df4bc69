"""A whole run: a fleet under load, what is done to it, and the comparison at the end."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from relay.store.steps import LEASE_SECONDS
from tests.e2e.relay_process import until, write_config
from tests.fleet.database import Database, Restart
from tests.fleet.incidents import Incidents, Pause
from tests.fleet.replica import Replica
from tests.fleet.report import FleetReport
from tests.fleet.senders import FleetSenders
from tests.lab.comparison import compare
from tests.lab.order import OrderWatch
from tests.lab.points import Axe, Point, deck
from tests.lab.receivers import Receiver
from tests.lab.series import CHARACTERS, ORDERED, RETRY
from tests.lab.store_file import Pair
from tests.lab.webhook import ORDER_FIELD

POINTS = [Point.STARTING, Point.ANY_MOMENT, Point.ANSWERED, Point.RECEIVED, Point.REPLIED]
# Bounds for what hangs; nothing is measured by them.
SECONDS_AN_INCIDENT = 30.0
SECONDS_A_PAUSE = LEASE_SECONDS * 2
READY_SECONDS = 60.0
DRAIN_SECONDS = 180.0  # claims of the killed wait for their leases


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        replicas: how many.
        kills: of replicas.
        restarts: of the database, one after the other fast and immediate.
        pauses: of replicas, each longer than a lease.
        seed: of all chances; the moments depend on the machine, too.
        fsync: whether the database waits for the disk.
    """

    replicas: int
    kills: int
    restarts: Sequence[Restart]
    pauses: int
    seed: int
    fsync: bool


class Laboratory:
    """One fleet on one database."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        chance = random.Random(plan.seed)  # noqa: S311 (seeded)
        lives = itertools.count(1)
        axe = Axe()
        self._plan = plan
        self._say = say
        self._watches = {name: OrderWatch(lives_overlap=False) for name in CHARACTERS}
        self._receivers = {
            name: Receiver(character, axe, chance, self._watches[name])
            for name, character in CHARACTERS.items()
        }
        self._database = Database(fsync=plan.fsync)
        self._replicas = [
            Replica(
                folder / f"replica-{number}", self._configure, lambda: next(lives), self._database, chance
            )
            for number in range(1, plan.replicas + 1)
        ]
        self._senders = FleetSenders(
            self._addresses, self._taken_by_the_slowest, lambda: not self._database.is_calm, axe, chance
        )
        self.report = FleetReport()
        self._incidents = Incidents(
            self._replicas,
            self._database,
            axe,
            chance=chance,
            report=self.report,
            owing=lambda: self._senders.behind > 0,
            slept=self._excuse,
        )
        points: list[Point | Restart | Pause] = list(deck(plan.kills, POINTS, chance))
        points += [*plan.restarts, *[Pause.LONG] * plan.pauses]
        chance.shuffle(points)
        self._deck = points
        for number in range(1, plan.replicas + 1):
            (folder / f"replica-{number}").mkdir()

    async def run(self) -> FleetReport:
        """Do as planned and return what it came to.

        Raises:
            TimeoutError: it took far too long.
        """
        plan = self._plan
        incidents_seconds = len(self._deck) * SECONDS_AN_INCIDENT + plan.pauses * SECONDS_A_PAUSE
        async with (
            asyncio.timeout(incidents_seconds + READY_SECONDS * 2 + DRAIN_SECONDS * 2),
            AsyncExitStack() as stack,
        ):
            await stack.enter_async_context(self._database)
            for receiver in self._receivers.values():
                await receiver.start()
                stack.push_async_callback(receiver.close)
            await self._live()
            self.report.faults += await self._database.damages(len(self._receivers))
        self._compare()
        return self.report

    # ---- what the parts ask for

    def _configure(self, folder: Path, life: int) -> Path:
        """Write the configuration of a life, whose deliveries tell the receivers which it is."""
        destinations = {
            name: {"url": f"{receiver.url}/{life}", "retry": RETRY}
            for name, receiver in self._receivers.items()
        }
        destinations[ORDERED]["order_by"] = ORDER_FIELD
        return write_config(folder, destinations, store={"url": self._database.url})

    def _addresses(self) -> list[tuple[str, int]]:
        return [(replica.address, replica.life) for replica in self._replicas if replica.is_ready]

    def _taken_by_the_slowest(self) -> int:
        return min(len(receiver.taken_in) for receiver in self._receivers.values())

    def _excuse(self, life: int, pairs: set[Pair]) -> None:
        self._watches[ORDERED].excuse(life, (event_id for event_id, name in pairs if name == ORDERED))

    # ---- the run

    async def _live(self) -> None:
        """Have everything happen, and end with nothing owed."""
        async with asyncio.TaskGroup() as group:
            for replica in self._replicas:
                group.create_task(replica.keep())
            posting = group.create_task(self._senders.post())
            await self._incidents.happen(self._deck, self._say)
            self._say("drains")
            await self._all_ready()
            self._senders.stopped.set()
            await posting
            await self._drain()
            for replica in self._replicas:
                replica.leave()

    async def _all_ready(self) -> None:
        async with asyncio.timeout(READY_SECONDS):
            await until(lambda: all(replica.is_ready for replica in self._replicas), READY_SECONDS)

    async def _drain(self) -> None:
        """Wait until no replica sees anything owed."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:

            async def owe_nothing() -> bool:
                relays = [replica.relay for replica in self._replicas]
                await asyncio.sleep(0.5)  # each look is a statement
                return all([relay is not None and await relay.owes_nothing(client) for relay in relays])

            try:
                await until(owe_nothing, DRAIN_SECONDS)
            except AssertionError:  # as `until` says it
                self.report.faults.append(f"the backlog was not delivered within {DRAIN_SECONDS:g} s")

    def _compare(self) -> None:
        report, senders, watch = self.report, self._senders, self._watches[ORDERED]
        compare(report, senders.acknowledged, self._receivers, self._incidents.died_with)
        report.twins, report.failures, report.refusals = senders.twins, senders.failures, senders.refusals
        report.late, report.out_of_order = watch.late, len(watch.violations)
        report.faults += [f"{ORDERED}: {violation}" for violation in watch.violations]
        report.faults += senders.unexpected
        report.faults += [fault for replica in self._replicas for fault in replica.faults]
