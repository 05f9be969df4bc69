"""How much of a kind there is, read from SQLite on the connection that operators look with.

Each look is bounded: by the newest in an index of nothing else.
"""

from __future__ import annotations

from typing import Any

import apsw

from relay.store.counts import MAX_COUNTED, MAX_DEAD, NEWEST_EVENTS, REASON, counts, shared
from relay.store.repair import Counts
from relay.store.sqlite_json import gathered

_LAST = (
    "SELECT json_group_array(json_array(source, at)) FROM (SELECT source, max(received_at) AS at"  # noqa: S608
    " FROM (SELECT source, received_at FROM events INDEXED BY events_received"
    f" ORDER BY received_at DESC LIMIT {NEWEST_EVENTS}) GROUP BY source)"
)
_UNROUTED = "events INDEXED BY events_unrouted WHERE unrouted = 1"
_DEAD = "deliveries INDEXED BY deliveries_dead WHERE state = 'dead'"
_DEAD_OF_ONE = f"{_DEAD} AND destination = :destination"
_BY_TYPE = (
    "SELECT json_group_array(json_array(event_type, transaction_status, number, oldest, newest)) FROM ("  # noqa: S608
    "SELECT event_type, transaction_status, count(*) AS number, min(received_at) AS oldest,"
    " max(received_at) AS newest FROM (SELECT event_type, transaction_status, received_at"
    f" FROM {_UNROUTED} ORDER BY id DESC LIMIT {MAX_COUNTED}) GROUP BY 1, 2)"
)
_BY_SOURCE = (
    "SELECT json_group_array(json_array(source, reason, number, oldest, newest)) FROM ("  # noqa: S608
    "SELECT source, reason, count(*) AS number, min(received_at) AS oldest, max(last_received_at) AS newest"
    " FROM (SELECT source, reason, received_at, last_received_at FROM quarantine"
    f" ORDER BY id DESC LIMIT {MAX_COUNTED}) GROUP BY 1, 2)"
)
_BY_REASON = (
    "SELECT json_group_array(json_array(:destination, reason, number, oldest, newest)) FROM ("  # noqa: S608
    f"SELECT {REASON} AS reason, count(*) AS number, min(d.due_at) AS oldest, max(d.due_at) AS newest"
    f" FROM (SELECT id, due_at, attempts FROM {_DEAD_OF_ONE} ORDER BY id DESC LIMIT :share) AS d"
    " LEFT JOIN attempts AS a ON a.delivery = d.id AND a.number = d.attempts GROUP BY 1)"
)
# Leaping from one to the next, as there are few.
_DESTINATIONS = (
    f"WITH RECURSIVE leap (name) AS (SELECT min(destination) FROM {_DEAD} UNION ALL"  # noqa: S608
    f" SELECT (SELECT min(destination) FROM {_DEAD} AND destination > leap.name) FROM leap"
    " WHERE name IS NOT NULL) SELECT json_group_object(name, (SELECT count(*) FROM"
    f" (SELECT 1 FROM {_DEAD} AND destination = leap.name LIMIT {MAX_DEAD + 1})))"
    " FROM leap WHERE name IS NOT NULL"
)


def last_events(connection: apsw.Connection) -> dict[str, float]:
    """Return when the newest event of each source was received, as far as the newest events tell."""
    return dict(gathered(connection, _LAST))


def count_unrouted(connection: apsw.Connection) -> Counts:
    """Return the newest unrouted events by (event type, transaction status)."""
    return _counted(connection, _BY_TYPE, _UNROUTED)


def count_quarantined(connection: apsw.Connection) -> Counts:
    """Return the newest quarantined requests by (source, reason)."""
    return _counted(connection, _BY_SOURCE, "quarantine")


def count_dead(connection: apsw.Connection) -> Counts:
    """Return the newest dead deliveries of each destination by (destination, reason)."""
    rows: list[Any] = []
    with connection:  # all statements see the same moment
        numbers = gathered(connection, _DESTINATIONS)
        shares = shared(numbers)
        for destination, share in shares.items():
            rows += gathered(connection, _BY_REASON, {"destination": destination, "share": share})
    return counts(rows, more=shares != numbers)


def read_matches(connection: apsw.Connection, since_day: str) -> dict[tuple[str, str], int]:
    """Return how many events routes matched since a day, by (day, route)."""
    rows = gathered(
        connection,
        "SELECT json_group_array(json_array(day, route, number)) FROM route_matches WHERE day >= :since",
        {"since": since_day},
    )
    return {(day, route): number for day, route, number in rows}


def _counted(connection: apsw.Connection, groups: str, which: str) -> Counts:
    with connection:
        rows = gathered(connection, groups)
        older = connection.execute(f"SELECT 1 FROM {which} LIMIT 1 OFFSET {MAX_COUNTED}").get  # noqa: S608
    return counts(rows, more=older is not None)
