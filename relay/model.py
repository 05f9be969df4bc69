"""What the relay speaks of: events, the deliveries owed for them, attempts and their outcomes.

Values only. Which state may follow which is left to `lifecycle`, and keeping them to `store`.
Instants are UTC, as seconds since 1970 (`_at`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeliveryState(StrEnum):
    """Where a delivery stands. `delivered`, `dead` and `discarded` are where the relay leaves it alone."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    DELIVERED = "delivered"
    DEAD = "dead"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Event:
    """One accepted request; never changed after it was stored.

    Attributes:
        event_id: ITscope's `eventId`, or `sha256:<hex of the body>` where it gave no usable one.
        event_type: the payload's `eventType` as text, None where absent or not a scalar.
        transaction_status: the same for `transactionStatus`.
        trace_id: 32 hex digits (W3C Trace Context), shared by all attempts for this event.
        body: the bytes as received.
    """

    source: str
    event_id: str
    received_at: float
    content_type: str
    event_type: str | None
    transaction_status: str | None
    trace_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event owed to one destination, claimed by whoever holds this value.

    Attributes:
        attempts: tries recorded so far.
        token: of the claim; a result with another token than the stored one changes nothing.
    """

    id: int
    destination: str
    accepted_at: float
    attempts: int
    token: int
    event: Event


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one try: an HTTP status, or the error that kept one from arriving.

    Attributes:
        retry_after_seconds: the receiver's hint, where it gave one.
    """

    status: int | None
    error: str | None
    duration_seconds: float
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """What becomes of a delivery: its next state and, for `pending`, when it is due."""

    state: DeliveryState
    due_at: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One real try of a delivery, with its outcome and what followed from it; append-only."""

    delivery: Delivery
    number: int
    started_at: float
    outcome: Outcome
    transition: Transition


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An authenticated request that could not become an event, kept for the operator.

    Attributes:
        reason: a word from a closed set, such as `not-json`; `detail` is a sentence for people.
    """

    source: str
    received_at: float
    reason: str
    detail: str
    content_type: str
    body: bytes
