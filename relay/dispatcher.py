"""All lanes: which there are, what an event reserves in them, and what becomes of them on reload and drain.

No lane can delay another; the dispatcher never waits for one but at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping

from relay.config import Destination
from relay.connections import REST_SECONDS
from relay.errors import StoreError
from relay.lane import LAST_RECORD_SECONDS, Lane, Shared
from relay.metrics import Metrics
from relay.model import Delivery, LaneState
from relay.retry import RETRY_AFTER_CAP_SECONDS
from relay.store import Store
from relay.store.steps import LEASE_SECONDS

_log = logging.getLogger(__name__)

RENEW_SECONDS = LEASE_SECONDS / 3
# A relay frees the claims of others only if it has looked after its own for a while without such a gap, by
# the wall clock: after an outage of the store or a sleep of the machine, all have the time to renew theirs.
STEADY_SECONDS = LEASE_SECONDS / 2
GRACE_SECONDS = 5.0  # after a lease, for other clocks and for attempts that ended with it
RETRY_SECONDS = 1.0  # where the store couldn't
JUMP_SECONDS = 5.0  # less than that is a clock being put right


class Reservation:
    """Room kept in lanes for the deliveries of one event, until it is known whether it was stored."""

    def __init__(self, lanes: dict[str, Lane], size: int) -> None:
        self._lanes = lanes
        self._size = size

    @property
    def claims(self) -> Collection[str]:
        """The destinations whose delivery is to be claimed for its lane at once."""
        return self._lanes

    def settle(self, claimed: Iterable[Delivery]) -> None:
        """Start the deliveries that were stored and claimed, and give back what room is left."""
        stored = {delivery.destination: delivery for delivery in claimed}
        for destination, lane in self._lanes.items():
            lane.settle(self._size, stored.get(destination))


class Dispatcher:
    """All lanes, by destination."""

    def __init__(
        self, store: Store, metrics: Metrics, now: Callable[[], float], paused: Mapping[str, float]
    ) -> None:
        """Make a dispatcher without lanes, on the running event loop.

        Args:
            store: of the deliveries.
            metrics: of the lanes.
            now: the clock.
            paused: destinations that an operator has paused, and since when.
        """
        self._store = store
        self._now = now
        self._paused = dict(paused)
        self._wanted: Mapping[str, Destination] = {}
        self._draining = False
        self._lanes: dict[str, Lane] = {}
        self._leaving: dict[asyncio.Task[None], Lane] = {}
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception if a part of a lane ends by a bug."""
        self._lapsing = asyncio.Event()
        self._shared = Shared(store, metrics, now, self.crashed, self._lapsing)

    def reserve(self, destinations: Iterable[str], size: int) -> Reservation:
        """Keep room for an event's deliveries in those lanes that have some."""
        lanes: dict[str, Lane] = {}
        for destination in destinations:
            lane = self._lanes.get(destination)
            if lane is not None and lane.reserve(size):
                lanes[destination] = lane
        return Reservation(lanes, size)

    def notice(self, destinations: Iterable[str], *, fresh: bool | None = None) -> None:
        """Tell lanes that the store has something for them.

        Args:
            destinations: whose.
            fresh: whether it is first attempts; None: perhaps both. A lane looks for no others, and goes on
                taking fresh deliveries right after their commit where there are none in the store.
        """
        for destination in destinations:
            if (lane := self._lanes.get(destination)) is not None:
                lane.notice(fresh=fresh)

    def set_paused(self, destination: str, paused_at: float | None) -> None:
        """Send nothing to a destination from now on; None: send again."""
        lane = self._lanes.get(destination)
        if paused_at is None:
            self._paused.pop(destination, None)
            if lane is not None:
                lane.resume()
        else:
            self._paused[destination] = paused_at
            if lane is not None:
                lane.pause(paused_at)

    def paused(self) -> dict[str, float]:
        """Return the destinations that an operator has paused, and since when."""
        return dict(self._paused)

    def states(self) -> dict[str, LaneState]:
        """Return what each configured destination's lane waits for."""
        none = LaneState()
        return {name: lane.state if (lane := self._lanes.get(name)) else none for name in self._wanted}

    def configure(self, destinations: Mapping[str, Destination]) -> None:
        """Have a lane for each destination, as configured.

        A lane whose destination changed or went finishes its attempts under way as they were begun and puts
        the rest back. Its successor waits for that if it has the same URL, so that no system sees more at a
        time than it allows. Unchanged lanes don't notice.
        """
        self._wanted = destinations
        for name, lane in list(self._lanes.items()):
            if destinations.get(name) != lane.destination:
                lane.leave()
                self._close(name, lane.destination.timeout.total_seconds() + REST_SECONDS + 1)
        for name in destinations:
            self._start_lane(name)

    async def drain(self, grace_seconds: float) -> None:
        """Close all lanes at once, giving attempts under way some time to finish.

        Returns at most LAST_RECORD_SECONDS after that time, whatever the store does.
        """
        self._draining = True
        for name in list(self._lanes):
            self._close(name, grace_seconds)
        if closing := set(self._leaving):
            _, late = await asyncio.wait(closing, timeout=grace_seconds + LAST_RECORD_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)

    async def keep_leases(self) -> None:
        """Extend the leases of what lanes hold, then free what nobody holds; runs until cancelled.

        In this order and with one time, so that a clock that jumps frees nothing that is held here. If it was
        set back, retries are due at most as late as they could be by the new time.
        """
        clock = asyncio.get_running_loop().time
        ahead = math.inf  # how far the wall clock is: at the start, it may have been set back before
        renewed_at = steady_since = -math.inf
        is_away = False
        while True:
            now, started = self._now(), clock()
            try:
                await self._renew(now)
                if not 0 <= now - renewed_at < STEADY_SECONDS:
                    steady_since = now
                if now - steady_since >= RENEW_SECONDS / 2:
                    await self._expire(now)
                if now - clock() < ahead - JUMP_SECONDS:
                    await self._bring_forward(now)
            except StoreError as error:
                if not is_away:
                    _log.warning("leases.not_renewed", extra={"fields": {"error": str(error)}})
                is_away, renewed_at = True, -math.inf
                await asyncio.sleep(RETRY_SECONDS)
                continue
            is_away, renewed_at, ahead = False, now, now - clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(started + RENEW_SECONDS):
                    await self._lapsing.wait()

    async def _renew(self, now: float) -> None:
        """Extend all leases, a statement for each lane; an empty one shows that the store is there."""
        self._lapsing.clear()
        for lane in [*self._lanes.values(), *self._leaving.values()]:
            held = list(lane.held)
            kept = {delivery.claim: delivery for delivery in await self._store.renew(held, now)}
            lane.renewed(kept, {delivery.claim for delivery in held} - kept.keys())

    async def _expire(self, now: float) -> None:
        if expired := await self._store.expire(now - GRACE_SECONDS):
            _log.warning("leases.expired", extra={"fields": {"deliveries": expired}})
            self.notice(self._lanes)

    async def _bring_forward(self, now: float) -> None:
        """Make retries due now that the clock of before made due later than any pause is long."""
        for name, destination in self._wanted.items():
            longest = max(destination.retry.max.total_seconds(), RETRY_AFTER_CAP_SECONDS)
            total = 0
            while moved := await self._store.bring_forward(name, now + longest, now):
                total += moved
            if total:
                fields = {"destination": name, "deliveries": total}
                _log.warning("deliveries.brought_forward", extra={"fields": fields})
                self.notice([name])

    def _start_lane(self, name: str) -> None:
        """Start the lane of a destination, if it is wanted and nobody stands in its way."""
        wanted = self._wanted.get(name)
        leaving = {lane.destination.url for lane in self._leaving.values() if lane.name == name}
        if wanted is None or self._draining:
            return
        if name not in self._lanes and wanted.url not in leaving:
            self._lanes[name] = Lane(name, wanted, self._shared, self._paused.get(name))

    def _close(self, name: str, grace_seconds: float) -> None:
        lane = self._lanes.pop(name)
        leaving = asyncio.create_task(lane.close(grace_seconds))
        self._leaving[leaving] = lane
        leaving.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        name = self._leaving.pop(task).name
        if not task.cancelled() and (error := task.exception()) and not self.crashed.done():
            self.crashed.set_exception(error)
        self._start_lane(name)
        self.notice([name])  # what the lane put back
