"""One lane: everything that belongs to delivering to one destination. Claim, send, decide, record.

A fresh delivery comes in memory right after its commit if the lane has room; otherwise it stays in the store,
and the lane claims it in order when it has room. So memory is bounded by the lane and not by its backlog.
Which lanes there are is the dispatcher's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from relay.config import Destination
from relay.delivery import Sender
from relay.errors import StoreError, StoreUnavailableError
from relay.lifecycle import decide
from relay.metrics import Metrics
from relay.model import Attempt, Delivery, DeliveryState
from relay.store import Store

_log = logging.getLogger(__name__)

ROOM = 256  # deliveries that a lane holds in memory at the most, those being sent included
ROOM_BYTES = 8 << 20  # of their bodies
POLL_SECONDS = 1.0  # how long something due may go unnoticed that nobody announced
LAST_RECORD_SECONDS = 2.0  # for the store to take the last attempts of a lane that closes
PAUSE_SECONDS = 1.0  # between tries to reach a store that is not available


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lanes use.

    Attributes:
        crashed: gets the exception if a part of a lane ends by a bug.
    """

    store: Store
    metrics: Metrics
    now: Callable[[], float]
    crashed: asyncio.Future[None]


class Lane:
    """All that belongs to delivering to one destination."""

    def __init__(self, name: str, destination: Destination, shared: Shared) -> None:
        """Start the lane on the running event loop."""
        self.name = name
        self.destination = destination
        self._policy = destination.policy
        self._store = shared.store
        self._metrics = shared.metrics.add_destination(name)
        self._now = shared.now
        self._crashed = shared.crashed
        self._sender = Sender(destination, shared.now)
        self._waiting: asyncio.Queue[Delivery] = asyncio.Queue()
        # Every claim of this lane until it is recorded or released, by delivery and token.
        self._held: dict[tuple[int, int], Delivery] = {}
        self._held_bytes = 0
        self._reserved = 0
        self._reserved_bytes = 0
        self._backlogged = True  # the store may have due deliveries that aren't here: they go first
        self._clock = asyncio.get_running_loop().time  # for pauses: the other clock may jump
        self._claim_at = self._clock()
        self._wake = asyncio.Event()
        self._attempts: list[Attempt] = []
        self._attempted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._sent_all = False
        self._refiller = self._start(self._refill())
        self._recorder = self._start(self._record())
        self._workers = [self._start(self._work_off()) for _ in range(destination.concurrency)]

    # ---- the fast path

    def reserve(self, size: int) -> bool:
        """Keep room for one fresh delivery, if there is some and nothing older waits in the store."""
        if self._backlogged or self._closing or self._room() <= 0 or self._room_bytes() < size:
            return False
        self._reserved += 1
        self._reserved_bytes += size
        self._idle.clear()
        return True

    def settle(self, size: int, delivery: Delivery | None) -> None:
        """Use a reservation for the delivery that was stored, or give it back."""
        self._reserved -= 1
        self._reserved_bytes -= size
        if delivery is not None:
            self._take(delivery)
        self._note_idle()

    def notice(self) -> None:
        """Learn that the store has something for this lane."""
        self._backlogged = True
        if self._has_room():  # or else the next attempt recorded makes some, and says so
            self._wake.set()

    # ---- the end

    async def close(self, grace_seconds: float) -> None:
        """Finish the attempts under way, for a while, record what was learnt, and release the rest."""
        self._closing = True
        self._wake.set()
        try:
            await self._refiller
            waiting = [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]
            await self._release(waiting)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_seconds)
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            self._sent_all = True
            self._attempted.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._recorder, LAST_RECORD_SECONDS)
            # Cut off in the middle, or not recorded: tried again, without having spent an attempt.
            await self._release(list(self._held.values()))
        finally:  # whoever closes may give up first, as when the disk hangs
            for task in (self._refiller, self._recorder, *self._workers):
                task.cancel()
            await self._sender.close()

    @property
    def held(self) -> Collection[Delivery]:
        """The claims that this lane has."""
        return self._held.values()

    # ---- inside

    def _room(self) -> int:
        return ROOM - len(self._held) - self._reserved

    def _room_bytes(self) -> int:
        return ROOM_BYTES - self._held_bytes - self._reserved_bytes

    def _take(self, delivery: Delivery) -> None:
        self._held[delivery.id, delivery.token] = delivery
        self._held_bytes += len(delivery.event.body)
        self._idle.clear()
        self._waiting.put_nowait(delivery)

    def _drop(self, delivery: Delivery) -> None:
        del self._held[delivery.id, delivery.token]
        self._held_bytes -= len(delivery.event.body)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._held and not self._reserved:
            self._idle.set()

    async def _work_off(self) -> None:
        """Send one delivery after the other."""
        while True:
            delivery = await self._waiting.get()
            started_at = self._now()
            outcome = await self._sender.send(delivery)
            transition = decide(delivery, outcome, self._policy, self._now(), random.random())  # noqa: S311
            self._attempts.append(Attempt(delivery, delivery.attempts + 1, started_at, outcome, transition))
            self._attempted.set()

    async def _record(self) -> None:
        """Store what attempts came to, all that have ended at once, until the last."""
        while self._attempts or not self._sent_all:
            await self._attempted.wait()
            self._attempted.clear()
            try:
                await self._record_all()
            except StoreUnavailableError as error:
                # Kept and tried again; meanwhile the lane fills up and rests.
                _log.warning("attempts.not_recorded", extra={"fields": self._fields(error=str(error))})
                self._attempted.set()
                await asyncio.sleep(PAUSE_SECONDS)

    async def _record_all(self) -> None:
        attempts = self._attempts[:]
        if not attempts:
            return
        recorded = await self._stored(attempts)
        del self._attempts[: len(attempts)]
        for attempt, held in zip(attempts, recorded, strict=True):
            self._drop(attempt.delivery)
            if not held:
                _log.warning("delivery.claim_lost", extra={"fields": _fields(attempt)})
                continue
            self._count(attempt)
            if attempt.transition.state is DeliveryState.PENDING:
                self._claim_by(attempt.transition.due_at)
        if self._backlogged:
            self._wake.set()

    async def _stored(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Store attempts; one that the store refuses for good must not hold up the others."""
        try:
            return await self._store.record(attempts)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            if len(attempts) > 1:
                return [held for attempt in attempts for held in await self._stored([attempt])]
            _log.critical("attempt.refused", extra={"fields": _fields(attempts[0])}, exc_info=error)
            return [False]  # it stays claimed until its lease ends, and is tried again

    def _count(self, attempt: Attempt) -> None:
        state = attempt.transition.state
        self._metrics.attempts[state].inc()
        self._metrics.attempt_duration.observe(attempt.outcome.duration_seconds)
        match state:
            case DeliveryState.DELIVERED:
                self._metrics.deliveries[state].inc()
                ended_at = attempt.started_at + attempt.outcome.duration_seconds
                self._metrics.delay.observe(max(0.0, ended_at - attempt.delivery.accepted_at))
                if _log.isEnabledFor(logging.DEBUG):
                    _log.debug("delivery.delivered", extra={"fields": _fields(attempt)})
            case DeliveryState.DEAD:
                self._metrics.deliveries[state].inc()
                _log.error("delivery.dead", extra={"fields": _fields(attempt)})
            case _:
                _log.warning("delivery.retried", extra={"fields": _fields(attempt)})

    async def _refill(self) -> None:
        """Claim from the store whenever there is room and something is due."""
        while not self._closing:
            pause = self._claim_at - self._clock()
            if self._has_room() and (self._backlogged or pause <= 0):
                try:
                    await self._claim()
                except StoreError as error:
                    _log.warning("backlog.not_claimed", extra={"fields": self._fields(error=str(error))})
                    await asyncio.sleep(PAUSE_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause if pause > 0 else POLL_SECONDS)
            self._wake.clear()

    def _has_room(self) -> bool:
        """Tell whether a claim is worth a transaction: for many at once, or if there is nothing to do."""
        room = self._room()
        return self._room_bytes() > 0 and (room >= ROOM // 4 or (room > 0 and self._waiting.empty()))

    async def _claim(self) -> None:
        """Claim what is due and fits, and note when to look again."""
        noticed, self._backlogged = self._backlogged, False  # whoever stores something now says so again
        self._claim_at = self._clock() + POLL_SECONDS
        now = self._now()
        try:
            claimed = await self._store.claim(self.name, self._room(), self._room_bytes(), now)
        except StoreError:
            self._backlogged = noticed
            raise
        for delivery in claimed.deliveries:
            self._take(delivery)
        self._backlogged |= claimed.more
        if claimed.next_due_at is not None:
            self._claim_by(claimed.next_due_at)

    def _claim_by(self, due_at: float) -> None:
        """Look at the store again when something becomes due there."""
        self._claim_at = min(self._claim_at, self._clock() + max(0.0, due_at - self._now()))
        self._wake.set()

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        try:
            await self._store.release(deliveries)
            _log.info("deliveries.released", extra={"fields": self._fields(number=len(deliveries))})
        except StoreError as error:
            # Still claimed in the store; the next start, or the end of the lease, frees them.
            _log.warning("deliveries.not_released", extra={"fields": self._fields(error=str(error))})
        for delivery in deliveries:
            self._drop(delivery)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        def report(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) and not self._crashed.done():
                self._crashed.set_exception(error)

        task = asyncio.create_task(work, name=f"lane {self.name}")
        task.add_done_callback(report)
        return task

    def _fields(self, **more: Any) -> dict[str, Any]:
        return {"destination": self.name, **more}


def _fields(attempt: Attempt) -> dict[str, Any]:
    delivery = attempt.delivery
    return {
        "destination": delivery.destination,
        "event_id": delivery.event.event_id,
        "delivery": delivery.id,
        "attempt": attempt.number,
        "status": attempt.outcome.status,
        "error": attempt.outcome.error,
        "seconds": round(attempt.outcome.duration_seconds, 4),
    }
