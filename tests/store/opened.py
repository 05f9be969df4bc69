"""What the conformance suite knows of a store: how to open it again, and a look at its tables."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from relay.model import (
    Acceptance,
    Attempt,
    Delivery,
    DeliveryState,
    Event,
    Outcome,
    Owed,
    Quarantined,
    References,
    Transition,
)
from relay.store import Backlog, Claimed, Store
from relay.store.steps import LEASE_SECONDS

START = 1_800_000_000.25  # when most events of these tests were accepted
DESTINATIONS = ("crm", "erp")


class Opened:
    """One store that can be closed and opened again, as often as a test likes."""

    def __init__(self, opener: Callable[[], Awaitable[Store]], read: Callable[[str], list[Any]]) -> None:
        """Make it; nothing is open yet.

        Args:
            opener: opens the same store each time.
            read: returns the rows of a SELECT that every store understands, beside the store.
        """
        self._opener = opener
        self._open: Store | None = None
        self.read = read

    async def __call__(self) -> Store:
        """Close what is open and open it again."""
        await self.close()
        self._open = await self._opener()
        return self._open

    async def after_a_crash(self) -> Store:
        """Open it as if its relay had been killed: claims are free when their leases end, if not before."""
        store = await self()
        await store.expire(START + 1000 + LEASE_SECONDS)
        return store

    async def close(self) -> None:
        """Close what is open."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()


def event(event_id: str = "e1", *, body: bytes = b"{}", at: float = START, source: str = "itscope") -> Event:
    return Event(
        source=source,
        event_id=event_id,
        received_at=at,
        content_type="application/json",
        event_type="ORDER",
        transaction_status=None,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        body=body,
    )


def rejected(body: bytes, *, reason: str = "not-json", at: float = START) -> Quarantined:
    return Quarantined("itscope", at, reason, "the body is not JSON", "text/plain", body)


def attempt(delivery: Delivery, state: DeliveryState, *, at: float = START, due_at: float = START) -> Attempt:
    """Return a try of a delivery that led to a state."""
    status = 200 if state is DeliveryState.DELIVERED else 500
    outcome = Outcome(status, None, 0.25)
    return Attempt(delivery, delivery.attempts + 1, at, outcome, Transition(state, due_at))


async def offer(store: Store, event: Event, claims: Mapping[str, bool]) -> Acceptance:
    """Offer an event that is owed, in no order, to destinations; each is claimed at once or not."""
    return await store.accept(event, References(), {name: Owed(claim) for name, claim in claims.items()})


async def claim(store: Store, destination: str, limit: int, max_bytes: int, now: float) -> Claimed:
    """Claim first attempts."""
    return await store.claim(destination, fresh=True, limit=limit, max_bytes=max_bytes, now=now)


async def claim_again(store: Store, now: float, destination: str = "erp", limit: int = 1000) -> Claimed:
    """Claim what is no first attempt."""
    return await store.claim(destination, fresh=False, limit=limit, max_bytes=1 << 30, now=now)


async def accept(store: Store, *ids: str, at: float = START, to: Sequence[str] = ("erp",)) -> None:
    """Accept events one after the other, their deliveries pending; each is accepted a second later."""
    for number, event_id in enumerate(ids):
        accepted = await offer(store, event(event_id, at=at + number), dict.fromkeys(to, False))
        assert not accepted.duplicate


async def claim_all(store: Store, destination: str = "erp", now: float = START + 1000) -> list[Delivery]:
    """Claim whatever is due."""
    fresh = await claim(store, destination, 1000, 1 << 30, now)
    return [*fresh.deliveries, *(await claim_again(store, now, destination)).deliveries]


async def claim_one(store: Store, destination: str = "erp", now: float = START + 1000) -> Delivery:
    """Claim the first one that is due."""
    claimed = await claim(store, destination, 1, 1 << 30, now)
    if not claimed.deliveries:
        claimed = await claim_again(store, now, destination, limit=1)
    (delivery,) = claimed.deliveries
    return delivery


async def finish(store: Store, state: DeliveryState, destination: str = "erp") -> None:
    """Bring everything that a destination is owed to a final state."""
    attempts = [attempt(delivery, state) for delivery in await claim_all(store, destination)]
    assert all(await store.record(attempts))


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.event.event_id for delivery in deliveries]


def owed(pending: int = 0, in_flight: int = 0, dead: int = 0, oldest: float | None = None) -> Backlog:
    counts = {
        DeliveryState.PENDING: pending,
        DeliveryState.IN_FLIGHT: in_flight,
        DeliveryState.DEAD: dead,
    }
    return Backlog(counts, oldest)


async def backlog(store: Store, destination: str = "erp") -> Backlog:
    """Return what a destination is owed; a store may leave out those that are owed nothing."""
    return (await store.backlog()).get(destination, owed())


async def comes_to(store: Store, expected: Backlog, destination: str = "erp") -> None:
    """Wait until a destination is owed so much: of what nobody waits for, a store says no more."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while await backlog(store, destination) != expected:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.01)
    assert await backlog(store, destination) == expected
