"""What other routes would have done with the events that came: to compare before they are put in force.

Runs `relay.routing`, the code that serves. Where the events come from and how it is printed is the command's.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from relay.routing import Router

FIRST = 20

Kind = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One event that would go elsewhere than it did.

    Attributes:
        event: as the admin API gives it.
        gained: destinations that it would go to now and didn't.
        lost: destinations that it went to and wouldn't now.
    """

    event: dict[str, Any]
    gained: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(slots=True)
class Comparison:
    """What was found.

    Attributes:
        events: how many were looked at.
        differing: how many would go elsewhere.
        gained: how often, by event type, status and destination.
        lost: the same.
        first: the oldest `FIRST` that would go elsewhere.
    """

    events: int = 0
    differing: int = 0
    gained: collections.Counter[tuple[Kind, str]] = field(default_factory=collections.Counter)
    lost: collections.Counter[tuple[Kind, str]] = field(default_factory=collections.Counter)
    first: list[Difference] = field(default_factory=list)

    def add(self, difference: Difference) -> None:
        """Count one event that would go elsewhere."""
        self.differing += 1
        kind = difference.event["event_type"], difference.event["transaction_status"]
        self.gained.update((kind, name) for name in difference.gained)
        self.lost.update((kind, name) for name in difference.lost)
        if len(self.first) < FIRST:
            self.first.append(difference)


def compare(router: Router, events: Iterable[dict[str, Any]]) -> Comparison:
    """Return what is different.

    What was sent by hand doesn't count: it became owed later than its event was received, whether it
    repeats a delivery or not. Of a body that is no payload, the fields are those that routes
    read all the same.
    """
    comparison = Comparison()
    for event in events:
        comparison.events += 1
        goes = router.destinations(event["source"], event["payload"] or event.get("legible", {}))
        received_at = event["received_at"]
        went = [item["destination"] for item in event["deliveries"] if item["accepted_at"] == received_at]
        gained = tuple(name for name in goes if name not in went)
        lost = tuple(dict.fromkeys(name for name in went if name not in goes))
        if gained or lost:
            comparison.add(Difference(event, gained, lost))
    return comparison
