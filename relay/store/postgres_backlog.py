"""What each destination is still owed, from counts that triggers keep, whoever of the relays changes them."""

from __future__ import annotations

from relay.store import BACKLOG_STATES, Backlog
from relay.store.postgres_order import Connection

_COUNTS = """
SELECT destination, state, sum(number)::bigint FROM open_counts GROUP BY destination, state
"""
_OLDEST = """
SELECT owed.destination, (SELECT d.accepted_at FROM deliveries AS d
    WHERE d.destination = owed.destination AND d.state IN ('pending', 'in_flight')
    ORDER BY d.accepted_at LIMIT 1)
FROM (SELECT DISTINCT destination FROM open_counts) AS owed
"""


async def read_backlog(connection: Connection) -> dict[str, Backlog]:
    """Return what each destination is owed, at a cost that doesn't grow with it."""
    counts = {
        (destination, state): number
        for destination, state, number in await (await connection.execute(_COUNTS)).fetchall()
    }
    return {
        destination: Backlog({state: counts.get((destination, state), 0) for state in BACKLOG_STATES}, oldest)
        for destination, oldest in await (await connection.execute(_OLDEST)).fetchall()
    }
