"""What the relay asks of its durable memory, named after the steps of an event's way.

A method returns after the commit; until then nothing of it happened. `StoreUnavailableError` means that the
store took nothing and may take it later. Methods are safe to call concurrently: the store groups what waits
at the same moment into one transaction, and one bad item never poisons the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.model import (
    Acceptance,
    Attempt,
    Delivery,
    DeliveryState,
    Event,
    Owed,
    Quarantined,
    References,
)
from relay.store.repair import Repair

__all__ = ["Acceptance", "Backlog", "Claimed", "Purged", "Store"]


@dataclass(frozen=True, slots=True)
class Claimed:
    """Deliveries claimed from the backlog of one destination.

    Attributes:
        deliveries: in the order in which they were due.
        more: whether due ones were left, since they didn't fit.
        next_due_at: when the earliest one left becomes due, None without one.
    """

    deliveries: tuple[Delivery, ...]
    more: bool
    next_due_at: float | None


BACKLOG_STATES = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT, DeliveryState.DEAD)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one destination is still owed.

    Attributes:
        counts: deliveries by state, of each of `BACKLOG_STATES`.
        oldest_accepted_at: of the oldest pending or in-flight delivery, None without one.
    """

    counts: Mapping[DeliveryState, int]
    oldest_accepted_at: float | None


@dataclass(frozen=True, slots=True)
class Purged:
    """What a step of retention did: how many events it deleted, and where to go on, None at the end."""

    deleted: int
    next_after: int | None


class Store(Repair, Protocol):
    """Durable memory for events and the deliveries owed for them."""

    @property
    def died(self) -> asyncio.Future[None]:
        """Gets an exception if the store ends by itself; it takes nothing any more then."""
        ...

    async def accept(self, event: Event, references: References, owed: Mapping[str, Owed]) -> Acceptance:
        """Store an event with one delivery for each destination, unless (source, event_id) is there.

        Args:
            event: as received.
            references: what else it can be found by.
            owed: by destination.
        """
        ...

    async def quarantine(self, request: Quarantined) -> None:
        """Keep a request that can't be an event. The same bytes again are counted, not kept twice."""
        ...

    async def claim(
        self, destination: str, *, fresh: bool, limit: int, max_bytes: int, now: float
    ) -> Claimed:
        """Claim deliveries of a destination that are due and whose turn it is, the longest due first.

        Args:
            destination: whose backlog.
            fresh: those that were never tried and are no replay, which are always due; or the others.
            limit: how many at the most.
            max_bytes: bound of their bodies' sum; one delivery may exceed it alone.
            now: what is due by then; the leases count from it.
        """
        ...

    async def record(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Store attempts with what follows from each; tell for each whether it is stored.

        It isn't if its claim didn't hold any more. A store that is reached over a network, where the answer
        to a commit may be lost, knows the same attempt again and changes nothing.
        """
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give claims back without an attempt; the deliveries are pending again, as due as before."""
        ...

    async def renew(self, deliveries: Sequence[Delivery], now: float) -> list[Delivery]:
        """Extend the leases of claims; return those that are still held, with their new lease."""
        ...

    async def bring_forward(self, destination: str, latest_due_at: float, now: float) -> int:
        """Make retries due now that are due after an instant; return how many, 0 when none is left.

        How many at once is bounded, so call it until then. `now` must not be after `latest_due_at`.
        """
        ...

    async def expire(self, now: float) -> int:
        """Make deliveries pending whose lease ran out; return how many."""
        ...

    async def purge(self, after: int, accepted_before: float, limit: int) -> Purged:
        """Look at `limit` events in order of acceptance, and delete those that are old and finished.

        Finished means: sent somewhere, and every delivery delivered or discarded.

        Args:
            after: where to go on, as an earlier call returned it; 0 for the beginning.
            accepted_before: what counts as old.
            limit: how many to look at, which bounds what one call costs.
        """
        ...

    async def backlog(self) -> dict[str, Backlog]:
        """Return what each destination is owed, at a cost that doesn't grow with it."""
        ...

    async def probe(self) -> None:
        """Write something small durably, to show that the store can."""
        ...

    async def close(self) -> None:
        """Finish what waits and close."""
        ...
