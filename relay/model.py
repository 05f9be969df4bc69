"""What the relay speaks of: events, the deliveries owed for them, attempts and their outcomes.

Values only, as tuples with names: some twenty are made for an event, each three times as fast as a frozen
dataclass. Which state may follow which is left to `lifecycle`, and keeping them to `store`. Instants are UTC,
as seconds since 1970 (`_at`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple


class DeliveryState(StrEnum):
    """Where a delivery stands. `delivered`, `dead` and `discarded` are where the relay leaves it alone."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    DELIVERED = "delivered"
    DEAD = "dead"
    DISCARDED = "discarded"


class Event(NamedTuple):
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


class References(NamedTuple):
    """What an event says of the business it belongs to: ids to find it by, each None where absent."""

    order_id: str | None = None
    itscope_order_id: str | None = None
    document_id: str | None = None
    transaction_id: str | None = None


class Owed(NamedTuple):
    """How an event is owed to one destination.

    Attributes:
        claim: the delivery is wanted at once, claimed; it isn't if another of its key must go first.
        order_key: deliveries of one key to one destination go one after the other; None: in no order.
    """

    claim: bool
    order_key: str | None = None


Claim = tuple[int, int]
"""A delivery's id, and the token of whoever holds it."""


class Delivery(NamedTuple):
    """One event owed to one destination, claimed by whoever holds this value.

    Attributes:
        accepted_at: since when it is owed: of a replay, since that.
        attempts: tries recorded so far.
        token: of the claim; a result with another token than the stored one changes nothing.
        fresh: never tried, and no replay.
        ordered: others may wait for it.
        lease_until: when the claim ends, unless it is renewed.
        due_at: not before it, where it isn't fresh.
    """

    id: int
    destination: str
    accepted_at: float
    attempts: int
    token: int
    event: Event
    fresh: bool = True
    ordered: bool = False
    lease_until: float = math.inf
    due_at: float = 0.0

    @property
    def claim(self) -> Claim:
        """What the store knows this claim by."""
        return self.id, self.token


class Acceptance(NamedTuple):
    """What became of an event that was offered.

    Attributes:
        duplicate: it was accepted from this source before, and nothing was stored now.
        conflicting: it is a duplicate whose bytes differ from the first.
        claimed: the deliveries whose claim was asked for, ready to be sent; without those whose turn it
            isn't.
    """

    duplicate: bool
    conflicting: bool
    claimed: tuple[Delivery, ...] = ()


class Outcome(NamedTuple):
    """What came of one try: an HTTP status, or the error that kept one from arriving.

    Attributes:
        retry_after_seconds: the receiver's hint, where it gave one.
        answer: the first bytes of the answer's body, empty where there were none.
    """

    status: int | None
    error: str | None
    duration_seconds: float
    retry_after_seconds: float | None = None
    answer: bytes = b""


class Transition(NamedTuple):
    """What becomes of a delivery: its next state and, for `pending`, when it is due.

    Attributes:
        keeps_place: the deliveries behind it in its order go on waiting.
    """

    state: DeliveryState
    due_at: float
    keeps_place: bool = False


class Attempt(NamedTuple):
    """One real try of a delivery, with its outcome and what followed from it; append-only."""

    delivery: Delivery
    number: int
    started_at: float
    outcome: Outcome
    transition: Transition


class Quarantined(NamedTuple):
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


class LaneState(NamedTuple):
    """What a destination's lane waits for; all None: it delivers.

    Attributes:
        paused_at: an operator paused it then.
        held_until: the end of the maintenance window it is in.
        probe_at: its breaker is open, and the next probe is not before.
    """

    paused_at: float | None = None
    held_until: float | None = None
    probe_at: float | None = None
