"""What operators look for, read on a connection of its own: the rows of a page, and the values made of them.

Where a page looks is `sqlite_search`'s. Like the writer's, a statement gathers its rows into one JSON value:
each row of its own would have to win Python's global lock back from the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import apsw

from relay.model import DeliveryState, References
from relay.store.cursor import LAST_ID, Position, encode
from relay.store.repair import (
    AttemptRecord,
    ChangeRecord,
    DeliveryRecord,
    EventRecord,
    Filter,
    Found,
    Page,
    QuarantineRecord,
)
from relay.store.sqlite_search import (
    about_delivery,
    begins_after,
    behind,
    beyond,
    direction,
    has_delivery,
    search_for,
)

# Bodies of one page; one event may exceed it alone.
MAX_PAGE_BYTES = 4 << 20

_DELIVERY = (
    "json_array(d.id, e.id, e.event_id, e.source, e.event_type, e.transaction_status, d.destination, d.state,"
    " d.accepted_at, d.due_at, d.attempts, d.order_key, d.blocked, d.replay_of, d.reason)"
)
_QUARANTINED = (
    "json_array(id, source, reason, detail, content_type, received_at, last_received_at, times, length(body))"
)


class Finder:
    """Reads what operators ask for; only one thread at a time may call it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def find_events(self, wanted: Filter, page: Page, *, bodies: bool = False) -> Found[EventRecord]:
        """Return events, by (received_at, id)."""
        with self._connection:  # all statements see the same moment
            search = search_for(self._connection, wanted, page)
            rows = self._json(
                "SELECT json_group_array(json_array(at, id, size)) FROM ("  # noqa: S608
                f"SELECT e.received_at AS at, e.id AS id, length(e.body) AS size FROM {search.events}"
                f" WHERE {search.where} AND (+e.received_at, e.id) {beyond(page)} (:at, :id)"
                f" AND {has_delivery(wanted)} ORDER BY {search.order} LIMIT :limit)",
                search.bindings,
            )
            fitting = _fitting([size for *_, size in rows]) if bodies else len(rows)
            positions = [Position(at, id_, behind(page)) for at, id_, _ in rows]
            chosen, cursor = _cut(positions, min(fitting, page.limit), search.end)
            items = self._events([position.id for position in chosen], bodies=bodies)
        return Found(items, cursor)

    def find_deliveries(self, wanted: Filter, page: Page) -> Found[DeliveryRecord]:
        """Return deliveries, by (received_at of the event, event, id)."""
        if wanted.unrouted:
            return Found((), None)
        with self._connection:
            search = search_for(self._connection, wanted, page)
            rows = self._json(
                "SELECT json_group_array(json_array(at, event, id)) FROM ("  # noqa: S608
                f"SELECT e.received_at AS at, e.id AS event, d.id AS id FROM {search.events}"
                " CROSS JOIN deliveries AS d INDEXED BY deliveries_event ON d.event = e.id"
                f" WHERE {search.where} AND {about_delivery(wanted)}"
                f" AND (+e.received_at, e.id, d.id) {beyond(page)} (:at, :id, :delivery)"
                f" ORDER BY {search.order}, d.id {direction(page)} LIMIT :limit)",
                search.bindings,
            )
            chosen, cursor = _cut([Position(*row) for row in rows], page.limit, search.end)
            items = self._deliveries([position.delivery for position in chosen])
        return Found(items, cursor)

    def read_event(self, id_: int) -> EventRecord | None:
        """Return one event with its body."""
        found = self._events([min(id_, LAST_ID)], bodies=True)
        return found[0] if found else None

    def read_attempts(self, event: int) -> dict[int, tuple[AttemptRecord, ...]]:
        """Return all attempts for an event, by delivery."""
        rows = self._json(
            "SELECT json_group_array(json_array(a.delivery, number, started_at, duration_seconds, status,"
            " error, next_state, hex(answer), answer IS NULL) ORDER BY a.delivery, a.number)"
            " FROM deliveries AS d CROSS JOIN attempts AS a ON a.delivery = d.id WHERE d.event = :event",
            {"event": min(event, LAST_ID)},
        )
        found: dict[int, tuple[AttemptRecord, ...]] = {}
        for delivery, *fields in rows:
            found[delivery] = (*found.get(delivery, ()), _attempt(fields))
        return found

    def find_quarantined(self, source: str | None, page: Page) -> Found[QuarantineRecord]:
        """Return quarantined requests, by id."""
        also = "" if source is None else " AND source = :source"
        rows, cursor = self._by_id("quarantine", _QUARANTINED, page, also, {"source": source})
        return Found(tuple(QuarantineRecord(*row) for row in rows), cursor)

    def read_quarantined(self, id_: int) -> QuarantineRecord | None:
        """Return one quarantined request with its body."""
        row = self._connection.execute(
            f"SELECT {_QUARANTINED}, body FROM quarantine WHERE id = ?",  # noqa: S608
            (min(id_, LAST_ID),),
        ).get
        return None if row is None else replace(QuarantineRecord(*json.loads(row[0])), body=row[1])

    def find_changes(self, page: Page) -> Found[ChangeRecord]:
        """Return what was changed by hand, by id."""
        rows, cursor = self._by_id(
            "changes", "json_array(id, at, who, action, json(detail), number)", page, "", {}
        )
        return Found(tuple(ChangeRecord(*row) for row in rows), cursor)

    def paused(self) -> dict[str, float]:
        """Return the destinations that are paused, and since when."""
        rows = self._json("SELECT json_group_array(json_array(destination, paused_at)) FROM pauses", {})
        return dict(rows)

    # ---- what a page holds

    def _events(self, ids: Sequence[int], *, bodies: bool) -> tuple[EventRecord, ...]:
        wanted = {"ids": json.dumps(ids)}
        rows = self._json(
            "SELECT json_group_array(json_array(e.id, e.source, e.event_id, e.received_at, e.content_type,"  # noqa: S608
            " e.event_type, e.transaction_status, e.order_id, e.itscope_order_id, e.document_id,"
            " e.transaction_id, e.trace_id, e.unrouted, length(e.body),"
            f" json((SELECT json_group_array({_DELIVERY} ORDER BY d.id) FROM deliveries AS d"
            " INDEXED BY deliveries_event WHERE d.event = e.id))) ORDER BY wanted.key)"
            " FROM json_each(:ids) AS wanted CROSS JOIN events AS e ON e.id = wanted.value",
            wanted,
        )
        if not bodies:
            return tuple(_event(row, None) for row in rows)
        # Hex, since SQLite has no way to gather blobs.
        texts: str = self._connection.execute(
            "SELECT coalesce(group_concat(hex(e.body), ',' ORDER BY wanted.key), '')"
            " FROM json_each(:ids) AS wanted CROSS JOIN events AS e ON e.id = wanted.value",
            wanted,
        ).get
        return tuple(
            _event(row, bytes.fromhex(text)) for row, text in zip(rows, texts.split(","), strict=False)
        )

    def _deliveries(self, ids: Sequence[int]) -> tuple[DeliveryRecord, ...]:
        rows = self._json(
            f"SELECT json_group_array({_DELIVERY} ORDER BY wanted.key) FROM json_each(:ids) AS wanted"  # noqa: S608
            " CROSS JOIN deliveries AS d ON d.id = wanted.value CROSS JOIN events AS e ON e.id = d.event",
            {"ids": json.dumps(ids)},
        )
        return tuple(_delivery(row) for row in rows)

    def _by_id(
        self, table: str, columns: str, page: Page, also: str, bindings: dict[str, Any]
    ) -> tuple[list[Any], str | None]:
        """Return a page of a table without events, as rows of JSON that begin with their ids."""
        after = begins_after(page)
        rows = self._json(
            f"SELECT json_group_array(json(item)) FROM (SELECT {columns} AS item FROM {table}"  # noqa: S608
            f" WHERE id {beyond(page)} :id{also} ORDER BY id {direction(page)} LIMIT :limit)",
            {**bindings, "id": after.id, "limit": page.limit + 1},
        )
        chosen, cursor = _cut([Position(0.0, row[0], 0) for row in rows], page.limit, None)
        return rows[: len(chosen)], cursor

    def _json(self, sql: str, bindings: dict[str, Any]) -> Any:
        """Return what a statement gathers into one JSON value."""
        return json.loads(self._connection.execute(sql, bindings).get)


def _fitting(sizes: Sequence[int]) -> int:
    """Return how many bodies, at least one, fit a page."""
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if number and total > MAX_PAGE_BYTES:
            return number
    return len(sizes)


def _cut(
    positions: Sequence[Position], limit: int, end: Position | None
) -> tuple[Sequence[Position], str | None]:
    """Return what a page holds, and where the next one begins."""
    if len(positions) > limit:
        return positions[:limit], encode(positions[limit - 1])
    return positions, None if end is None else encode(end)


def _event(row: Sequence[Any], body: bytes | None) -> EventRecord:
    id_, source, event_id, received_at, content_type, event_type, status, *rest = row
    *references, trace_id, unrouted, size, deliveries = rest
    return EventRecord(
        id=id_,
        source=source,
        event_id=event_id,
        received_at=received_at,
        content_type=content_type,
        event_type=event_type,
        transaction_status=status,
        references=References(*references),
        trace_id=trace_id,
        unrouted=bool(unrouted),
        size=size,
        deliveries=tuple(_delivery(delivery) for delivery in deliveries),
        body=body,
    )


def _delivery(row: Sequence[Any]) -> DeliveryRecord:
    id_, event, event_id, source, event_type, status, destination, state, *rest = row
    accepted_at, due_at, attempts, order_key, blocked, replay_of, reason = rest
    return DeliveryRecord(
        id=id_,
        event=event,
        event_id=event_id,
        source=source,
        event_type=event_type,
        transaction_status=status,
        destination=destination,
        state=DeliveryState(state),
        accepted_at=accepted_at,
        due_at=due_at,
        attempts=attempts,
        order_key=order_key,
        blocked=bool(blocked),
        replay_of=replay_of,
        reason=reason,
    )


def _attempt(row: Sequence[Any]) -> AttemptRecord:
    number, started_at, duration_seconds, status, error, next_state, answer, unanswered = row
    kept = None if unanswered else bytes.fromhex(answer)
    return AttemptRecord(number, started_at, duration_seconds, status, error, DeliveryState(next_state), kept)
