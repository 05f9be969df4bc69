"""The store in one SQLite file, for one process.

Writes go through `group_commit`, as `sqlite_steps` says. Reads have connections of their own beside it: one
for a scrape, and one for what operators look for, which may take longer. Owns neither SQL nor counts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import apsw

from relay.errors import StoreError, StoreUnavailableError
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
from relay.store import Backlog, Claimed, Purged
from relay.store import sqlite_count as counting
from relay.store.admission import Admission
from relay.store.group_commit import Apply, GroupCommit, I, R
from relay.store.repair import (
    AttemptRecord,
    Change,
    Changed,
    ChangeRecord,
    Counts,
    DeliveryRecord,
    EventRecord,
    Filter,
    Found,
    Page,
    QuarantineRecord,
    Replay,
)
from relay.store.sqlite_backlog import OpenCounts, begin_to_count, count_open, oldest_open
from relay.store.sqlite_check import DAMAGED, BackgroundCheck, check_at_start, damaged
from relay.store.sqlite_file import connect, lock, migrate, set_durability
from relay.store.sqlite_find import Finder
from relay.store.sqlite_reader import Reader
from relay.store.sqlite_repair import Repaired, RepairSteps
from relay.store.sqlite_steps import Steps
from relay.store.sqlite_upkeep import Upkeep
from relay.store.steps import Wish

_log = logging.getLogger(__name__)

_INTERRUPT_EVERY_SECONDS = 0.01


class SqliteStore:
    """`Store` on one file. Made by `open_store`, on the event loop that uses it."""

    def __init__(self, path: Path, committed: Callable[[float], None]) -> None:
        self._path = path
        self._lock = lock(path)
        try:
            was_checked = check_at_start(path)
            writer = connect(path)
            migrate(writer, path)
            set_durability(writer)
            # What was in flight when the last process ended was not recorded: it is tried again.
            _release_all(writer)
            self._scraping, self._finding = (Reader(path, self._fail) for _ in range(2))
            self._finder = Finder(self._finding.connection)
            self._open = OpenCounts()
            begin_to_count(self._scraping.connection)
            self._admission = Admission()
            self._steps, self._upkeep = Steps(writer), Upkeep(writer)
            self._repairs = RepairSteps(writer, self._steps)
        except BaseException:
            os.close(self._lock)
            raise
        self._commits = GroupCommit(writer, committed)
        self._counting = asyncio.ensure_future(self._count())
        self._check = None if was_checked else BackgroundCheck(path, self._commits.fail)

    # ---- the steps, as the event loop calls them

    @property
    def died(self) -> asyncio.Future[None]:
        return self._commits.died

    async def accept(self, event: Event, references: References, owed: Mapping[str, Owed]) -> Acceptance:
        with self._admitted(len(event.body)):
            acceptance = await self._commits.submit(self._steps.accept, (event, references, owed))
        self._open.accept(acceptance, owed)
        return acceptance

    async def quarantine(self, request: Quarantined) -> None:
        with self._admitted(len(request.body)):
            await self._commits.submit(self._upkeep.quarantine, request)

    async def claim(
        self, destination: str, *, fresh: bool, limit: int, max_bytes: int, now: float
    ) -> Claimed:
        def count(claimed: Claimed) -> None:
            number = len(claimed.deliveries)
            self._open.move(destination, DeliveryState.PENDING, DeliveryState.IN_FLIGHT, number)

        wish = Wish(destination, fresh, limit, max_bytes, now)
        return await self._counted(self._steps.claim, wish, count)

    async def record(self, attempts: Sequence[Attempt]) -> list[bool]:
        def count(recorded: list[bool]) -> None:
            for attempt, held in zip(attempts, recorded, strict=True):
                if held:
                    destination = attempt.delivery.destination
                    self._open.move(destination, DeliveryState.IN_FLIGHT, attempt.transition.state)

        return await self._counted(self._steps.record, attempts, count)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._counted(self._steps.release, deliveries, self._open.put_back)

    async def renew(self, deliveries: Sequence[Delivery], now: float) -> list[Delivery]:
        return await self._commits.submit(self._steps.renew, (deliveries, now))

    async def bring_forward(self, destination: str, latest_due_at: float, now: float) -> int:
        return await self._commits.submit(self._upkeep.bring_forward, (destination, latest_due_at, now))

    async def expire(self, now: float) -> int:
        expired = await self._counted(self._steps.expire, now, self._open.put_back)
        return len(expired)

    async def purge(self, after: int, accepted_before: float, limit: int) -> Purged:
        return await self._commits.submit(self._upkeep.purge, (after, accepted_before, limit))

    async def backlog(self) -> dict[str, Backlog]:
        await asyncio.shield(self._counting)
        if self.died.done():
            raise StoreUnavailableError(str(self.died.exception()))
        oldest = partial(oldest_open, self._scraping.connection, self._open.destinations)
        return self._open.backlogs(await self._scraping.read(oldest))

    async def probe(self) -> None:
        await self._commits.submit(self._upkeep.probe, time.time())

    async def close(self) -> None:
        if self._check is not None:
            await self._check.stop()
        await self._commits.close()
        while not self._counting.done():  # an interrupt that comes before the statement has no effect
            self._scraping.connection.interrupt()
            await asyncio.wait([self._counting], timeout=_INTERRUPT_EVERY_SECONDS)
        await self._scraping.close()
        await self._finding.close()
        os.close(self._lock)

    async def _count(self) -> None:
        """Add what was stored at the start to what has changed since."""
        try:
            self._open.add(await self._scraping.read(partial(count_open, self._scraping.connection)))
        except StoreUnavailableError as error:  # the moment has gone that was to be counted
            self._commits.fail(StoreError(f"can't count what is owed: {error}"))
        except UnicodeDecodeError as error:  # a text that nobody has written
            self._fail(error)
        except apsw.InterruptError:  # the store is being closed
            pass

    def _fail(self, error: Exception) -> None:
        """Learn that the file is damaged."""
        self._commits.fail(damaged(self._path, error))

    def _admitted(self, size: int) -> AbstractContextManager[None]:
        """Let a webhook wait for the store, unless too many do already, or the disk hangs."""
        hindrance = "the disk takes too long" if self._commits.stuck else None
        return self._admission.admit(size, self._commits.waiting, hindrance)

    async def _counted(self, apply: Apply[I, R], item: I, count: Callable[[R], None]) -> R:
        """Run a step and count what it did, also when whoever waits for it has gone meanwhile."""
        done = self._commits.submit(apply, item)

        def count_if_done(done: asyncio.Future[R]) -> None:
            if not done.cancelled() and done.exception() is None:
                count(done.result())

        done.add_done_callback(count_if_done)
        return await asyncio.shield(done)

    # ---- what operators find and change

    async def find_events(
        self, wanted: Filter, page: Page, *, bodies: bool = False, to: str | None = None
    ) -> Found[EventRecord]:
        find = partial(self._finder.find_events, wanted, page, bodies=bodies, to=to)
        return await self._finding.read(find)

    async def find_deliveries(self, wanted: Filter, page: Page) -> Found[DeliveryRecord]:
        return await self._finding.read(partial(self._finder.find_deliveries, wanted, page))

    async def read_event(self, id_: int) -> EventRecord | None:
        return await self._finding.read(partial(self._finder.read_event, id_))

    async def read_attempts(self, event: int) -> dict[int, tuple[AttemptRecord, ...]]:
        return await self._finding.read(partial(self._finder.read_attempts, event))

    async def replay(self, change: Change, replays: Sequence[Replay]) -> Changed:
        return await self._repaired(self._repairs.replay, (change, replays))

    async def discard(self, change: Change, deliveries: Sequence[int], reason: str) -> Changed:
        return await self._repaired(self._repairs.discard, (change, deliveries, reason))

    async def skip(self, change: Change, deliveries: Sequence[int]) -> Changed:
        return await self._commits.submit(self._repairs.skip, (change, deliveries))

    async def pause(self, change: Change, destination: str) -> Changed:
        return await self._commits.submit(self._repairs.pause, (change, destination))

    async def resume(self, change: Change, destination: str) -> Changed:
        return await self._commits.submit(self._repairs.resume, (change, destination))

    async def paused(self) -> dict[str, float]:
        return await self._finding.read(self._finder.paused)

    async def find_quarantined(self, source: str | None, page: Page) -> Found[QuarantineRecord]:
        return await self._finding.read(partial(self._finder.find_quarantined, source, page))

    async def read_quarantined(self, id_: int) -> QuarantineRecord | None:
        return await self._finding.read(partial(self._finder.read_quarantined, id_))

    async def release_quarantined(
        self, change: Change, id_: int, event: Event, references: References, owed: Mapping[str, Owed]
    ) -> Acceptance | None:
        def count(acceptance: Acceptance | None) -> None:
            if acceptance is not None:
                self._open.accept(acceptance, owed)

        release = (change, id_, event, references, owed)
        return await self._counted(self._repairs.release_quarantined, release, count)

    async def discard_quarantined(self, change: Change, ids: Sequence[int]) -> Changed:
        return await self._commits.submit(self._repairs.discard_quarantined, (change, ids))

    async def find_changes(self, page: Page) -> Found[ChangeRecord]:
        return await self._finding.read(partial(self._finder.find_changes, page))

    async def last_events(self) -> dict[str, float]:
        return await self._finding.read(partial(counting.last_events, self._finding.connection))

    async def count_unrouted(self) -> Counts:
        return await self._finding.read(partial(counting.count_unrouted, self._finding.connection))

    async def count_quarantined(self) -> Counts:
        return await self._finding.read(partial(counting.count_quarantined, self._finding.connection))

    async def count_dead(self) -> Counts:
        return await self._finding.read(partial(counting.count_dead, self._finding.connection))

    async def add_matches(self, day: str, matches: Mapping[str, int]) -> None:
        await self._commits.submit(self._upkeep.add_matches, (day, matches))

    async def read_matches(self, since_day: str) -> dict[tuple[str, str], int]:
        return await self._finding.read(partial(counting.read_matches, self._finding.connection, since_day))

    async def _repaired(self, apply: Apply[I, Repaired], item: I) -> Changed:
        def count(repaired: Repaired) -> None:
            for (destination, old, new), number in repaired.moves.items():
                self._open.move(destination, old, new, number)

        return (await self._counted(apply, item, count)).changed


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
    except DAMAGED as error:
        raise damaged(path, error) from error
    except apsw.Error as error:
        raise StoreError(f"can't open the store {path}: {error}") from error


def _release_all(connection: apsw.Connection) -> None:
    connection.execute(
        "UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL WHERE state = 'in_flight'"
    )
    if released := connection.changes():
        _log.info("store.recovered", extra={"fields": {"deliveries": released}})
