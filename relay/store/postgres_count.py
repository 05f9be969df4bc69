"""How much of a kind there is, read from PostgreSQL: as in `sqlite_count`, each look is bounded.

The caller has begun a transaction that sees one moment and ends with the call.
"""

from __future__ import annotations

from typing import Any

from relay.store.counts import MAX_COUNTED, MAX_DEAD, NEWEST_EVENTS, REASON, counts, shared
from relay.store.postgres_order import Connection
from relay.store.postgres_search import by_index, each
from relay.store.repair import Counts

_LAST = (
    "SELECT source, max(received_at) FROM (SELECT source, received_at FROM events"  # noqa: S608
    f" ORDER BY received_at DESC, id DESC LIMIT {NEWEST_EVENTS}) AS e GROUP BY source"
)
_UNROUTED = "events WHERE unrouted ORDER BY id DESC"
_QUARANTINED = "quarantine ORDER BY id DESC"
_BY_TYPE = (
    "SELECT event_type, transaction_status, count(*), min(received_at), max(received_at)"  # noqa: S608
    f" FROM (SELECT * FROM {_UNROUTED} LIMIT {MAX_COUNTED}) AS e GROUP BY 1, 2"
)
_BY_SOURCE = (
    "SELECT source, reason, count(*), min(received_at), max(last_received_at)"  # noqa: S608
    f" FROM (SELECT * FROM {_QUARANTINED} LIMIT {MAX_COUNTED}) AS q GROUP BY 1, 2"
)
_DEAD = "deliveries WHERE state = 'dead'"
# Leaping from one to the next, as there are few.
_DESTINATIONS = (
    f"WITH RECURSIVE leap (name) AS (SELECT min(destination) FROM {_DEAD} UNION ALL"  # noqa: S608
    f" SELECT (SELECT min(destination) FROM {_DEAD} AND destination > leap.name)"
    " FROM leap WHERE name IS NOT NULL) SELECT name, (SELECT count(*) FROM"
    f" (SELECT FROM {_DEAD} AND destination = leap.name LIMIT {MAX_DEAD + 1}) AS d)"
    " FROM leap WHERE name IS NOT NULL"
)
_LAST_ATTEMPT = each("attempts", "delivery = d.id AND number = d.attempts", "a")
_BY_REASON = (
    f"SELECT d.destination, {REASON}, count(*), min(d.due_at), max(d.due_at)"  # noqa: S608
    f" FROM (SELECT * FROM {_DEAD} AND destination = %s ORDER BY id DESC LIMIT %s) AS d"
    f" LEFT JOIN {_LAST_ATTEMPT} ON TRUE GROUP BY 1, 2"
)


async def last_events(connection: Connection) -> dict[str, float]:
    """Return when the newest event of each source was received, as far as the newest events tell."""
    await by_index(connection)
    return dict(await _rows(connection, _LAST))


async def count_unrouted(connection: Connection) -> Counts:
    """Return the newest unrouted events by (event type, transaction status)."""
    return await _counted(connection, _BY_TYPE, f"{_UNROUTED} OFFSET {MAX_COUNTED}")


async def count_quarantined(connection: Connection) -> Counts:
    """Return the newest quarantined requests by (source, reason)."""
    return await _counted(connection, _BY_SOURCE, f"{_QUARANTINED} OFFSET {MAX_COUNTED}")


async def count_dead(connection: Connection) -> Counts:
    """Return the newest dead deliveries of each destination by (destination, reason)."""
    await by_index(connection)
    numbers = dict(await _rows(connection, _DESTINATIONS))
    shares = shared(numbers)
    rows = [row for each_one in shares.items() for row in await _rows(connection, _BY_REASON, each_one)]
    return counts(rows, more=shares != numbers)


async def read_matches(connection: Connection, since_day: str) -> dict[tuple[str, str], int]:
    """Return how many events routes matched since a day, by (day, route)."""
    rows = await _rows(
        connection, "SELECT day, route, number FROM route_matches WHERE day >= %s", (since_day,)
    )
    return {(day, route): number for day, route, number in rows}


async def _counted(connection: Connection, groups: str, more: str) -> Counts:
    await by_index(connection)
    rows = await _rows(connection, groups)
    return counts(rows, more=bool(await _rows(connection, f"SELECT 1 FROM {more} LIMIT 1")))  # noqa: S608


async def _rows(
    connection: Connection, sql: str, bindings: tuple[str | int, ...] = ()
) -> list[tuple[Any, ...]]:
    return await (await connection.execute(sql.encode(), bindings)).fetchall()
