"""A circuit breaker for one destination: closed, open, half-open. Pure: time is an argument.

Owns the states and what moves between them. Who asks before sending, and what waits meanwhile, is left to
`lane`. `now` is of any clock in seconds that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from relay.model import Outcome
from relay.units import Duration, format_duration

_DOUBLINGS = 64  # a microsecond doubled so often is longer than any duration; beyond, floats may overflow


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to stop sending to a destination that fails, and how long to leave it alone.

    Attributes:
        failures: so many in a row open the breaker.
        cooldown: from the first opening until the probe; doubled by each probe that fails.
        max_cooldown: no cool-down is longer.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    failures: Annotated[
        int, Field(ge=1, le=1000, strict=True, description="In a row; so many open the breaker")
    ] = 5
    cooldown: Annotated[Duration, Field(description="From the first opening until the probe")] = timedelta(
        seconds=30
    )
    max_cooldown: Annotated[Duration, Field(description="No cool-down is longer")] = timedelta(minutes=10)

    def __post_init__(self) -> None:
        if self.max_cooldown < self.cooldown:
            longest, first = (
                format_duration(value.total_seconds()) for value in (self.max_cooldown, self.cooldown)
            )
            raise ValueError(f"max_cooldown ({longest}) must not be shorter than cooldown ({first})")


@dataclass(frozen=True, slots=True)
class Breaker:
    """Where the breaker of one destination stands; a new one is closed.

    Attributes:
        failures: in a row, while closed.
        trips: openings since it was last closed.
        open_until: when the cool-down ends; None while closed.
        probing: half-open: one probe is under way.
        generation: changes whenever it opens, closes or starts a probe; an attempt counts only in its own.
    """

    failures: int = 0
    trips: int = 0
    open_until: float | None = None
    probing: bool = False
    generation: int = 0


def counts_as_failure(outcome: Outcome) -> bool:
    """Tell whether an outcome speaks against the destination: no answer, 429 or 5xx.

    Any other status is an answer of a system that works, whatever it says about the event.
    """
    return outcome.status is None or outcome.status == 429 or outcome.status >= 500


def may_send(breaker: Breaker, now: float) -> bool:
    """Tell whether an attempt may begin: closed, or cooled down with no probe under way."""
    return breaker.open_until is None or (now >= breaker.open_until and not breaker.probing)


def begin(breaker: Breaker, now: float) -> Breaker:
    """Return the breaker while an attempt is under way that `may_send` allowed.

    A probe starts if it was open. The attempt belongs to the `generation` of what is returned. An attempt
    that `may_send` doesn't allow changes nothing, and its outcome will not count.
    """
    if breaker.open_until is None or not may_send(breaker, now):
        return breaker
    return replace(breaker, probing=True, generation=breaker.generation + 1)


def end(breaker: Breaker, generation: int, failed: bool, policy: BreakerPolicy, now: float) -> Breaker:  # noqa: FBT001 (the outcome is the argument)
    """Return the breaker after an attempt has had its outcome.

    The outcome of an attempt that began in an older generation changes nothing: it says how the destination
    was, before the breaker opened or closed.

    Args:
        breaker: as it is now.
        generation: in which the attempt began.
        failed: what `counts_as_failure` said of its outcome.
        policy: of the destination.
        now: when the attempt ended.
    """
    is_open = breaker.open_until is not None
    if generation != breaker.generation or (is_open and not breaker.probing):
        return breaker
    if not failed:
        return Breaker(generation=breaker.generation + is_open)
    if not is_open and breaker.failures + 1 < policy.failures:
        return replace(breaker, failures=breaker.failures + 1)
    trips = breaker.trips + 1
    return Breaker(
        trips=trips, open_until=now + cooldown_seconds(trips, policy), generation=breaker.generation + 1
    )


def abandon(breaker: Breaker, generation: int) -> Breaker:
    """Return the breaker after an attempt has ended without an outcome, such as a cancelled one.

    If it was the probe, another one may be sent at once: `open_until` stays. Anything else changes nothing.
    """
    if generation != breaker.generation or not breaker.probing:
        return breaker
    return replace(breaker, probing=False)


def cooldown_seconds(trips: int, policy: BreakerPolicy) -> float:
    """Return how long the breaker stays open after `trips` openings in a row (at least 1), in seconds."""
    grown: float = policy.cooldown.total_seconds() * 2.0 ** min(trips - 1, _DOUBLINGS)
    return min(grown, policy.max_cooldown.total_seconds())
