"""Which outcome deserves a retry, and when the next try is due. Pure: time and chance are arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from relay.model import Outcome
from relay.units import Duration

SUCCESS = frozenset(range(200, 300))
REJECT = frozenset({400, 410, 413, 415, 422})
RETRY_AFTER_CAP_SECONDS = 3600.0
_HINTING = frozenset({429, 503})  # the statuses whose Retry-After counts


class Verdict(Enum):
    """What an outcome says about the event itself."""

    DELIVERED = auto()
    REJECTED = auto()  # the receiver will never take it; trying again is noise
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter, for a limited time.

    Attributes:
        initial: bound of the first pause; each further bound is `factor` times the one before.
        max: no bound is above it.
        give_up_after: counted from acceptance; a failure after it is final.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    initial: Annotated[Duration, Field(description="Upper bound of the first pause")] = timedelta(seconds=1)
    factor: Annotated[float, Field(ge=1, le=100, strict=True, description="Growth of the bound")] = 2.0
    max: Annotated[Duration, Field(description="No pause is longer")] = timedelta(minutes=10)
    give_up_after: Annotated[Duration, Field(description="Dead when still failing by then")] = timedelta(
        days=3
    )


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How a destination's answers are read: what is success, what is final, and how to retry the rest.

    Attributes:
        holds_when_dead: a dead delivery goes on holding up what is behind it in its order.
    """

    success: frozenset[int] = SUCCESS
    reject: frozenset[int] = REJECT
    retry: RetryPolicy = RetryPolicy()
    holds_when_dead: bool = False


def verdict(outcome: Outcome, policy: DeliveryPolicy) -> Verdict:
    """Classify an outcome. `success` wins over `reject`, so that an ERP's 409 may mean 'already there'."""
    if outcome.status in policy.success:
        return Verdict.DELIVERED
    if outcome.status in policy.reject:
        return Verdict.REJECTED
    return Verdict.FAILED


def backoff_bound_seconds(failures: int, policy: RetryPolicy) -> float:
    """Return the longest pause after `failures` failed tries (at least 1), in seconds."""
    longest = policy.max.total_seconds()
    try:
        return min(longest, policy.initial.total_seconds() * policy.factor ** (failures - 1))
    except OverflowError:
        return longest


def pause_seconds(outcome: Outcome, failures: int, policy: RetryPolicy, jitter: float) -> float:
    """Return how long to wait after a failed try.

    Full jitter: uniform between zero and the bound. A Retry-After of a 429 or 503 counts where it is
    longer, up to an hour.

    Args:
        outcome: of the try that failed.
        failures: tries that failed so far, this one included.
        policy: of the destination.
        jitter: uniform in [0, 1).
    """
    pause = jitter * backoff_bound_seconds(failures, policy)
    if outcome.status in _HINTING and outcome.retry_after_seconds is not None:
        return max(pause, min(outcome.retry_after_seconds, RETRY_AFTER_CAP_SECONDS))
    return pause
