"""The SQL on PostgreSQL of quarantine, retention, a clock set back, readiness, and what is counted by day.

Every function runs within a READ COMMITTED transaction of its caller's, which commits it. Of several relays,
one at a time does the retention. How much is kept, and how much is done at once, is `upkeep`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from relay.model import Quarantined
from relay.store import Purged, upkeep
from relay.store.postgres_order import Connection

_RETENTION = "retention"  # a chore: only one relay at a time does it
_CHORE_SECONDS = 300.0  # then another relay takes a chore over


async def quarantine(connection: Connection, request: Quarantined) -> None:
    """Keep a request that can't be an event, within bounds.

    While others quarantine too, the bounds are kept by the next one: what another transaction holds isn't
    waited for, or two could wait for each other.
    """
    await connection.execute(
        "INSERT INTO quarantine (source, reason, digest, detail, content_type, received_at,"
        " last_received_at, times, body) VALUES (%s, %s, %s, %s, %s, %s, %s, 1, %b)"
        " ON CONFLICT (source, reason, digest) DO UPDATE SET times = quarantine.times + 1,"
        " last_received_at = excluded.last_received_at",
        upkeep.quarantine_row(request),
    )
    cursor = await connection.execute(
        "DELETE FROM quarantine WHERE id = ANY(ARRAY(SELECT id FROM quarantine WHERE id IN (SELECT id FROM ("
        " SELECT id, row_number() OVER newest AS place, sum(octet_length(body)) OVER newest AS bytes"
        " FROM quarantine WINDOW newest AS (ORDER BY id DESC)) AS kept WHERE place > %s OR bytes > %s)"
        " FOR UPDATE SKIP LOCKED))",
        (upkeep.MAX_QUARANTINED, upkeep.MAX_QUARANTINED_BYTES),
    )
    upkeep.tell_evicted(cursor.rowcount)


async def purge(  # noqa: PLR0913, PLR0917 (as `Store` has it, and who asks)
    connection: Connection, holder: str, after: int, accepted_before: float, limit: int, now: float
) -> Purged:
    """Delete old finished events, unless another relay than the holder sees to it.

    Whoever purges is left to it to the end, or for five minutes after its last step as `now` tells; for the
    others, there is nothing to purge meanwhile.
    """
    if not await _take_chore(connection, _RETENTION, holder, now):
        return Purged(0, None)
    cursor = await connection.execute(
        "SELECT id, received_at < %s, unrouted OR EXISTS (SELECT 1 FROM deliveries AS d"
        " WHERE d.event = e.id AND d.state NOT IN ('delivered', 'discarded'))"
        " FROM (SELECT id, received_at, unrouted FROM events WHERE id > %s ORDER BY id LIMIT %s) AS e",
        (accepted_before, after, limit),
    )
    looked_at = await cursor.fetchall()
    deleted = await _delete_finished(connection, upkeep.finished(looked_at))
    until = upkeep.purged_until(looked_at, limit)
    if until is None:
        await connection.execute("DELETE FROM chores WHERE name = %s", (_RETENTION,))
    return Purged(deleted, until)


async def _take_chore(connection: Connection, name: str, holder: str, now: float) -> bool:
    """Take a chore that nobody has, or keep it; tell whether it is the holder's now."""
    cursor = await connection.execute(
        "INSERT INTO chores (name, holder, held_until) VALUES (%s, %s, %s) ON CONFLICT (name) DO UPDATE"
        " SET holder = excluded.holder, held_until = excluded.held_until"
        " WHERE chores.holder = excluded.holder OR chores.held_until <= %s",
        (name, holder, now + _CHORE_SECONDS, now),
    )
    return cursor.rowcount > 0


async def _delete_finished(connection: Connection, events: list[int]) -> int:
    """Delete events that were finished, but for those that are being replayed; return how many."""
    cursor = await connection.execute(
        "SELECT id FROM events WHERE id = ANY(%s::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED", (events,)
    )
    locked = [id_ for (id_,) in await cursor.fetchall()]
    # Looked at once more: a replay may have been committed since, but none can be from now on.
    cursor = await connection.execute(
        "DELETE FROM events AS e WHERE id = ANY(%s::bigint[]) AND NOT EXISTS (SELECT 1 FROM deliveries AS d"
        " WHERE d.event = e.id AND d.state NOT IN ('delivered', 'discarded'))",
        (locked,),
    )
    return cursor.rowcount


async def add_matches(connection: Connection, day: str, matches: Mapping[str, int]) -> None:
    """Add to what each route matched on a day, for all relays together; forget days long gone.

    In the order of the routes, so that no two relays wait for each other in a circle.
    """
    await connection.execute(
        "INSERT INTO route_matches (day, route, number)"
        " SELECT %s, route, number FROM unnest(%s::text[], %s::bigint[]) AS m (route, number)"
        ' ORDER BY route COLLATE "C"'
        " ON CONFLICT (day, route) DO UPDATE SET number = route_matches.number + excluded.number",
        (day, list(matches), list(matches.values())),
    )
    await connection.execute("DELETE FROM route_matches WHERE day < %s", (upkeep.oldest_day(day),))


async def probe(connection: Connection, now: float) -> None:
    """Write when this was asked for."""
    await connection.execute(
        "INSERT INTO probe (id, probed_at) VALUES (1, %s)"
        " ON CONFLICT (id) DO UPDATE SET probed_at = excluded.probed_at",
        (now,),
    )


async def bring_forward(connection: Connection, destination: str, latest_due_at: float, now: float) -> int:
    """Make retries due that are later than any could be; return how many."""
    cursor = await connection.execute(
        "UPDATE deliveries SET due_at = %s WHERE id = ANY(ARRAY(SELECT id FROM deliveries"
        " WHERE destination = %s AND NOT fresh AND state = 'pending' AND NOT blocked AND due_at > %s"
        " AND attempts > 0 LIMIT %s FOR UPDATE SKIP LOCKED))",
        (now, destination, latest_due_at, upkeep.MAX_BROUGHT_FORWARD),
    )
    return cursor.rowcount
