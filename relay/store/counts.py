"""What the counts of every store have in common: how much is looked at, and the values made of rows.

The SQL is left to each store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from relay.store.repair import Counts, Group

MAX_COUNTED = 10_000  # the newest things of a kind: some ten milliseconds
MAX_DEAD = 3_000  # of all destinations together, as each costs a look at its last attempt
NEWEST_EVENTS = 5_000  # that tell when a source was last heard of

# Of an attempt `a`, in words that are few however many failed.
REASON = "CASE WHEN a.status IS NULL THEN substr(a.error, 1, 120) ELSE 'HTTP ' || a.status END"


def counts(rows: Iterable[Iterable[Any]], *, more: bool) -> Counts:
    """Return the groups made of their key, number, oldest and newest instant, the largest first."""
    groups = [Group(tuple(key), number, oldest, newest) for *key, number, oldest, newest in rows]
    groups.sort(key=lambda group: (-group.number, [part or "" for part in group.key]))
    return Counts(tuple(groups), more)


def shared(numbers: Mapping[str, int]) -> dict[str, int]:
    """Return how many of each are looked at where there are so many: as evenly as MAX_DEAD allows."""
    shares: dict[str, int] = {}
    left = MAX_DEAD
    for name, number in sorted(numbers.items(), key=lambda item: item[1]):
        shares[name] = min(number, left // (len(numbers) - len(shares)))
        left -= shares[name]
    return shares
