"""What operators look for, read from PostgreSQL: the rows of a page, and the values made of them.

Where a page looks is `postgres_search`'s. The caller has begun a transaction that sees one moment and
ends with the call: how a search wants its statements planned holds until then.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from relay.store.cursor import LAST_ID, Position
from relay.store.pages import (
    DELIVERY,
    EVENT,
    MAX_PAGE_BYTES,
    QUARANTINED,
    REFERENCES,
    attempt_records,
    begins_after,
    beyond,
    cut,
    cut_by_id,
    cut_events,
    direction,
    event_record,
    listed_delivery,
)
from relay.store.postgres_order import Connection
from relay.store.postgres_search import about_delivery, each, has_delivery, search_for, with_deliveries
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

_EVENT_BY_ID = each("events", "id = wanted.id", "e")
_EVENT_OF_DELIVERY = each("events", "id = d.event", "e")
_DELIVERIES_OF_EVENT = each("deliveries", "event = e.id", "d")
_DELIVERY_BY_ID = each("deliveries", "id = wanted.id", "d")
_WANTED = "unnest(%(ids)s::bigint[]) WITH ORDINALITY AS wanted (id, place)"


async def find_events(
    connection: Connection, wanted: Filter, page: Page, *, bodies: bool = False, to: str | None = None
) -> Found[EventRecord]:
    """Return events, by (received_at, id)."""
    search = await search_for(connection, wanted, page)
    rows = await _rows(
        connection,
        f"SELECT e.received_at, e.id, e.size FROM {search.events} WHERE {search.where}"  # noqa: S608
        f" AND (e.received_at, e.id) {beyond(page)} (%(at)s, %(id)s)"
        f" AND {has_delivery(wanted)} ORDER BY {search.order} LIMIT %(limit)s",
        search.bindings,
    )
    ids, cursor = cut_events(rows, page, search.end, MAX_PAGE_BYTES if bodies else None)
    return Found(await _events(connection, ids, bodies=bodies, to=to), cursor)


async def find_deliveries(connection: Connection, wanted: Filter, page: Page) -> Found[DeliveryRecord]:
    """Return deliveries, by (received_at of the event, event, id)."""
    if wanted.unrouted:
        return Found((), None)
    search = await search_for(connection, wanted, page)
    rows = await _rows(
        connection,
        f"SELECT e.received_at, e.id, d.id FROM {with_deliveries(search)}"  # noqa: S608
        f" WHERE {search.where} AND {about_delivery(wanted)}"
        f" AND (e.received_at, e.id, d.id) {beyond(page)} (%(at)s, %(id)s, %(delivery)s)"
        f" ORDER BY {search.order}, d.id {direction(page)} LIMIT %(limit)s",
        search.bindings,
    )
    chosen, cursor = cut([Position(*row) for row in rows], page.limit, search.end)
    return Found(await _deliveries(connection, [position.delivery for position in chosen]), cursor)


async def read_event(connection: Connection, id_: int) -> EventRecord | None:
    """Return one event with its body."""
    found = await _events(connection, [min(id_, LAST_ID)], bodies=True)
    return found[0] if found else None


async def read_attempts(connection: Connection, event: int) -> dict[int, tuple[AttemptRecord, ...]]:
    """Return all attempts for an event, by delivery."""
    rows = await _rows(
        connection,
        "SELECT a.delivery, a.number, a.started_at, a.duration_seconds, a.status, a.error, a.next_state,"  # noqa: S608
        f" a.answer FROM deliveries AS d CROSS JOIN {each('attempts', 'delivery = d.id', 'a')}"
        " WHERE d.event = %(event)s ORDER BY a.delivery, a.number",
        {"event": min(event, LAST_ID)},
    )
    return attempt_records(rows)


async def find_quarantined(connection: Connection, source: str | None, page: Page) -> Found[QuarantineRecord]:
    """Return quarantined requests, by id."""
    rows, cursor = await _by_id(connection, "quarantine", QUARANTINED, page, source)
    return Found(tuple(QuarantineRecord(*row) for row in rows), cursor)


async def read_quarantined(connection: Connection, id_: int) -> QuarantineRecord | None:
    """Return one quarantined request with its body."""
    rows = await _rows(
        connection,
        f"SELECT {QUARANTINED}, body FROM quarantine WHERE id = %(id)s",  # noqa: S608
        {"id": min(id_, LAST_ID)},
    )
    return next((replace(QuarantineRecord(*row), body=body) for *row, body in rows), None)


async def find_changes(connection: Connection, page: Page) -> Found[ChangeRecord]:
    """Return what was changed by hand, by id."""
    rows, cursor = await _by_id(connection, "changes", "id, at, who, action, number, detail", page)
    return Found(
        tuple(
            ChangeRecord(id_, at, who, action, json.loads(detail), number)
            for id_, at, who, action, number, detail in rows
        ),
        cursor,
    )


async def paused(connection: Connection) -> dict[str, float]:
    """Return the destinations that are paused, and since when."""
    return dict(await _rows(connection, "SELECT destination, paused_at FROM pauses", {}))


# ---- what a page holds


async def _events(
    connection: Connection, ids: Sequence[int], *, bodies: bool, to: str | None = None
) -> tuple[EventRecord, ...]:
    wanted = {"ids": list(ids), "to": to}
    rows = await _rows(
        connection,
        f"SELECT {EVENT}, e.size, {'e.body' if bodies else 'NULL'} FROM {_WANTED}"  # noqa: S608
        f" CROSS JOIN {_EVENT_BY_ID} ORDER BY wanted.place",
        wanted,
    )
    deliveries = defaultdict(list)
    for row in await _rows(
        connection,
        f"SELECT e.id, {DELIVERY} FROM {_WANTED} CROSS JOIN {_EVENT_BY_ID}"  # noqa: S608
        f" CROSS JOIN {_DELIVERIES_OF_EVENT} WHERE %(to)s::text IS NULL OR d.destination = %(to)s"
        " ORDER BY d.id",
        wanted,
    ):
        deliveries[row[0]].append(row[1:])
    return tuple(event_record(row, deliveries[row[0]], body) for *row, body in rows)


async def _deliveries(connection: Connection, ids: Sequence[int]) -> tuple[DeliveryRecord, ...]:
    rows = await _rows(
        connection,
        f"SELECT {REFERENCES}, {DELIVERY} FROM {_WANTED} CROSS JOIN {_DELIVERY_BY_ID}"  # noqa: S608
        f" CROSS JOIN {_EVENT_OF_DELIVERY} ORDER BY wanted.place",
        {"ids": list(ids)},
    )
    return tuple(map(listed_delivery, rows))


async def _by_id(
    connection: Connection, table: str, columns: str, page: Page, source: str | None = None
) -> tuple[Sequence[tuple[Any, ...]], str | None]:
    """Return a page of a table without events, as rows that begin with their ids."""
    also = "" if source is None else " AND source = %(source)s"
    rows = await _rows(
        connection,
        f"SELECT {columns} FROM {table} WHERE id {beyond(page)} %(id)s{also}"  # noqa: S608
        f" ORDER BY id {direction(page)} LIMIT %(limit)s",
        {"id": begins_after(page).id, "limit": page.limit + 1, "source": source},
    )
    return cut_by_id(rows, page)


async def _rows(connection: Connection, sql: str, bindings: dict[str, Any]) -> list[tuple[Any, ...]]:
    return await (await connection.execute(sql, bindings)).fetchall()
