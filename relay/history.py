"""What a relay remembers of its work: the last hour by minute, and by day how often each route matched.

Owns when the counters of `Metrics` are looked at, and keeps what they have grown by since. Nothing is counted
here. The last hour is kept in memory, the routes' matches in the store.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from relay.errors import StoreError
from relay.metrics import Metrics
from relay.store import Store

EVERY_SECONDS = 60.0
MINUTES = 60


@dataclass(frozen=True, slots=True)
class Minute:
    """The attempts to deliver to one destination that ended within a minute.

    Attributes:
        at: when it began.
        failed: to be tried again, or for good.
    """

    at: float
    delivered: int
    failed: int


class History:
    """The attempts of the last hour; of this relay alone, also where others share its store."""

    def __init__(self, metrics: Metrics, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._now = now
        self._began_at = now()
        self._counted: dict[str, tuple[int, int]] = {}
        self._minutes: dict[str, deque[Minute]] = {}

    def of(self, destination: str) -> tuple[Minute, ...]:
        """Return the minutes of a destination that are over, the oldest first."""
        return tuple(self._minutes.get(destination, ()))

    async def keep(self) -> None:
        """Look at the counters once a minute, for ever."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.end_minute()

    def end_minute(self) -> None:
        """Keep what was counted since the last time."""
        for destination, (delivered, failed) in self._metrics.attempts_by_destination().items():
            before = self._counted.get(destination, (0, 0))
            minute = Minute(self._began_at, delivered - before[0], failed - before[1])
            self._minutes.setdefault(destination, deque(maxlen=MINUTES)).append(minute)
            self._counted[destination] = delivered, failed
        self._began_at = self._now()


class Matches:
    """How many events each route matched, by day: counted here since the last time, the rest in the store.

    What the store doesn't take is added again with what comes until then. A crash loses a minute at the most.
    """

    def __init__(self, metrics: Metrics, store: Store, now: Callable[[], float]) -> None:
        self._metrics = metrics
        self._store = store
        self._now = now
        self._counted: Counter[str] = Counter()
        self._waiting: dict[str, Counter[str]] = {}

    async def keep(self) -> None:
        """Store what was counted once a minute, for ever."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            await self.store()

    async def store(self) -> None:
        """Store what was counted since the last time; it counts for the day that it is now, by UTC."""
        counted = Counter(self._metrics.matches_by_route())
        day = datetime.fromtimestamp(self._now(), UTC).date().isoformat()
        self._wait(day, counted - self._counted)
        self._counted = counted
        for waiting in sorted(self._waiting):
            # Not put back where this is cancelled: the store may finish it all the same.
            matches = self._waiting.pop(waiting)
            try:
                await self._store.add_matches(waiting, matches)
            except StoreError:
                self._wait(waiting, matches)
                return

    def _wait(self, day: str, matches: Counter[str]) -> None:
        if matches:
            self._waiting.setdefault(day, Counter()).update(matches)
