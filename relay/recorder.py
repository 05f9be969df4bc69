"""Attempts to one destination that have ended, until the store has them: each is kept, recorded and counted.

What follows for those that wait is the lane's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from relay.errors import StoreError, StoreUnavailableError
from relay.metrics import LaneMetrics
from relay.model import Attempt, DeliveryState
from relay.store import Store

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # between tries to reach a store that is away
# What ends within such a time is recorded at its end, that of all lanes in one transaction: a webhook that is
# about to be stored waits for fewer of these. Where others wait for an attempt, it is recorded at once.
GATHER_SECONDS = 0.01


class Recorder:
    """Records the attempts of one lane."""

    def __init__(self, store: Store, metrics: LaneMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self._attempts: list[Attempt] = []
        self._added = asyncio.Event()
        self._urgent = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._closing = False

    def add(self, attempt: Attempt) -> None:
        """Take an attempt that has ended."""
        self._attempts.append(attempt)
        self._added.set()
        if attempt.delivery.ordered:
            self._urgent.set()

    def close(self) -> None:
        """Learn that none is to follow."""
        self._closing = True
        self._added.set()
        self._urgent.set()

    async def recorded(self) -> AsyncIterator[list[tuple[Attempt, bool]]]:
        """Store what has ended, all at once, until the last; yield attempts and whether their claims held."""
        is_away = False
        while self._attempts or not self._closing:
            await self._added.wait()
            await self._gathered()
            self._added.clear()
            attempts = self._attempts[:]
            if not attempts:
                continue
            try:
                recorded = list(zip(attempts, await self._stored(attempts), strict=True))
            except StoreUnavailableError as error:
                # Kept and tried again; meanwhile the lane fills up and rests.
                if not is_away:
                    destination = attempts[0].delivery.destination
                    fields = {"destination": destination, "number": len(attempts), "error": str(error)}
                    _log.warning("attempts.not_recorded", extra={"fields": fields})
                is_away = True
                self._added.set()
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            is_away = False
            del self._attempts[: len(attempts)]
            self._count([attempt for attempt, held in recorded if held])
            for attempt, held in recorded:
                if held:
                    _tell(attempt)
                else:
                    _log.warning("delivery.claim_lost", extra={"fields": _fields(attempt)})
            yield recorded

    async def _gathered(self) -> None:
        """Wait until it is time to record what has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS - self._clock() % GATHER_SECONDS):
                await self._urgent.wait()
        if not self._closing:
            self._urgent.clear()

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

    def _count(self, attempts: Sequence[Attempt]) -> None:
        for state, number in Counter(attempt.transition.state for attempt in attempts).items():
            self._metrics.attempts[state].inc(number)
            if state in self._metrics.deliveries:
                self._metrics.deliveries[state].inc(number)
        for attempt in attempts:
            took_seconds = attempt.outcome.duration_seconds
            self._metrics.attempt_duration.observe(took_seconds)
            if attempt.transition.state is DeliveryState.DELIVERED:
                ended_at = attempt.started_at + took_seconds
                self._metrics.delay.observe(max(0.0, ended_at - attempt.delivery.accepted_at))


def _tell(attempt: Attempt) -> None:
    match attempt.transition.state:
        case DeliveryState.DELIVERED:
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("delivery.delivered", extra={"fields": _fields(attempt)})
        case DeliveryState.DEAD:
            _log.error("delivery.dead", extra={"fields": _fields(attempt)})
        case _:
            _log.warning("delivery.retried", extra={"fields": _fields(attempt)})


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
