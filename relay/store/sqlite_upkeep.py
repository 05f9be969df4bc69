"""The SQL of the steps beside the way of an event, such as quarantine, retention and readiness.

As in `sqlite_steps`, each step takes a list of like items within one transaction and returns a result for
each; only the thread that owns the connection may call it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import apsw

from relay.model import Quarantined
from relay.store import Purged, upkeep
from relay.store.sqlite_json import gathered


class Upkeep:
    """Applies steps to a connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def quarantine(self, requests: Sequence[Quarantined]) -> list[None]:
        """Keep requests that can't be events, within bounds."""
        for request in requests:
            self._connection.execute(
                "INSERT INTO quarantine (source, reason, digest, detail, content_type, received_at,"
                " last_received_at, times, body) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?)"
                " ON CONFLICT (source, reason, digest) DO UPDATE SET times = times + 1,"
                " last_received_at = excluded.last_received_at",
                upkeep.quarantine_row(request),
            )
        before = self._connection.total_changes()
        self._connection.execute(
            "DELETE FROM quarantine WHERE id IN (SELECT id FROM ("
            " SELECT id, row_number() OVER newest AS place, sum(length(body)) OVER newest AS bytes"
            " FROM quarantine WINDOW newest AS (ORDER BY id DESC)) WHERE place > ? OR bytes > ?)",
            (upkeep.MAX_QUARANTINED, upkeep.MAX_QUARANTINED_BYTES),
        )
        upkeep.tell_evicted(self._connection.total_changes() - before)
        return [None] * len(requests)

    def purge(self, wishes: Sequence[tuple[int, float, int]]) -> list[Purged]:
        """Delete old finished events, for wishes of (after, accepted_before, limit)."""
        return [self._purge_one(*wish) for wish in wishes]

    def _purge_one(self, after: int, accepted_before: float, limit: int) -> Purged:
        looked_at = gathered(
            self._connection,
            "SELECT json_group_array(json_array(id, received_at < ?, unrouted OR EXISTS ("
            " SELECT 1 FROM deliveries AS d WHERE d.event = e.id"
            " AND d.state NOT IN ('delivered', 'discarded'))))"
            " FROM (SELECT id, received_at, unrouted FROM events WHERE id > ? ORDER BY id LIMIT ?) AS e",
            (accepted_before, after, limit),
        )
        finished = upkeep.finished(looked_at)
        self._connection.execute(
            "DELETE FROM events WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(finished),)
        )
        return Purged(len(finished), upkeep.purged_until(looked_at, limit))

    def add_matches(self, added: Sequence[tuple[str, Mapping[str, int]]]) -> list[None]:
        """Add to what each route matched on a day, for (day, matches); forget days long gone."""
        for day, matches in added:
            self._connection.executemany(
                "INSERT INTO route_matches (day, route, number) VALUES (?, ?, ?)"
                " ON CONFLICT (day, route) DO UPDATE SET number = number + excluded.number",
                [(day, route, number) for route, number in matches.items()],
            )
            self._connection.execute("DELETE FROM route_matches WHERE day < ?", (upkeep.oldest_day(day),))
        return [None] * len(added)

    def probe(self, instants: Sequence[float]) -> list[None]:
        """Write when this was asked for."""
        self._connection.execute(
            "INSERT INTO probe (id, probed_at, filler) VALUES (1, ?, randomblob(65536))"
            " ON CONFLICT (id) DO UPDATE SET probed_at = excluded.probed_at, filler = excluded.filler",
            (max(instants),),
        )
        return [None] * len(instants)

    def bring_forward(self, wishes: Sequence[tuple[str, float, float]]) -> list[int]:
        """Make retries due that are later than any could be, for (destination, latest_due_at, now)."""
        moved = []
        for destination, latest, now in wishes:
            before = self._connection.total_changes()
            self._connection.execute(
                "UPDATE deliveries SET due_at = ? WHERE id IN (SELECT id FROM deliveries"
                " WHERE destination = ? AND fresh = 0 AND state = 'pending' AND blocked = 0 AND due_at > ?"
                " AND attempts > 0 LIMIT ?)",
                (now, destination, latest, upkeep.MAX_BROUGHT_FORWARD),
            )
            moved.append(self._connection.total_changes() - before)
        return moved
