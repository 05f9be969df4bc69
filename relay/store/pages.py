"""What a page of a search holds, whichever database it is read from: its bounds, its cursor, its records.

Owns what the stores' SQL has in common: what is rare, the columns of which records are made, and what must
equal what is wanted. How a database is made to look at no more than that is left to each store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from relay.model import DeliveryState, References
from relay.store.cursor import LAST_ID, Position, beginning, decode, encode
from relay.store.repair import AttemptRecord, DeliveryRecord, EventRecord, Filter, Page

R = TypeVar("R", bound=Sequence[Any])

# Events that one page looks at: some ten milliseconds, in which the event loop gets its turns.
MAX_LOOKED_AT = 5_000
# Bodies of one page; one event may exceed it alone.
MAX_PAGE_BYTES = 4 << 20

# Columns of events `e`, of deliveries `d` with their events, and of the quarantine, in the records' order.
REFERENCES = "e.order_id, e.itscope_order_id, e.document_id, e.transaction_id"
EVENT = (
    "e.id, e.source, e.event_id, e.received_at, e.content_type, e.event_type, e.transaction_status,"
    f" {REFERENCES}, e.trace_id, e.unrouted"
)
DELIVERY = (
    "d.id, e.id, e.event_id, e.source, e.event_type, e.transaction_status, d.destination, d.state,"
    " d.accepted_at, d.due_at, d.attempts, d.order_key, d.blocked, d.replay_of, d.reason,"
    " e.received_at"
)
_STATE, _BLOCKED = 7, 12  # their places in it
_IDS = 4  # columns of REFERENCES
QUARANTINED = "id, source, reason, detail, content_type, received_at, last_received_at, times, length(body)"
# Those by which `Filter.any_id` and `Filter.prefix` find.
ID_COLUMNS = ("event_id", "order_id", "itscope_order_id", "document_id", "transaction_id")
IDS = ", ".join(f"e.{column}" for column in ID_COLUMNS)
_AFTER_ALL = "\U0010ffff" * 256  # the last character, more often than the store keeps characters of an id
# An event's id is unique within its source; the few sources are found by leaping from one to the next.
SOURCES = (
    "WITH RECURSIVE sources (source) AS (SELECT min(source) FROM events UNION ALL"
    " SELECT (SELECT min(source) FROM events WHERE source > s.source) FROM sources AS s"
    " WHERE s.source IS NOT NULL) SELECT source FROM sources WHERE source IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class Rare:
    """A store's queries for what is rare: each finds all events that can be meant, and perhaps some more.

    Attributes:
        delivery: by `Filter.delivery`.
        any_id: by `Filter.any_id`.
        prefix: by `Filter.prefix`.
        states: by a state; `{to}` stands where `to` narrows it to a destination.
        unrouted: all of them.
    """

    delivery: str
    any_id: str
    prefix: str
    states: Mapping[DeliveryState, str]
    to: str
    unrouted: str

    def meant(self, wanted: Filter) -> Iterator[str]:
        """Yield the queries for what a search wants; none if it wants nothing rare."""
        if wanted.delivery is not None:
            yield self.delivery
        if wanted.any_id is not None:
            yield self.any_id
        if wanted.prefix is not None:
            yield self.prefix
        if wanted.state is not None and wanted.state in self.states:
            yield self.states[wanted.state].format(to="" if wanted.destination is None else self.to)
        if wanted.unrouted:
            yield self.unrouted


# ---- where a page looks


@dataclass(frozen=True, slots=True)
class Search:
    """The events that one page looks at, as the middle of a SELECT in which they are called `e`.

    Attributes:
        events: what stands after FROM.
        where: what they must fulfil; that at the page's edge does, whoever selects cuts there.
        order: what stands after ORDER BY.
        end: behind the last event looked at; None: there are no more.
    """

    events: str
    where: str
    order: str
    bindings: dict[str, Any]
    end: Position | None


def begins_after(page: Page) -> Position:
    """Return the last position of the page before.

    Raises:
        ValueError: the cursor is none.
    """
    return beginning(newest_first=page.newest_first) if page.cursor is None else decode(page.cursor)


def direction(page: Page) -> str:
    """Return how a page is sorted."""
    return "DESC" if page.newest_first else "ASC"


def beyond(page: Page) -> str:
    """Return how what is on a page compares to the last position of the page before."""
    return "<" if page.newest_first else ">"


def by_acceptance(page: Page) -> str:
    """Return what stands after ORDER BY for the events of a page."""
    return f"e.received_at {direction(page)}, e.id {direction(page)}"


def about_event(wanted: Filter) -> list[tuple[str, str]]:
    """Return which columns of an event must equal which bindings, but for its ids."""
    given = {
        "event_type": wanted.event_type,
        "transaction_status": wanted.transaction_status,
        "source": wanted.source,
        "unrouted": wanted.unrouted or None,
    }
    return [(f"e.{name}", name) for name, value in given.items() if value is not None]


def about_delivery(wanted: Filter) -> list[tuple[str, str]]:
    """Return which columns of a delivery must equal which bindings."""
    given = {
        ("d.state", "state"): wanted.state,
        ("d.destination", "destination"): wanted.destination,
        ("d.id", "wanted_delivery"): wanted.delivery,
    }
    return [equal for equal, value in given.items() if value is not None]


def bindings(wanted: Filter, page: Page) -> dict[str, Any]:
    """Return what a search is for, where its page begins, and how many rows tell whether more follow.

    Raises:
        ValueError: the cursor is none.
    """
    return {
        **begins_after(page)._asdict(),
        "since": beginning(newest_first=False).at if wanted.since is None else wanted.since,
        "until": beginning(newest_first=True).at if wanted.until is None else wanted.until,
        "any_id": wanted.any_id,
        "prefix": wanted.prefix,
        "prefix_end": None if wanted.prefix is None else wanted.prefix + _AFTER_ALL,
        "event_type": wanted.event_type,
        "transaction_status": wanted.transaction_status,
        "source": wanted.source,
        "unrouted": wanted.unrouted,
        "state": wanted.state and wanted.state.value,
        "destination": wanted.destination,
        "wanted_delivery": None if wanted.delivery is None else min(wanted.delivery, LAST_ID),
        "limit": page.limit + 1,
    }


# ---- where it ends


def behind(page: Page) -> int:
    """Return the place behind all deliveries of an event."""
    return 0 if page.newest_first else LAST_ID


def cut(
    positions: Sequence[Position], limit: int, end: Position | None
) -> tuple[Sequence[Position], str | None]:
    """Return what a page holds, and where the next one begins.

    Args:
        positions: of what was found, in order; one more than `limit` tells that more follows.
        limit: what the page holds at the most.
        end: behind the last that was looked at; None: there is no more.
    """
    if len(positions) > limit:
        return positions[:limit], encode(positions[limit - 1])
    return positions, None if end is None else encode(end)


def cut_events(
    rows: Sequence[Sequence[Any]], page: Page, end: Position | None, max_bytes: int | None
) -> tuple[list[int], str | None]:
    """Return the ids of a page's events, and where the next one begins.

    Args:
        rows: received_at, id and size of the events that were found, in order.
        page: which part of them.
        end: as `cut` takes it.
        max_bytes: bound of their bodies' sum; one event may exceed it alone.
    """
    fitting = len(rows) if max_bytes is None else _fitting([size for *_, size in rows], max_bytes)
    positions = [Position(at, id_, behind(page)) for at, id_, _ in rows]
    chosen, cursor = cut(positions, min(fitting, page.limit), end)
    return [position.id for position in chosen], cursor


def cut_by_id(rows: Sequence[R], page: Page) -> tuple[Sequence[R], str | None]:
    """Return those rows that a page holds, which begin with their ids, and where the next one begins."""
    chosen, cursor = cut([Position(0.0, row[0], 0) for row in rows], page.limit, None)
    return rows[: len(chosen)], cursor


def _fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """Return how many bodies, at least one, fit a page."""
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if number and total > max_bytes:
            return number
    return len(sizes)


# ---- what it holds


def event_record(row: Sequence[Any], deliveries: Iterable[Sequence[Any]], body: bytes | None) -> EventRecord:
    """Return an event made of `EVENT` and its size, and of the `DELIVERY` of each of its deliveries."""
    id_, source, event_id, received_at, content_type, event_type, status, *rest = row
    *ids, trace_id, unrouted, size = rest
    references = References(*ids)
    return EventRecord(
        id=id_,
        source=source,
        event_id=event_id,
        received_at=received_at,
        content_type=content_type,
        event_type=event_type,
        transaction_status=status,
        references=references,
        trace_id=trace_id,
        unrouted=bool(unrouted),
        size=size,
        deliveries=tuple(delivery_record(delivery, references) for delivery in deliveries),
        body=body,
    )


def listed_delivery(row: Sequence[Any]) -> DeliveryRecord:
    """Return a delivery made of `REFERENCES` and `DELIVERY`."""
    return delivery_record(row[_IDS:], References(*row[:_IDS]))


def delivery_record(row: Sequence[Any], references: References) -> DeliveryRecord:
    """Return a delivery made of `DELIVERY`, and of what its event refers to."""
    fields = [*row, references]  # made anew with `replace` it would cost twice as much
    fields[_STATE], fields[_BLOCKED] = DeliveryState(fields[_STATE]), bool(fields[_BLOCKED])
    return DeliveryRecord(*fields)


def attempt_records(rows: Iterable[Sequence[Any]]) -> dict[int, tuple[AttemptRecord, ...]]:
    """Return attempts by delivery, made of its id and what `AttemptRecord` lists, in that order."""
    found: dict[int, tuple[AttemptRecord, ...]] = {}
    for delivery, number, started_at, duration_seconds, status, error, next_state, answer in rows:
        state = DeliveryState(next_state)
        record = AttemptRecord(number, started_at, duration_seconds, status, error, state, answer)
        found[delivery] = (*found.get(delivery, ()), record)
    return found
