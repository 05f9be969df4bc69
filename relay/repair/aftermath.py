"""What follows a change of deliveries by hand: lanes are woken, and it is counted and logged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from relay.metrics import Metrics
from relay.model import DeliveryState, LaneState
from relay.store.repair import Changed, DeliveryRecord

_log = logging.getLogger(__name__)


class Lanes(Protocol):
    """What repairs need of the dispatcher."""

    def notice(self, destinations: Iterable[str], *, fresh: bool | None = None) -> None:
        """Learn that the store has first attempts, or others, or perhaps both for these destinations."""
        ...

    def set_paused(self, destination: str, paused_at: float | None) -> None:
        """Send nothing to a destination from now on; None: send again."""
        ...

    def paused(self) -> dict[str, float]:
        """Return the destinations that nothing is sent to, and since when."""
        ...

    def states(self) -> dict[str, LaneState]:
        """Return what each configured destination's lane waits for."""
        ...


class Aftermath:
    """Tells lanes, metrics and the log what was done; nothing where nothing was."""

    def __init__(self, lanes: Lanes, metrics: Metrics) -> None:
        self._lanes = lanes
        self._metrics = metrics

    def replayed(self, who: str, changed: Changed, destinations: Sequence[str]) -> None:
        """Tell of deliveries that were made, each for its destination."""
        # Lanes are told of first attempts only where there may be some: they'd look for them in vain.
        fresh = None if changed.left_order else False
        self._tell("deliveries.replayed", who, changed, counted(changed, destinations), fresh=fresh)

    def discarded(self, who: str, changed: Changed, deliveries: Sequence[DeliveryRecord]) -> None:
        """Tell of deliveries that were given up."""
        by_destination = counted(changed, [delivery.destination for delivery in deliveries])
        for destination, number in by_destination.items():
            self._metrics.deliveries.labels(destination, DeliveryState.DISCARDED.value).inc(number)
        self._tell("deliveries.discarded", who, changed, by_destination)

    def skipped(self, who: str, changed: Changed) -> None:
        """Tell of dead deliveries that hold up nothing any more."""
        self._tell("deliveries.skipped", who, changed, {})

    def _tell(
        self,
        fact: str,
        who: str,
        changed: Changed,
        by_destination: Mapping[str, int],
        *,
        fresh: bool | None = None,
    ) -> None:
        """Wake the lanes, and log what was done if anything was."""
        self._lanes.notice(changed.destinations, fresh=fresh)
        if number := sum(changed.done):
            fields: dict[str, Any] = {"who": who, "number": number, "change": changed.id}
            if by_destination:
                fields["by_destination"] = dict(by_destination)
            _log.info(fact, extra={"fields": fields})


def counted(changed: Changed, destinations: Sequence[str]) -> Counter[str]:
    """Return how many of the items that a change was asked for it did, by their destinations."""
    return Counter(name for name, done in zip(destinations, changed.done, strict=True) if done)
