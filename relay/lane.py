"""One lane: everything that belongs to delivering to one destination. Claim, send, decide, record.

A fresh delivery comes in memory right after its commit if the lane has room; otherwise it stays in the store,
and the lane claims it in order when it has room. So memory is bounded by the lane and not by its backlog.
First attempts and the others (retries, replays) are held apart and take turns, and a share of the attempts
at the same time is kept for the first: a storm of retries starves nobody. A lane that rests (paused, in a
maintenance window, breaker open) holds nothing: all is in the store, pending. Which lanes there are is the
dispatcher's; attempts that have ended are `recorder`'s.
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

from relay.config import Destination
from relay.connections import REST_SECONDS
from relay.delivery import NotTriedError, Sender
from relay.errors import StoreError
from relay.gate import Gate
from relay.intake import ROOM, Intake
from relay.lifecycle import decide
from relay.metrics import Metrics
from relay.model import Attempt, Claim, Delivery, DeliveryState, LaneState
from relay.recorder import Recorder
from relay.store import Store
from relay.store.steps import LEASE_SECONDS

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # how long something due may go unnoticed that nobody announced
GATHER_SECONDS = 0.1  # at least, before something is claimed that becomes due
LAST_RECORD_SECONDS = 2.0  # for the store to take the last attempts of a lane that closes
PAUSE_SECONDS = 1.0  # between tries to reach a store, or to get a socket, where there is none
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
        self._store = shared.store
        self._metrics = shared.metrics.add_destination(name)
        self._now = shared.now
        self._crashed = shared.crashed
        self._lapsing = shared.lapsing
        self._outlast_seconds = min(destination.timeout.total_seconds() + REST_SECONDS, OUTLAST_SECONDS)
        self._sender = Sender(destination, shared.now)
        room = _room(destination)
        self._fresh, self._again = Intake(fresh=True, room=room), Intake(fresh=False, room=room)
        self._intakes = (self._fresh, self._again)
        self._again_next = False  # whose turn it is, where both have something
        kept = max(1, destination.concurrency // KEPT_SHARE) if destination.concurrency > 1 else 0
        self._again_slots = destination.concurrency - kept
        self._gate = Gate(destination, paused_at)
        self._rests = True  # until it was looked at
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time  # for pauses: the other clock may jump
        self._looking: asyncio.TimerHandle | None = None
        self._pumping: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._recorder = Recorder(self._store, self._metrics)
        self._closing = False
        self._free: list[asyncio.Future[_Turn]] = []  # of workers without work
        self._look()
        self._refiller = self._start(self._refill())
        self._recording = self._start(self._record())
        self._workers = [self._start(self._work_off()) for _ in range(destination.concurrency)]

    # ---- the fast path

    def reserve(self, size: int) -> bool:
        """Keep room for one fresh delivery, if there is some and nothing older waits in the store."""
        return not (self._rests or self._closing) and self._fresh.reserve(size)

    def settle(self, size: int, delivery: Delivery | None) -> None:
        """Use a reservation for the delivery that was stored, or give it back."""
        self._fresh.settle(size, delivery)
        if self._rests or self._closing:
            self._wake.set()  # for it to be put back
        else:
            self._pump()

    def notice(self) -> None:
        """Learn that the store has something for this lane."""
        if not (self._fresh.backlogged and self._again.backlogged):  # or else it is known already
            self._fresh.backlogged = self._again.backlogged = True
            self._wake_for_backlog()

    def renewed(self, kept: Mapping[Claim, Delivery], lost: AbstractSet[Claim]) -> None:
        """Learn which claims have a new lease, and which somebody else has by now."""
        dropped = [delivery for intake in self._intakes for delivery in intake.renew(kept, lost)]
        for delivery in dropped:
            self._drop(delivery)
        if dropped:
            _log.warning("claims.lost", extra={"fields": self._fields(number=len(dropped))})
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
        self._rests = bool(reasons)
        if not self._closing:  # or else they are its successor's
            for reason, gauge in self._metrics.resting.items():
                gauge.set(reason in reasons)
        # Windows are the wall clock's, which may jump; a pause or a probe ends by being told.
        waits = [*reasons.values(), self._gate.changes_in(now)]
        wait = min((wait for wait in waits if wait < math.inf), default=None)
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if wait is not None and not self._closing:
            self._looking = self._loop.call_later(min(max(wait, 0.001), LOOK_SECONDS), self._look)
        self._wake.set()
        self._pump()

    # ---- the end

    def leave(self) -> None:
        """Take nothing more, and leave what is shown to a successor; `close` is to follow."""
        self._closing = True
        for gauge in self._metrics.resting.values():
            gauge.set(0)

    async def close(self, grace_seconds: float) -> None:
        """Finish the attempts under way, for a while, record what was learnt, and release the rest."""
        self._closing = True
        self._wake.set()
        try:
            await self._refiller
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finish(), grace_seconds)
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            self._recorder.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._recording, LAST_RECORD_SECONDS)
            # Cut off in the middle, or not recorded: tried again, without having spent an attempt.
            for intake in self._intakes:
                intake.waiting.clear()
            await self._release(self.held)
        finally:  # whoever closes may give up first, as when the disk hangs
            for task in (self._refiller, self._recording, *self._workers):
                task.cancel()
            for timer in (self._looking, self._pumping):
                if timer is not None:
                    timer.cancel()
            await self._sender.close()

    async def _finish(self) -> None:
        """Wait for the attempts under way, and put back all else, also what is being stored meanwhile."""
        while not (self._fresh.idle and self._again.idle):
            self._wake.clear()
            await self._put_back()
            await self._wake.wait()

    @property
    def held(self) -> Collection[Delivery]:
        """The claims that this lane has."""
        return [*self._fresh.held, *self._again.held]

    # ---- sending

    def _pump(self) -> None:
        """Hand deliveries that may be sent to workers without work."""
        while self._free and not self._rests and not self._closing:
            intake = self._next_intake()
            if intake is None:
                return
            if self._now() + self._outlast_seconds > intake.waiting[0].lease_until:
                self._lapsing.set()
                return
            wait, generation = self._gate.begin(self._clock())
            if wait > 0:
                if self._pumping is None:
                    self._pumping = self._loop.call_later(wait, self._pump_again)
                return
            self._again_next = intake is self._fresh
            self._free.pop().set_result(_Turn(intake, intake.begin(), generation))
            if self._gate.probes:
                self._look()  # one probe, and nothing beside it

    def _pump_again(self) -> None:
        self._pumping = None
        self._pump()

    def _next_intake(self) -> Intake | None:
        """Return which kind may begin an attempt; where both may, they take turns."""
        fresh = bool(self._fresh.waiting)
        again = bool(self._again.waiting) and self._again.sending < self._again_slots
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
                self._drop(attempt.delivery)
                if held and attempt.transition.state is DeliveryState.PENDING:
                    self._claim_by(self._again, attempt.transition.due_at)
                if held and attempt.delivery.ordered and not attempt.transition.keeps_place:
                    self._fresh.backlogged = self._again.backlogged = True  # whose turn it is now
            self._wake_for_backlog()

    # ---- claiming

    async def _refill(self) -> None:
        """Claim from the store whenever there is room and something is due; put all back to rest."""
        is_away = False
        while not self._closing:
            if self._rests:
                await self._put_back()
                await self._woken(POLL_SECONDS)
                continue
            wanting = self._wanting()
            if not wanting:
                await self._woken(min(intake.claim_at for intake in self._intakes) - self._clock())
                continue
            try:
                await asyncio.gather(*map(self._claim, wanting))  # in one transaction
                is_away = False
            except StoreError as error:
                if not is_away:
                    _log.warning("backlog.not_claimed", extra={"fields": self._fields(error=str(error))})
                is_away = True
                await asyncio.sleep(PAUSE_SECONDS)

    def _wanting(self) -> list[Intake]:
        """Return who has room and may find something in the store."""
        if self._gate.probes and (self._fresh.waiting or self._again.waiting):
            return []
        now = self._clock()
        return [
            intake
            for intake in self._intakes
            if intake.wants_more and (intake.backlogged or intake.claim_at <= now)
        ]

    async def _woken(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds if seconds > 0 else POLL_SECONDS)
        self._wake.clear()

    def _wake_for_backlog(self) -> None:
        """Look at the store, if there is room; or else the next attempt recorded makes some, and says so."""
        fresh, again = self._intakes
        if (fresh.backlogged and fresh.wants_more) or (again.backlogged and again.wants_more):
            self._wake.set()

    async def _claim(self, intake: Intake) -> None:
        """Claim what is due and fits, and note when to look again."""
        noticed, intake.backlogged = intake.backlogged, False  # whoever stores something now says so again
        intake.claim_at = self._clock() + POLL_SECONDS
        try:
            claimed = await self._store.claim(
                self.name,
                fresh=intake.fresh,
                limit=1 if self._gate.probes else intake.room,
                max_bytes=intake.room_bytes,
                now=self._now(),
            )
        except StoreError:
            intake.backlogged |= noticed
            raise
        for delivery in claimed.deliveries:
            intake.take(delivery)
        intake.backlogged |= claimed.more
        if claimed.next_due_at is not None:
            self._claim_by(intake, claimed.next_due_at)
        self._pump()

    def _claim_by(self, intake: Intake, due_at: float) -> None:
        """Look at the store again when something becomes due there."""
        # What becomes due one after the other, as replays do, needn't take a transaction each.
        pause = max(GATHER_SECONDS, due_at - self._now())
        intake.claim_at = min(intake.claim_at, self._clock() + pause)
        self._wake.set()

    async def _put_back(self) -> None:
        """Give the store back what nobody has begun to send."""
        waiting: list[Delivery] = []
        for intake in self._intakes:
            waiting += intake.waiting
            intake.waiting.clear()
            intake.backlogged = True
        await self._release(waiting)

    async def _release(self, deliveries: Collection[Delivery]) -> None:
        if not deliveries:
            return
        try:
            await self._store.release(list(deliveries))
            _log.info("deliveries.released", extra={"fields": self._fields(number=len(deliveries))})
        except StoreError as error:
            # Still claimed in the store; the next start, or the end of the lease, frees them.
            _log.warning("deliveries.not_released", extra={"fields": self._fields(error=str(error))})
        for delivery in deliveries:
            self._drop(delivery)

    def _drop(self, delivery: Delivery) -> None:
        (self._fresh if delivery.fresh else self._again).drop(delivery)
        if self._closing:
            self._wake.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        def report(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) and not self._crashed.done():
                self._crashed.set_exception(error)

        task = asyncio.create_task(work, name=f"lane {self.name}")
        task.add_done_callback(report)
        return task

    def _fields(self, **more: Any) -> dict[str, Any]:
        return {"destination": self.name, **more}


def _room(destination: Destination) -> int:
    """Return how many deliveries of a kind are worth claiming: no more than go out within a minute or so."""
    rate = destination.rate_limit
    if rate is None:
        return ROOM
    in_a_minute = int(rate.count * 60 / rate.per_seconds) + rate.burst
    return min(ROOM, max(destination.concurrency, in_a_minute))
