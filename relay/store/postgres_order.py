"""Whose turn it is among deliveries of one key to one destination, where several relays share the store.

As in `sqlite_order`: of each key at most one delivery isn't blocked, its head, and a delivery leaves the
order by losing its key. Who joins or leaves an order holds its lock until the transaction's end, so that no
two do at once: one would miss what the other hasn't committed yet.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import psycopg

Key = tuple[str, str]  # destination, key
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def lock(connection: Connection, keys: Iterable[Key]) -> None:
    """Wait until nobody else joins or leaves these orders; all at once, or two could wait for each other.

    Some keys share a lock: the server has room for so many only, for all its sessions together.
    """
    if wanted := sorted(set(keys)):
        await connection.execute(
            "SELECT pg_advisory_xact_lock(number) FROM ("
            " SELECT DISTINCT hashtextextended(key::text, 0) & 4095 AS number"
            " FROM jsonb_array_elements(%s::jsonb) AS key ORDER BY number) AS numbers",
            (json.dumps(wanted),),
        )


async def taken(connection: Connection, keys: Iterable[Key]) -> set[Key]:
    """Return those keys in whose order somebody is already; they are locked."""
    wanted = sorted(set(keys))
    if not wanted:
        return set()
    cursor = await connection.execute(
        "SELECT key ->> 0, key ->> 1 FROM jsonb_array_elements(%s::jsonb) AS key WHERE EXISTS ("
        " SELECT 1 FROM deliveries AS d WHERE d.destination = key ->> 0 AND d.order_key = key ->> 1)",
        (json.dumps(wanted),),
    )
    return {(destination, key) for destination, key in await cursor.fetchall()}


async def promote(connection: Connection, keys: Collection[Key]) -> None:
    """Unblock the first of each (destination, key), in order of acceptance, whose head has gone; locked."""
    if keys:
        await connection.execute(
            "UPDATE deliveries SET blocked = FALSE WHERE id IN (SELECT ("
            " SELECT d.id FROM deliveries AS d WHERE d.destination = key ->> 0"
            " AND d.order_key = key ->> 1 AND d.blocked ORDER BY d.event, d.id LIMIT 1)"
            " FROM jsonb_array_elements(%s::jsonb) AS key WHERE NOT EXISTS (SELECT 1 FROM deliveries AS h"
            " WHERE h.destination = key ->> 0 AND h.order_key = key ->> 1 AND NOT h.blocked))",
            (json.dumps(sorted(set(keys))),),
        )
