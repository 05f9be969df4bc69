"""Stores with a past: events that were delivered to every destination long ago, or that wait for a dead one.

Made by SQL, since a relay would take an hour. What the schema counts by itself, its triggers count here too.
"""

from __future__ import annotations

import asyncio
import time
import uuid
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
    connection = _create(path)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000"):
        connection.pragma(*pragma.split(" = "))
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
    with connection:
        for statement in (_WAITING_EVENTS, _WAITING_DELIVERIES, _PAUSE):
            connection.execute(statement, bindings)
    connection.close()


def _create(path: Path) -> apsw.Connection:
    """Make an empty store and return a connection to it."""

    async def create() -> None:
        await open_store(path, lambda _seconds: None).close()

    asyncio.run(create())
    return apsw.Connection(str(path))
