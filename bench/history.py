"""A store with a past: events that were delivered to every destination long ago."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import apsw

from bench.clock import webhook
from relay.store.sqlite import open_store


def make(path: Path, events: int, destinations: int) -> None:
    """Make a store of so many events, each delivered to d0, d1, ... a day ago."""

    async def create() -> None:
        await open_store(path, lambda _seconds: None).close()

    asyncio.run(create())
    connection = apsw.Connection(str(path))
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
