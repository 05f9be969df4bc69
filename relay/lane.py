"""One lane: everything that belongs to delivering to one destination. Claim, send, decide, record.

A fresh delivery comes in memory right after its commit if the lane has room; otherwise it stays in the store,
and is claimed in order when there is room (`claims`). First attempts and the others (retries, replays) take
turns, and a share of the attempts at the same time is kept for the first: a storm of retries starves nobody.
Which lanes there are is the dispatcher's; attempts that have ended are `recorder`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from relay.claims import Claims
from relay.config import Destination
from relay.connections import REST_SECONDS
from relay.delivery import NotTriedError, Sender
from relay.gate import Gate
from relay.intake import Intake
from relay.lifecycle import decide
from relay.metrics import Metrics
from relay.model import Attempt, Claim, Delivery, DeliveryState, LaneState
from relay.recorder import Recorder
from relay.store import Store
from relay.store.steps import LEASE_SECONDS

_log = logging.getLogger(__name__)

LAST_RECORD_SECONDS = 2.0  # for the store to take the last attempts of a lane that closes
PAUSE_SECONDS = 1.0  # between tries to get a socket, where there is none
LOOK_SECONDS = 30.0  # a maintenance window is noticed by then at the latest, should the wall clock jump
KEPT_SHARE = 4  # one in so many attempts at the same time is kept for deliveries never tried
# An attempt begins only if its claim outlasts it, so that nobody else begins one beside it. Where an answer
# may take longer, the claim is renewed meanwhile, as long as the store is there.
OUTLAST_SECONDS = LEASE_SECONDS / 2 + REST_SECONDS


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lanes use.

    Attributes:
        crashed: gets the exception if a part of a lane ends by a bug.
        lapsing: set where a lane waits for a claim's renewal.
    """

    store: Store
    metrics: Metrics
    now: Callable[[], float]
    crashed: asyncio.Future[None]
    lapsing: asyncio.Event


@dataclass(slots=True)
class _Turn:
    """One attempt that may begin. `generation`: of the breaker, see `Gate`."""

    intake: Intake
    delivery: Delivery
    generation: int


class Lane:
    """All that belongs to delivering to one destination."""

    def __init__(
        self, name: str, destination: Destination, shared: Shared, paused_at: float | None = None
    ) -> None:
        """Start the lane on the running event loop."""
        self.name = name
        self.destination = destination
        self._policy = destination.policy
        self._metrics = shared.metrics.add_destination(name)
        self._now = shared.now
        self._crashed = shared.crashed
        self._lapsing = shared.lapsing
        self._outlast_seconds = min(destination.timeout.total_seconds() + REST_SECONDS, OUTLAST_SECONDS)
        self._sender = Sender(destination, shared.now)
        self._again_next = False  # whose turn it is, where both have something
        kept = max(1, destination.concurrency // KEPT_SHARE) if destination.concurrency > 1 else 0
        self._again_slots = destination.concurrency - kept
        self._gate = Gate(destination, paused_at)
        self._claims = Claims(name, destination, self._gate, shared.store, shared.now)
        self._fresh, self._again = self._claims.fresh, self._claims.again
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time  # for pauses: the other clock may jump
        self._looking: asyncio.TimerHandle | None = None
        self._pumping: asyncio.TimerHandle | None = None
        self._recorder = Recorder(shared.store, self._metrics)
        self._free: list[asyncio.Future[_Turn]] = []  # of workers without work
        self._look()
        self._refiller = self._start(self._refill())
        self._recording = self._start(self._record())
        self._workers = [self._start(self._work_off()) for _ in range(destination.concurrency)]

    # ---- the fast path

    def reserve(self, size: int) -> bool:
        """Keep room for one fresh delivery, if there is some and none is known to wait in the store."""
        return self._claims.reserve(size)

    def settle(self, size: int, delivery: Delivery | None) -> None:
        """Use a reservation for the delivery that was stored, or give it back."""
        self._claims.settle(size, delivery)
        self._pump()

    def notice(self, *, fresh: bool | None) -> None:
        """Learn that the store has first attempts for this lane, or others; None: perhaps of both kinds."""
        self._claims.notice(fresh=fresh)

    def renewed(self, kept: Mapping[Claim, Delivery], lost: AbstractSet[Claim]) -> None:
        """Learn which claims have a new lease, and which somebody else has by now."""
        self._claims.renewed(kept, lost)
        self._pump()

    # ---- rest

    def pause(self, paused_at: float) -> None:
        """Send nothing from now on. Attempts under way end as ever."""
        self._gate.paused_at = paused_at
        self._look()

    def resume(self) -> None:
        """Send at once, whether it was a pause or the breaker that kept from it."""
        self._gate.resume()
        self._look()

    @property
    def state(self) -> LaneState:
        """What the lane waits for."""
        return self._gate.state(self._clock(), self._now())

    def _look(self) -> None:
        """Find out whether to rest, and look again when that may change."""
        now = self._now()
        reasons = self._gate.rests(self._clock(), now)
        self._claims.resting = bool(reasons)
        if not self._claims.closing:  # or else they are its successor's
            for reason, gauge in self._metrics.resting.items():
                gauge.set(reason in reasons)
        # Windows are the wall clock's, which may jump; a pause or a probe ends by being told.
        waits = [*reasons.values(), self._gate.changes_in(now)]
        wait = min((wait for wait in waits if wait < math.inf), default=None)
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if wait is not None and not self._claims.closing:
            self._looking = self._loop.call_later(min(max(wait, 0.001), LOOK_SECONDS), self._look)
        self._claims.wake()
        self._pump()

    # ---- the end

    def leave(self) -> None:
        """Take nothing more, and leave what is shown to a successor; `close` is to follow."""
        self._claims.closing = True
        for gauge in self._metrics.resting.values():
            gauge.set(0)

    async def close(self, grace_seconds: float) -> None:
        """Finish the attempts under way, for a while, record what was learnt, and release the rest."""
        self._claims.closing = True
        self._claims.wake()
        try:
            await self._refiller
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._claims.emptied(), grace_seconds)
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            self._recorder.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._recording, LAST_RECORD_SECONDS)
            # Cut off in the middle, or not recorded: tried again, without having spent an attempt.
            await self._claims.release()
        finally:  # whoever closes may give up first, as when the disk hangs
            for task in (self._refiller, self._recording, *self._workers):
                task.cancel()
            for timer in (self._looking, self._pumping):
                if timer is not None:
                    timer.cancel()
            await self._sender.close()

    @property
    def held(self) -> Collection[Delivery]:
        """The claims that this lane has."""
        return self._claims.held

    # ---- sending

    def _pump(self) -> None:
        """Hand deliveries that may be sent to workers without work."""
        while self._free and not self._claims.resting and not self._claims.closing:
            intake = self._next_intake()
            if intake is None:
                if self._again.sending < self._again_slots and self._again.waiting:
                    self._pump_in(self._again.begins_at() - self._clock())
                return
            if self._now() + self._outlast_seconds > intake.waiting[0].lease_until:
                self._lapsing.set()
                return
            wait, generation = self._gate.begin(self._clock())
            if wait > 0:
                self._pump_in(wait)
                return
            self._again_next = intake is self._fresh
            self._free.pop().set_result(_Turn(intake, intake.begin(), generation))
            if self._gate.probes:
                self._look()  # one probe, and nothing beside it

    def _pump_in(self, seconds: float) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
        self._pumping = self._loop.call_later(max(0.0, seconds), self._pump_again)

    def _pump_again(self) -> None:
        self._pumping = None
        self._pump()

    def _next_intake(self) -> Intake | None:
        """Return which kind may begin an attempt; where both may, they take turns."""
        fresh = bool(self._fresh.waiting)
        again = self._again.sending < self._again_slots and self._again.begins_at() <= self._clock()
        if fresh and again:
            return self._again if self._again_next else self._fresh
        return self._fresh if fresh else self._again if again else None

    async def _work_off(self) -> None:
        """Send one delivery after the other."""
        while True:
            turn: asyncio.Future[_Turn] = self._loop.create_future()
            self._free.append(turn)
            self._pump()
            await self._send(await turn)

    async def _send(self, turn: _Turn) -> None:
        delivery = turn.delivery
        started_at = self._now()
        try:
            outcome = await self._sender.send(delivery)
        except NotTriedError as error:
            _log.warning("delivery.not_tried", extra={"fields": self._fields(error=str(error))})
            turn.intake.put_back(delivery)
            self._gate.abandon(turn.generation)
            self._look()
            await asyncio.sleep(PAUSE_SECONDS)
            return
        turn.intake.sending -= 1
        transition = decide(delivery, outcome, self._policy, self._now(), random.random())  # noqa: S311
        self._recorder.add(Attempt(delivery, delivery.attempts + 1, started_at, outcome, transition))
        if self._gate.end(turn.generation, outcome, self._clock()):
            self._look()
            self._tell_breaker()

    def _tell_breaker(self) -> None:
        probe_at = self.state.probe_at
        if probe_at is None:
            _log.warning("breaker.closed", extra={"fields": self._fields()})
        else:
            seconds = round(probe_at - self._now(), 1)
            _log.warning("breaker.opened", extra={"fields": self._fields(probe_in_seconds=seconds)})

    # ---- recording

    async def _record(self) -> None:
        """Forget what is recorded, and look for what follows from it."""
        async for recorded in self._recorder.recorded():
            for attempt, held in recorded:
                self._claims.drop(attempt.delivery)
                if held and attempt.transition.state is DeliveryState.PENDING:
                    self._claims.expect(self._again, attempt.transition.due_at)
                if held and attempt.delivery.ordered and not attempt.transition.keeps_place:
                    self._fresh.backlogged = self._again.backlogged = True  # whose turn it is now
            self._claims.look()

    async def _refill(self) -> None:
        """Send what was claimed."""
        async for _ in self._claims.taken():
            self._pump()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        def report(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) and not self._crashed.done():
                self._crashed.set_exception(error)

        task = asyncio.create_task(work, name=f"lane {self.name}")
        task.add_done_callback(report)
        return task

    def _fields(self, **more: Any) -> dict[str, Any]:
        return {"destination": self.name, **more}
