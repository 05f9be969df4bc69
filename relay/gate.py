"""Whether an attempt to one destination may begin: pause, maintenance windows, breaker and rate together.

Owns the state of these four; what each of them means is in `hold`, `breaker` and `pace`. Who waits, and what
becomes of deliveries meanwhile, is the lane's. Two clocks come as arguments: `clock` never goes back and
counts pauses; `now` is UTC, since maintenance windows are of the wall clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

from relay import breaker as breakers
from relay.breaker import Breaker
from relay.config import Destination
from relay.hold import held_until, next_start
from relay.model import LaneState, Outcome
from relay.pace import take


class Rest(StrEnum):
    """Why nothing is sent."""

    PAUSED = "paused"
    HELD = "held"
    BREAKER = "breaker"


class Gate:
    """The gate of one destination; starts with a closed breaker."""

    def __init__(self, destination: Destination, paused_at: float | None) -> None:
        self.paused_at = paused_at
        self._windows = destination.hold
        self._policy = destination.breaker
        self._breaker = Breaker()
        self._rate = destination.rate_limit
        self._ready_at = -math.inf

    def resume(self) -> None:
        """Lift a pause, and forget what the breaker has seen: an operator says that all is well."""
        self.paused_at = None
        self._breaker = Breaker(generation=self._breaker.generation + 1)

    def rests(self, clock: float, now: float) -> Mapping[Rest, float]:
        """Return why nothing may begin, each with the seconds until that may end; empty: it may begin.

        Infinite: until something happens, such as an operator or the end of a probe.
        """
        reasons = {}
        if self.paused_at is not None:
            reasons[Rest.PAUSED] = math.inf
        if self._windows and (until := held_until(self._windows, now)) is not None:
            reasons[Rest.HELD] = until - now
        if not breakers.may_send(self._breaker, clock):
            open_until = self._breaker.open_until or clock
            reasons[Rest.BREAKER] = math.inf if self._breaker.probing else open_until - clock
        return reasons

    def changes_in(self, now: float) -> float:
        """Return the seconds until the next maintenance window begins, infinite without one."""
        start = next_start(self._windows, now)
        return math.inf if start is None else start - now

    @property
    def probes(self) -> bool:
        """Whether the next attempt is a probe, so that there is use for one only."""
        return self._breaker.open_until is not None

    def begin(self, clock: float) -> tuple[float, int]:
        """Let one attempt begin, where nothing rests.

        Returns:
            The seconds to wait first, for the rate's sake; 0.0: it begins now. And the breaker's generation,
            for `end`.
        """
        if self._rate is not None:
            wait, self._ready_at = take(self._rate, self._ready_at, clock)
            if wait > 0:
                return wait, 0
        self._breaker = breakers.begin(self._breaker, clock)
        return 0.0, self._breaker.generation

    def end(self, generation: int, outcome: Outcome, clock: float) -> bool:
        """Learn what came of an attempt; tell whether the breaker opened or closed by it."""
        if self._policy is None:
            return False
        before = self._breaker
        failed = breakers.counts_as_failure(outcome)
        self._breaker = breakers.end(before, generation, failed, self._policy, clock)
        return self._breaker.open_until != before.open_until

    def abandon(self, generation: int) -> None:
        """Learn that an attempt came to nothing, and wasn't one."""
        self._breaker = breakers.abandon(self._breaker, generation)

    def state(self, clock: float, now: float) -> LaneState:
        """Return what is waited for, as operators see it."""
        open_until = self._breaker.open_until
        return LaneState(
            paused_at=self.paused_at,
            held_until=held_until(self._windows, now) if self._windows else None,
            probe_at=None if open_until is None else now + max(0.0, open_until - clock),
        )
