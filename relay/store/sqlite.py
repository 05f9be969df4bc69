"""The store in one SQLite file, for one process.

Writes go through `group_commit`, as `sqlite_steps` says; the few reads beside it have a connection of their
own. Owns the counts of open deliveries, so that a scrape need not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw

from relay.errors import StoreError, StoreUnavailableError
from relay.model import Attempt, Delivery, DeliveryState, Event, Quarantined
from relay.store import Acceptance, Backlog, Claimed, Purged
from relay.store.group_commit import UNAVAILABLE, Apply, GroupCommit, I, R
from relay.store.sqlite_file import connect, lock, migrate, set_durability
from relay.store.sqlite_steps import Steps

_log = logging.getLogger(__name__)

# Operations, and bytes of webhooks, that wait; beyond them a webhook is answered 503 instead.
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 << 20
_OPEN_STATES = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT, DeliveryState.DEAD)


class SqliteStore:
    """`Store` on one file. Made by `open_store`, on the event loop that uses it."""

    def __init__(self, path: Path, committed: Callable[[float], None]) -> None:
        self._lock = lock(path)
        try:
            writer = connect(path)
            migrate(writer, path)
            set_durability(writer)
            # What was in flight when the last process ended was not recorded: it is tried again.
            _release_all(writer)
            self._reader, self._reading = connect(path), asyncio.Lock()
            self._counts = _open_deliveries(writer)
            self._waiting_bytes = 0
            self._steps = Steps(writer)
        except BaseException:
            os.close(self._lock)
            raise
        self._commits = GroupCommit(writer, committed)

    # ---- the steps, as the event loop calls them

    @property
    def died(self) -> asyncio.Future[None]:
        return self._commits.died

    async def accept(self, event: Event, claims: Mapping[str, bool]) -> Acceptance:
        with self._admitted(len(event.body)):
            acceptance = await self._commits.submit(self._steps.accept, (event, claims))
        if not acceptance.duplicate:
            for destination, claimed in claims.items():
                state = DeliveryState.IN_FLIGHT if claimed else DeliveryState.PENDING
                self._count(destination, state, 1)
        return acceptance

    async def quarantine(self, request: Quarantined) -> None:
        with self._admitted(len(request.body)):
            await self._commits.submit(self._steps.quarantine, request)

    async def claim(self, destination: str, limit: int, max_bytes: int, now: float) -> Claimed:
        def count(claimed: Claimed) -> None:
            number = len(claimed.deliveries)
            self._move(destination, DeliveryState.PENDING, DeliveryState.IN_FLIGHT, number)

        return await self._counted(self._steps.claim, (destination, limit, max_bytes, now), count)

    async def record(self, attempts: Sequence[Attempt]) -> list[bool]:
        def count(recorded: list[bool]) -> None:
            for attempt, held in zip(attempts, recorded, strict=True):
                if held:
                    destination = attempt.delivery.destination
                    self._move(destination, DeliveryState.IN_FLIGHT, attempt.transition.state, 1)

        return await self._counted(self._steps.record, attempts, count)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._counted(self._steps.release, deliveries, self._put_back)

    async def renew(self, deliveries: Sequence[Delivery], now: float) -> None:
        await self._commits.submit(self._steps.renew, (deliveries, now))

    async def expire(self, now: float) -> int:
        expired = await self._counted(self._steps.expire, now, self._put_back)
        return len(expired)

    async def purge(self, after: int, accepted_before: float, limit: int) -> Purged:
        return await self._commits.submit(self._steps.purge, (after, accepted_before, limit))

    async def backlog(self) -> dict[str, Backlog]:
        destinations = sorted({destination for destination, _ in self._counts})
        try:
            async with self._reading:
                oldest = await asyncio.to_thread(self._oldest, destinations)
        except UNAVAILABLE as error:
            raise StoreUnavailableError(f"the store can't be read: {error}") from error
        return {
            destination: Backlog(
                {state: self._counts.get((destination, state), 0) for state in _OPEN_STATES},
                oldest[destination],
            )
            for destination in destinations
        }

    async def probe(self) -> None:
        await self._commits.submit(self._steps.probe, time.time())

    async def close(self) -> None:
        await self._commits.close()
        self._reader.close()
        os.close(self._lock)

    @contextlib.contextmanager
    def _admitted(self, size: int) -> Iterator[None]:
        """Let a webhook wait for the store, unless too many do already."""
        if self._commits.waiting >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise StoreUnavailableError("too many webhooks wait for the store")
        self._waiting_bytes += size
        try:
            yield
        finally:
            self._waiting_bytes -= size

    # ---- the counts of open deliveries, kept on the event loop after each commit

    async def _counted(self, apply: Apply[I, R], item: I, count: Callable[[R], None]) -> R:
        """Run a step and count what it did, also when whoever waits for it has gone meanwhile."""
        done = self._commits.submit(apply, item)

        def count_if_done(done: asyncio.Future[R]) -> None:
            if not done.cancelled() and done.exception() is None:
                count(done.result())

        done.add_done_callback(count_if_done)
        return await asyncio.shield(done)

    def _put_back(self, destinations: list[str]) -> None:
        for destination in destinations:
            self._move(destination, DeliveryState.IN_FLIGHT, DeliveryState.PENDING, 1)

    def _count(self, destination: str, state: DeliveryState, change: int) -> None:
        if state in _OPEN_STATES:
            key = (destination, state)
            self._counts[key] = self._counts.get(key, 0) + change

    def _move(self, destination: str, old: DeliveryState, new: DeliveryState, number: int) -> None:
        self._count(destination, old, -number)
        self._count(destination, new, number)

    # ---- reading beside the writer

    def _oldest(self, destinations: Sequence[str]) -> dict[str, float | None]:
        """Return when the oldest delivery that isn't finished was accepted, by destination.

        Of those pending that were never tried, due_at is when they were accepted; of the others an index
        by acceptance is kept. So the first of each, and the few in flight, tell.
        """
        in_flight: dict[Any, Any] = dict(
            self._reader.execute(
                "SELECT destination, min(accepted_at) FROM deliveries WHERE state = 'in_flight' GROUP BY 1"
            )
        )
        return {
            destination: min(
                (
                    at
                    for at in (
                        self._first(destination, "due_at", ""),
                        self._first(destination, "accepted_at", "AND attempts > 0"),
                        in_flight.get(destination),
                    )
                    if at is not None
                ),
                default=None,
            )
            for destination in destinations
        }

    def _first(self, destination: str, instant: str, also: str) -> float | None:
        found: float | None = self._reader.execute(
            f"SELECT {instant} FROM deliveries WHERE destination = ? AND state = 'pending' {also}"  # noqa: S608
            f" ORDER BY {instant} LIMIT 1",
            (destination,),
        ).get
        return found


def open_store(path: Path, committed: Callable[[float], None]) -> SqliteStore:
    """Return the store of a file, made or brought up to date where needed.

    Args:
        path: of the database; its folder must exist.
        committed: called with the duration of each commit in seconds.

    Raises:
        StoreError: the file can't be opened, is damaged, newer than this relay, or used by another one.
    """
    try:
        return SqliteStore(path, committed)
    except apsw.Error as error:
        raise StoreError(f"can't open the store {path}: {error}") from error


def _release_all(connection: apsw.Connection) -> None:
    connection.execute(
        "UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL WHERE state = 'in_flight'"
    )
    if released := connection.changes():
        _log.info("store.recovered", extra={"fields": {"deliveries": released}})


def _open_deliveries(connection: apsw.Connection) -> dict[tuple[str, DeliveryState], int]:
    """Return the number of open deliveries by destination and state, from the indexes of those alone."""
    return {
        (destination, state): number
        for state in _OPEN_STATES
        for destination, number in connection.execute(
            f"SELECT destination, count(*) FROM deliveries WHERE state = '{state.value}' GROUP BY 1"  # noqa: S608
        )
    }
