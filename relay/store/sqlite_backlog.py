"""What each destination is still owed: counted once, and kept up to date on the event loop after each commit.

So a scrape need not count, and a start need not wait for it. Owns those counts, and the query for the oldest
of what is owed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw

from relay.model import Acceptance, DeliveryState, Owed
from relay.store import BACKLOG_STATES, Backlog

# Each is answered by the index of that state alone, also where millions of deliveries wait.
_COUNTED = (
    (DeliveryState.PENDING, "state = 'pending' AND blocked = 0"),
    (DeliveryState.PENDING, "blocked = 1"),
    (DeliveryState.IN_FLIGHT, "state = 'in_flight'"),
    (DeliveryState.DEAD, "state = 'dead'"),
)


def begin_to_count(connection: apsw.Connection) -> None:
    """Have a connection see what is stored now, and nothing of what is stored later, until `count_open`."""
    connection.execute("BEGIN")
    _ = connection.execute("SELECT 1 FROM deliveries LIMIT 1").get


def count_open(connection: apsw.Connection) -> list[tuple[str, DeliveryState, int]]:
    """Return how many deliveries each destination was owed when it was begun to count, by state."""
    try:
        return [
            (destination, state, number)
            for state, which in _COUNTED
            for destination, number in connection.execute(
                f"SELECT destination, count(*) FROM deliveries WHERE {which} GROUP BY 1"  # noqa: S608
            )
        ]
    finally:
        if connection.in_transaction:  # an error of the disk ends it by itself
            connection.execute("ROLLBACK")


class OpenCounts:
    """The number of open deliveries by destination and state."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, DeliveryState], int] = {}

    def add(self, counted: Iterable[tuple[str, DeliveryState, int]]) -> None:
        """Add what was stored before the first move."""
        for destination, state, number in counted:
            self.move(destination, None, state, number)

    @property
    def destinations(self) -> list[str]:
        """Everybody who is or was owed something."""
        return sorted({destination for destination, _ in self._counts})

    def backlogs(self, oldest: Mapping[str, float | None]) -> dict[str, Backlog]:
        """Return what those are owed whose oldest delivery is given."""
        return {
            destination: Backlog(
                {state: self._counts.get((destination, state), 0) for state in BACKLOG_STATES}, at
            )
            for destination, at in oldest.items()
        }

    def accept(self, acceptance: Acceptance, owed: Mapping[str, Owed]) -> None:
        """Count the deliveries of an event that was accepted, unless it was a duplicate."""
        if acceptance.duplicate:
            return
        claimed = {delivery.destination for delivery in acceptance.claimed}
        for destination in owed:
            key = (destination, DeliveryState.IN_FLIGHT if destination in claimed else DeliveryState.PENDING)
            self._counts[key] = self._counts.get(key, 0) + 1

    def put_back(self, destinations: Iterable[str]) -> None:
        """Count deliveries whose claim was given back or ran out, each by its destination."""
        for destination in destinations:
            self.move(destination, DeliveryState.IN_FLIGHT, DeliveryState.PENDING)

    def move(self, destination: str, old: DeliveryState | None, new: DeliveryState, number: int = 1) -> None:
        """Count deliveries of a destination that changed their state; from None: new ones."""
        for state, change in ((old, -number), (new, number)):
            if state in BACKLOG_STATES:
                key = (destination, state)
                self._counts[key] = self._counts.get(key, 0) + change


def oldest_open(connection: apsw.Connection, destinations: Sequence[str]) -> dict[str, float | None]:
    """Return when the oldest delivery that isn't finished was accepted, by destination.

    Of those pending that are fresh, due_at is when they were accepted; of the others, and of those whose
    turn it isn't, an index by acceptance is kept. So the first of each, and the few in flight, tell.
    """
    in_flight: dict[Any, Any] = dict(
        connection.execute(
            "SELECT destination, min(accepted_at) FROM deliveries WHERE state = 'in_flight' GROUP BY 1"
        )
    )
    return {
        destination: min(
            (
                at
                for at in (
                    _first(
                        connection, destination, "due_at", "state = 'pending' AND blocked = 0 AND fresh = 1"
                    ),
                    _first(connection, destination, "accepted_at", "state = 'pending' AND fresh = 0"),
                    _first(connection, destination, "accepted_at", "blocked = 1"),
                    in_flight.get(destination),
                )
                if at is not None
            ),
            default=None,
        )
        for destination in destinations
    }


def _first(connection: apsw.Connection, destination: str, instant: str, which: str) -> float | None:
    found: float | None = connection.execute(
        f"SELECT {instant} FROM deliveries WHERE destination = ? AND {which}"  # noqa: S608
        f" ORDER BY {instant} LIMIT 1",
        (destination,),
    ).get
    return found
