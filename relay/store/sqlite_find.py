"""What operators look for, read on a connection of its own: the rows of a page, and the values made of them.

Where a page looks is `sqlite_search`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import apsw

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
from relay.store.sqlite_json import gathered
from relay.store.sqlite_search import about_delivery, has_delivery, search_for

__all__ = ["MAX_PAGE_BYTES", "Finder"]

_DELIVERY = f"json_array({DELIVERY})"
_LISTED_DELIVERY = f"json_array({REFERENCES}, {DELIVERY})"
_QUARANTINED = f"json_array({QUARANTINED})"


class Finder:
    """Reads what operators ask for; only one thread at a time may call it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def find_events(
        self, wanted: Filter, page: Page, *, bodies: bool = False, to: str | None = None
    ) -> Found[EventRecord]:
        """Return events, by (received_at, id)."""
        with self._connection:  # all statements see the same moment
            search = search_for(self._connection, wanted, page)
            size = "length(e.body)" if bodies else "0"  # which takes a look at each row that is sorted
            rows = gathered(
                self._connection,
                "SELECT json_group_array(json_array(at, id, size)) FROM ("  # noqa: S608
                f"SELECT e.received_at AS at, e.id AS id, {size} AS size FROM {search.events}"
                f" WHERE {search.where} AND (+e.received_at, e.id) {beyond(page)} (:at, :id)"
                f" AND {has_delivery(wanted)} ORDER BY {search.order} LIMIT :limit)",
                search.bindings,
            )
            ids, cursor = cut_events(rows, page, search.end, MAX_PAGE_BYTES if bodies else None)
            items = self._events(ids, bodies=bodies, to=to)
        return Found(items, cursor)

    def find_deliveries(self, wanted: Filter, page: Page) -> Found[DeliveryRecord]:
        """Return deliveries, by (received_at of the event, event, id)."""
        if wanted.unrouted:
            return Found((), None)
        with self._connection:
            search = search_for(self._connection, wanted, page)
            rows = gathered(
                self._connection,
                "SELECT json_group_array(json_array(at, event, id)) FROM ("  # noqa: S608
                f"SELECT e.received_at AS at, e.id AS event, d.id AS id FROM {search.events}"
                " CROSS JOIN deliveries AS d INDEXED BY deliveries_event ON d.event = e.id"
                f" WHERE {search.where} AND {about_delivery(wanted)}"
                f" AND (+e.received_at, e.id, d.id) {beyond(page)} (:at, :id, :delivery)"
                f" ORDER BY {search.order}, d.id {direction(page)} LIMIT :limit)",
                search.bindings,
            )
            chosen, cursor = cut([Position(*row) for row in rows], page.limit, search.end)
            items = self._deliveries([position.delivery for position in chosen])
        return Found(items, cursor)

    def read_event(self, id_: int) -> EventRecord | None:
        """Return one event with its body."""
        found = self._events([min(id_, LAST_ID)], bodies=True)
        return found[0] if found else None

    def read_attempts(self, event: int) -> dict[int, tuple[AttemptRecord, ...]]:
        """Return all attempts for an event, by delivery."""
        rows = gathered(
            self._connection,
            "SELECT json_group_array(json_array(a.delivery, number, started_at, duration_seconds, status,"
            " error, next_state, hex(answer), answer IS NULL) ORDER BY a.delivery, a.number)"
            " FROM deliveries AS d CROSS JOIN attempts AS a ON a.delivery = d.id WHERE d.event = :event",
            {"event": min(event, LAST_ID)},
        )
        return attempt_records(
            (*fields, None if unanswered else bytes.fromhex(answer)) for *fields, answer, unanswered in rows
        )

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
        rows = gathered(
            self._connection, "SELECT json_group_array(json_array(destination, paused_at)) FROM pauses"
        )
        return dict(rows)

    # ---- what a page holds

    def _events(self, ids: Sequence[int], *, bodies: bool, to: str | None = None) -> tuple[EventRecord, ...]:
        wanted = {"ids": json.dumps(ids), "to": to}
        rows = gathered(
            self._connection,
            f"SELECT json_group_array(json_array({EVENT}, length(e.body),"  # noqa: S608
            f" json((SELECT json_group_array({_DELIVERY} ORDER BY d.id) FROM deliveries AS d"
            " INDEXED BY deliveries_event WHERE d.event = e.id AND (:to IS NULL OR d.destination = :to))))"
            " ORDER BY wanted.key)"
            " FROM json_each(:ids) AS wanted CROSS JOIN events AS e ON e.id = wanted.value",
            wanted,
        )
        if not bodies:
            return tuple(event_record(row, deliveries, None) for *row, deliveries in rows)
        # Hex, since SQLite has no way to gather blobs.
        texts: str = self._connection.execute(
            "SELECT coalesce(group_concat(hex(e.body), ',' ORDER BY wanted.key), '')"
            " FROM json_each(:ids) AS wanted CROSS JOIN events AS e ON e.id = wanted.value",
            wanted,
        ).get
        return tuple(
            event_record(row, deliveries, bytes.fromhex(text))
            for (*row, deliveries), text in zip(rows, texts.split(","), strict=False)
        )

    def _deliveries(self, ids: Sequence[int]) -> tuple[DeliveryRecord, ...]:
        rows = gathered(
            self._connection,
            f"SELECT json_group_array({_LISTED_DELIVERY} ORDER BY wanted.key)"  # noqa: S608
            " FROM json_each(:ids) AS wanted"
            " CROSS JOIN deliveries AS d ON d.id = wanted.value CROSS JOIN events AS e ON e.id = d.event",
            {"ids": json.dumps(ids)},
        )
        return tuple(map(listed_delivery, rows))

    def _by_id(
        self, table: str, columns: str, page: Page, also: str, bindings: dict[str, Any]
    ) -> tuple[Sequence[Any], str | None]:
        """Return a page of a table without events, as rows of JSON that begin with their ids."""
        after = begins_after(page)
        rows = gathered(
            self._connection,
            f"SELECT json_group_array(json(item)) FROM (SELECT {columns} AS item FROM {table}"  # noqa: S608
            f" WHERE id {beyond(page)} :id{also} ORDER BY id {direction(page)} LIMIT :limit)",
            {**bindings, "id": after.id, "limit": page.limit + 1},
        )
        return cut_by_id(rows, page)
