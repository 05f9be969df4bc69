"""What an operator finds in the store and changes by hand: the shapes, and the steps that a store offers.

Reading never waits for webhooks that are being stored. Every change leaves a record of who made it and when,
in the same transaction. Which events a replay is for, and where it goes, is worked out by who calls this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from relay.model import Acceptance, DeliveryState, Event, Owed, References

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events, or which deliveries of them, are meant: all that is given must hold.

    Attributes:
        any_id: exactly the event's id, or any of the ids in `References`.
        prefix: how one of these ids begins, in at least one character.
        since: received at or after it.
        until: received before it.
        unrouted: events that were never owed to anybody.
        state: with a delivery in this state (to `destination`, where that is given too).
        destination: with a delivery to it.
        delivery: the event of this delivery, or the delivery itself.
    """

    any_id: str | None = None
    prefix: str | None = None
    event_type: str | None = None
    transaction_status: str | None = None
    source: str | None = None
    since: float | None = None
    until: float | None = None
    unrouted: bool = False
    state: DeliveryState | None = None
    destination: str | None = None
    delivery: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of what was found.

    Attributes:
        limit: items at the most.
        cursor: `Found.next` of the page before; None for the first.
        newest_first: else in order of acceptance, which repairs follow.
    """

    limit: int
    cursor: str | None = None
    newest_first: bool = True


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """One page. `next` is None at the end; before it, a page may hold fewer items than were asked for.

    What one page costs is bounded, so a search for something rare goes on over several pages.
    """

    items: tuple[T, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try. `answer`: the first bytes of what the destination said, None where nothing is kept."""

    number: int
    started_at: float
    duration_seconds: float
    status: int | None
    error: str | None
    next_state: DeliveryState
    answer: bytes | None


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One delivery as it stands.

    Attributes:
        event: the id (a number) of its event.
        accepted_at: since when it is owed.
        due_at: pending: not before it; finished: since.
        order_key: it has a place in the order of this key; None where it has none, or none any more.
        blocked: it waits for another delivery of its key.
        replay_of: the delivery that this one repeats.
        reason: why it was discarded, or replaced by which.
        received_at: when its event was, by which lists are sorted; a replay is owed since later.
        references: of its event.
    """

    id: int
    event: int
    event_id: str
    source: str
    event_type: str | None
    transaction_status: str | None
    destination: str
    state: DeliveryState
    accepted_at: float
    due_at: float
    attempts: int
    order_key: str | None
    blocked: bool
    replay_of: int | None
    reason: str | None
    received_at: float
    references: References


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event as it stands.

    Attributes:
        id: of the store, a number; `event_id` is the sender's.
        size: of the body in bytes.
        deliveries: all of them, in the order in which they were made.
        body: where it was asked for.
    """

    id: int
    source: str
    event_id: str
    received_at: float
    content_type: str
    event_type: str | None
    transaction_status: str | None
    references: References
    trace_id: str
    unrouted: bool
    size: int
    deliveries: tuple[DeliveryRecord, ...]
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class QuarantineRecord:
    """One quarantined request. `times`: how often the same bytes came; `body` where it was asked for."""

    id: int
    source: str
    reason: str
    detail: str
    content_type: str
    received_at: float
    last_received_at: float
    times: int
    size: int
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Things that have something in common: how many they are, and the instants they lie between.

    Attributes:
        key: what they have in common; None where they lack it.
    """

    key: tuple[str | None, ...]
    number: int
    oldest_at: float
    newest_at: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Things by what they have in common, the largest group first.

    Attributes:
        more: there are older ones, which weren't looked at.
    """

    groups: tuple[Group, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What is about to be changed by hand.

    Attributes:
        who: the operator.
        action: a word such as `replay`.
        detail: what was asked for, as JSON can hold it.
        id: of the record that an earlier step of the same change made; None for the first step. A record of
            somebody else, or of something else, is left as it is, and the change gets one of its own.
    """

    who: str
    at: float
    action: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    id: int | None = None


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """What was changed by hand. `number`: how many things it changed."""

    id: int
    at: float
    who: str
    action: str
    detail: Mapping[str, Any]
    number: int


@dataclass(frozen=True, slots=True)
class Changed:
    """What a step did.

    Attributes:
        id: of the change's record, for its further steps; None where nothing was done and none was there.
        done: for each item asked for, in order, whether it was done.
        destinations: who has something to deliver, or one thing less.
        left_order: a place in an order was given up that nothing made took; whose turn it is may be fresh.
    """

    id: int | None
    done: tuple[bool, ...]
    destinations: frozenset[str] = frozenset()
    left_order: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """One delivery to be made by hand.

    Attributes:
        event: its id (a number).
        due_at: not before it; it also counts as owed since then.
        order_key: its place in an order, None for none.
        of: the delivery that it repeats, which must be delivered, dead or discarded, with no other one of
            the event to this destination under way. None: the event goes there for the first time, and
            nothing is done where it was delivered to this destination already or is about to be. Either way,
            every dead delivery of the event to this destination is discarded by the new one.
    """

    event: int
    destination: str
    due_at: float
    order_key: str | None = None
    of: int | None = None


class Repair(Protocol):
    """The part of a store that operators need."""

    async def find_events(
        self, wanted: Filter, page: Page, *, bodies: bool = False, to: str | None = None
    ) -> Found[EventRecord]:
        """Return events, by the time of acceptance; with their deliveries to one destination only, or all."""
        ...

    async def find_deliveries(self, wanted: Filter, page: Page) -> Found[DeliveryRecord]:
        """Return deliveries, by the time of their events' acceptance; `unrouted` finds none."""
        ...

    async def read_event(self, id_: int) -> EventRecord | None:
        """Return one event with its body."""
        ...

    async def read_attempts(self, event: int) -> dict[int, tuple[AttemptRecord, ...]]:
        """Return all attempts for an event, by delivery."""
        ...

    async def replay(self, change: Change, replays: Sequence[Replay]) -> Changed:
        """Make deliveries of stored events; an event that was unrouted is so no more."""
        ...

    async def discard(self, change: Change, deliveries: Sequence[int], reason: str) -> Changed:
        """Give up deliveries that are pending or dead."""
        ...

    async def skip(self, change: Change, deliveries: Sequence[int]) -> Changed:
        """Let what waits behind dead deliveries in their order go on; they stay dead."""
        ...

    async def pause(self, change: Change, destination: str) -> Changed:
        """Remember that nothing is to be delivered to a destination; done: it was not so before."""
        ...

    async def resume(self, change: Change, destination: str) -> Changed:
        """Forget a pause; done: there was one."""
        ...

    async def paused(self) -> dict[str, float]:
        """Return the destinations that are paused, and since when."""
        ...

    async def find_quarantined(self, source: str | None, page: Page) -> Found[QuarantineRecord]:
        """Return quarantined requests."""
        ...

    async def read_quarantined(self, id_: int) -> QuarantineRecord | None:
        """Return one quarantined request with its body."""
        ...

    async def release_quarantined(
        self, change: Change, id_: int, event: Event, references: References, owed: Mapping[str, Owed]
    ) -> Acceptance | None:
        """Accept a quarantined request as an event after all, and drop it from quarantine.

        None: it isn't there any more. A duplicate stays in quarantine, and nothing is done.
        """
        ...

    async def discard_quarantined(self, change: Change, ids: Sequence[int]) -> Changed:
        """Delete quarantined requests."""
        ...

    async def find_changes(self, page: Page) -> Found[ChangeRecord]:
        """Return what was changed by hand."""
        ...

    async def last_events(self) -> dict[str, float]:
        """Return when the newest event of each source was received, as far as the newest events tell."""
        ...

    async def count_unrouted(self) -> Counts:
        """Return the newest unrouted events by (event type, transaction status)."""
        ...

    async def count_quarantined(self) -> Counts:
        """Return the newest quarantined requests by (source, reason)."""
        ...

    async def count_dead(self) -> Counts:
        """Return the newest dead deliveries by (destination, reason); each destination has its share.

        The reason is what the last attempt ended with: `HTTP 500`, or an error. The instants are when they
        died.
        """
        ...

    async def add_matches(self, day: str, matches: Mapping[str, int]) -> None:
        """Add how many events each route matched on a day, such as `2026-01-31`; forget days long gone."""
        ...

    async def read_matches(self, since_day: str) -> dict[tuple[str, str], int]:
        """Return how many events routes matched since a day, by (day, route)."""
        ...
