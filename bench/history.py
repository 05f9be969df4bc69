"""Stores with a past: events delivered to every destination long ago, waiting for a dead one, or all sorts.

Made by SQL, since a relay would take an hour. What the schema counts by itself, its triggers count here too.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw

from bench.clock import webhook
from relay.store.sqlite import open_store

# Where an index is concerned, the eventIds are as random as UUIDs.
_WAITING_EVENTS = """
    WITH RECURSIVE n (i) AS (SELECT 1 WHERE :number > 0 UNION ALL SELECT i + 1 FROM n WHERE i < :number),
    ids (i, event_id) AS (
        SELECT i, printf('%08x-0000-4000-8000-%012x', (i * 2654435761) & 4294967295, i) FROM n
    )
    INSERT INTO events (id, source, event_id, received_at, content_type, event_type, transaction_status,
        trace_id, unrouted, body, order_id)
    SELECT i, 'itscope', event_id, :since + i * :step, 'application/json', 'INVOICE', 'ARRIVED',
        printf('%032x', i), 0, CAST(replace(:body, :mark, event_id) AS BLOB), 'PO-' || i
    FROM ids
"""
_WAITING_DELIVERIES = """
    INSERT INTO deliveries (id, event, destination, state, accepted_at, due_at)
    SELECT id, id, :destination, 'pending', received_at, received_at FROM events ORDER BY id
"""
# Orders of a busy dealer: four events each, of every type, and what went wrong with some.
_VARIED = """
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number),
    ids (i, event_id) AS (
        SELECT i, printf('%08x-0000-4000-8000-%012x', (i * 2654435761) & 4294967295, i) FROM n
    )
    INSERT INTO events (id, source, event_id, received_at, content_type, event_type, transaction_status,
        trace_id, unrouted, body, order_id, itscope_order_id, document_id, transaction_id)
    SELECT i, 'itscope', event_id, :since + i * :step, 'application/json',
        CASE WHEN i % 500 = 0 THEN 'CREDITNOTE'
            ELSE json_extract('["ORDER", "ORDERRESPONSE", "DELIVERY", "INVOICE"]', '$[' || (i % 4) || ']')
            END,
        json_extract('["SENT", "ACCEPTED", "ARRIVED", "ARRIVED"]', '$[' || (i % 4) || ']'),
        printf('%032x', i), i % 500 = 0, CAST(replace(:body, :mark, event_id) AS BLOB),
        printf('PO-%07d', i / 4), printf('IT-%08d', i / 4), 'D-' || i, CASE WHEN i % 4 THEN 'T-' || i END
    FROM ids
"""
_VARIED_DELIVERIES = """
    INSERT INTO deliveries (event, destination, state, accepted_at, due_at, attempts, fresh)
    SELECT e.id, to_.value, CASE WHEN to_.value = 'd2' AND e.id % 100 = 1 THEN 'dead' ELSE 'delivered' END,
        e.received_at, e.received_at + 0.01, 1, 0
    FROM events AS e CROSS JOIN json_each('["d0", "d1", "d2"]') AS to_ WHERE e.unrouted = 0
"""
_VARIED_ATTEMPTS = """
    INSERT INTO attempts (delivery, number, started_at, duration_seconds, status, error, next_state, answer)
    SELECT id, 1, accepted_at, 0.01, CASE state WHEN 'dead' THEN 400 + id % 3 * 11 ELSE 200 END, NULL, state,
        CASE state WHEN 'dead' THEN CAST('{"error": "no such article"}' AS BLOB) END
    FROM deliveries
"""
_VARIED_QUARANTINE = """
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
    INSERT INTO quarantine (source, reason, digest, detail, content_type, received_at, last_received_at,
        times, body)
    SELECT 'itscope', 'not-json', printf('%064x', i), 'a comma is missing', 'application/json',
        :since + i, :since + i, 1, CAST('{"eventId": ' || i AS BLOB) FROM n
"""
_PAUSE = "INSERT INTO pauses (destination, paused_at) VALUES (:destination, :now)"


def make(path: Path, events: int, destinations: int) -> None:
    """Make a store of so many events, each delivered to d0, d1, ... a day ago."""

    connection = _create(path)
    at = time.time() - 86400.0
    with connection:
        connection.executemany(
            "INSERT INTO events (id, source, event_id, received_at, content_type, event_type,"
            " transaction_status, trace_id, unrouted, body, order_id)"
            " VALUES (?, 'itscope', ?, ?, 'application/json', 'INVOICE', 'ARRIVED', ?, 0, ?, 'PO-123456')",
            (
                (number, event_id, at + number / 1000, uuid.uuid4().hex, webhook(event_id))
                for number, event_id in ((number, str(uuid.uuid4())) for number in range(1, events + 1))
            ),
        )
        connection.executemany(
            "INSERT INTO deliveries (event, destination, state, accepted_at, due_at, attempts, fresh)"
            " VALUES (?, ?, 'delivered', ?, ?, 1, 0)",
            (
                (number, f"d{destination}", at + number / 1000, at + number / 1000 + 0.01)
                for number in range(1, events + 1)
                for destination in range(destinations)
            ),
        )
    connection.close()


def make_waiting(path: Path, number: int, destination: str) -> None:
    """Make a store in which a destination is paused, and so many deliveries wait for it, each of an event.

    They were accepted within the last day, and none was tried yet.
    """
    now, mark = time.time(), "#" * 36
    bindings = {
        "number": number,
        "destination": destination,
        "since": now - 86400.0,
        "step": 86400.0 / max(1, number),
        "body": webhook(mark).decode(),
        "mark": mark,
        "now": now,
    }
    _fill(path, (_WAITING_EVENTS, _WAITING_DELIVERIES, _PAUSE), bindings)


def make_varied(path: Path, number: int) -> None:
    """Make a store of so many events of the last month, of all types, with three deliveries each.

    One event in 500 is unrouted, one in 100 is dead at one of the destinations, and 1,000 requests are in
    quarantine.
    """
    mark = "#" * 36
    month = 30 * 86400.0
    bindings = {
        "number": number,
        "since": time.time() - month,
        "step": month / number,
        "body": webhook(mark).decode(),
        "mark": mark,
    }
    _fill(path, (_VARIED, _VARIED_DELIVERIES, _VARIED_ATTEMPTS, _VARIED_QUARANTINE), bindings)


def _fill(path: Path, statements: Sequence[str], bindings: Mapping[str, object]) -> None:
    """Make a store by statements, without a thought of what a crash would leave."""
    connection = _create(path)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000"):
        connection.pragma(*pragma.split(" = "))
    with connection:
        for statement in statements:
            connection.execute(statement, bindings)
    connection.close()


def _create(path: Path) -> apsw.Connection:
    """Make an empty store and return a connection to it."""

    async def create() -> None:
        await open_store(path, lambda _seconds: None).close()

    asyncio.run(create())
    return apsw.Connection(str(path))
