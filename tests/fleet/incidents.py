"""What happens to a fleet: replicas are killed and paused, the database is restarted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from enum import Enum

from relay.store.steps import LEASE_SECONDS
from tests.e2e.relay_process import until
from tests.fleet.database import Database, Restart
from tests.fleet.replica import Replica
from tests.fleet.report import FleetReport
from tests.lab.points import Axe, Point
from tests.lab.store_file import Pair

LONGEST_REST_SECONDS = 6.0  # between two incidents
LONGEST_AWAY_SECONDS = 2.0  # of the database
PAUSE_SECONDS = LEASE_SECONDS * 1.5
NOTICED_SECONDS = 3.0  # until a load balancer leaves a replica alone that says nothing
AIM_SECONDS = 10.0  # for a point to come
READY_SECONDS = PAUSE_SECONDS + 60.0  # all of them may pause
HIGHEST = 60  # how many times a point is passed before the axe falls, at the most
SAID_EVERY = 10


class Pause(Enum):
    """A replica does nothing for a while."""

    LONG = "longer than a lease"


class Incidents:
    """Does what a deck says, and notes what each killed or paused replica had claimed.

    Attributes:
        died_with: what was in flight when a life ended or paused, whoever had claimed it.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        database: Database,
        axe: Axe,
        *,
        chance: random.Random,
        report: FleetReport,
        owing: Callable[[], bool],
        slept: Callable[[int, set[Pair]], None],
    ) -> None:
        """Prepare.

        Args:
            replicas: of the fleet.
            database: theirs.
            axe: falls at points.
            chance: of everything.
            report: of what was done.
            owing: whether something acknowledged has not reached every receiver.
            slept: told the life that slept, and what was in flight meanwhile.
        """
        self._replicas = replicas
        self._database = database
        self._axe = axe
        self._chance = chance
        self._report = report
        self._owing = owing
        self._slept = slept
        self._fallen: asyncio.Future[Replica] | None = None
        self.died_with: dict[int, set[Pair]] = {}

    async def happen(self, deck: Sequence[Point | Restart | Pause], say: Callable[[str], None]) -> None:
        """Do one after the other; pauses go on meanwhile, and are over at the end."""
        async with asyncio.TaskGroup() as pauses:
            for number, incident in enumerate(deck):
                if number % SAID_EVERY == 0:
                    say(f"{len(deck) - number} of {len(deck)} incidents to go")
                match incident:
                    case Restart():
                        self._report.restarts[incident] += 1
                        await self._database.restart(incident, self._chance.uniform(0, LONGEST_AWAY_SECONDS))
                    case Pause():
                        self._report.pauses += 1
                        pauses.create_task(self._pause(await self._one_ready()))
                    case Point():
                        await self._kill(incident)
                await asyncio.sleep(self._chance.uniform(0, LONGEST_REST_SECONDS))

    # ---- kills

    async def _kill(self, point: Point) -> None:
        replica = await self._victim(point)
        life = replica.life
        replica.kill()
        self._report.owing[point] += self._owing()
        await self._note(life)

    async def _victim(self, point: Point) -> Replica:
        """Return who is to be killed, at the moment when it is."""
        match point:
            case Point.STARTING:
                replica = await self._one_starting()
                await asyncio.sleep(self._chance.uniform(0, replica.start_seconds))
            case Point.ANY_MOMENT:
                replica = await self._one_ready()
            case _:
                return await self._hit(point)
        self._report.kills[point] += 1
        return replica

    async def _hit(self, point: Point) -> Replica:
        """Return the replica that was killed at a point, or, if that doesn't come, any."""
        await self._one_ready()
        self._fallen = asyncio.get_running_loop().create_future()
        self._axe.aim(point, self._chance.randint(1, HIGHEST), lambda life: self._fall(point, life))
        try:
            async with asyncio.timeout(AIM_SECONDS):
                replica = await self._fallen
        except TimeoutError:
            self._report.missed += 1
            return await self._one_ready()
        finally:
            self._axe.rest()
        self._report.kills[point] += 1
        return replica

    def _fall(self, point: Point, life: int) -> None:
        """Kill the replica of a life at once, or wait on if that has ended already."""
        assert self._fallen is not None
        for replica in self._replicas:
            if replica.life == life and replica.runs and not self._fallen.done():
                replica.kill()
                self._fallen.set_result(replica)
                return
        self._axe.aim(point, 1, lambda life: self._fall(point, life))

    async def _one_ready(self) -> Replica:
        await until(lambda: any(replica.is_ready for replica in self._replicas), READY_SECONDS)
        return self._chance.choice([replica for replica in self._replicas if replica.is_ready])

    async def _one_starting(self) -> Replica:
        """Return a replica that starts; one that takes webhooks is ended for that, if need be."""
        if not any(replica.starting.is_set() or not replica.runs for replica in self._replicas):
            replica = await self._one_ready()
            life = replica.life
            replica.kill()
            await self._note(life)
        await until(lambda: any(replica.starting.is_set() for replica in self._replicas), READY_SECONDS)
        return self._chance.choice([replica for replica in self._replicas if replica.starting.is_set()])

    # ---- pauses

    async def _pause(self, replica: Replica) -> None:
        """Have a replica do nothing for longer than its leases; what it sends late is no fault."""
        relay, life = replica.relay, replica.life
        if relay is None:
            return
        relay.pause()
        try:
            await asyncio.sleep(NOTICED_SECONDS)
            replica.is_ready = False
            await self._note(life)
            self._slept(life, self.died_with[life])
            await asyncio.sleep(PAUSE_SECONDS - NOTICED_SECONDS)
        finally:
            relay.resume()
        await self._note(life)  # a transaction may have been under way all the time
        replica.is_ready |= replica.life == life and relay.runs

    async def _note(self, life: int) -> None:
        """Note what is claimed. Long before its lease can end, so that nobody else has claimed it since."""
        self.died_with.setdefault(life, set()).update(await self._database.in_flight())
