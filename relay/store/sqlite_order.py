"""Whose turn it is among deliveries of one key to one destination, as SQL.

A delivery with an order_key has a place in that key's order; of each key at most one is not blocked: its
head, which is pending, in flight, or dead and holds the rest. It leaves the order by losing its key.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

import apsw

from relay.store.sqlite_json import gathered

Key = tuple[str, str]  # destination, key


def promote(connection: apsw.Connection, keys: Collection[Key]) -> None:
    """Unblock the first of each (destination, key), in order of acceptance, whose head has gone."""
    if keys:
        connection.execute(
            "UPDATE deliveries SET blocked = 0 WHERE id IN (SELECT ("
            " SELECT d.id FROM deliveries AS d WHERE d.destination = k.value ->> 0"
            " AND d.order_key = k.value ->> 1 AND d.blocked = 1 ORDER BY d.event, d.id LIMIT 1)"
            " FROM json_each(?) AS k WHERE NOT EXISTS (SELECT 1 FROM deliveries AS h"
            " WHERE h.destination = k.value ->> 0 AND h.order_key = k.value ->> 1 AND h.blocked = 0))",
            (json.dumps(sorted(set(keys))),),
        )


def taken(connection: apsw.Connection, keys: Iterable[Key]) -> set[Key]:
    """Return those keys in whose order somebody is already."""
    wanted = sorted(set(keys))
    if not wanted:
        return set()
    rows = gathered(
        connection,
        "SELECT json_group_array(k.value) FROM json_each(?) AS k WHERE EXISTS (SELECT 1 FROM deliveries AS d"
        " WHERE d.destination = k.value ->> 0 AND d.order_key = k.value ->> 1)",
        (json.dumps(wanted),),
    )
    return {(destination, key) for destination, key in rows}
