"""One thread that owns a SQLite connection and commits everything that waits in one transaction.

So a durable commit costs the latency of one fsync, and not one fsync a request. Owns the thread, the
transaction, and what an SQLite error means for those who wait. Knows nothing of events; the SQL is
`sqlite`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import apsw

from relay.errors import StoreError, StoreUnavailableError
from relay.store.sqlite_check import DAMAGED, damaged, leave_as_it_is

_log = logging.getLogger(__name__)

I = TypeVar("I")  # noqa: E741 (an item)
R = TypeVar("R")
Apply = Callable[[Sequence[I]], list[R]]

MAX_BATCH = 256  # operations that are handed over together; what waits when they are taken may double them
# Of the event loop, after the first, each of which may bring more for the same transaction: clients that were
# answered together ask again together. Two or three do; where something comes in all there must be an end.
MAX_PASSES = 4
# A commit takes milliseconds, and a second on a bad day; a lock that somebody else holds is given up after
# five (sqlite_file). What takes longer hangs, nobody knows for how long: who comes then is told so at once.
# An answer that comes after minutes finds nobody who waits for it.
STUCK_SECONDS = 5.0
_ENDED = "the store's thread has ended"
# The WAL is folded into the database when it has grown past the first bound and nobody waits, or past the
# second in any case. In pages of 4 KiB.
CHECKPOINT_IDLE_PAGES = 2_000
CHECKPOINT_BUSY_PAGES = 20_000
CHECKPOINT_RETRY_PAGES = 200

# What SQLite says when the disk, not the statement, is at fault: nothing was stored, later it may work.
UNAVAILABLE = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.NoMemError,
    apsw.PermissionsError,
    apsw.ReadOnlyError,
)


@dataclass(slots=True)
class _Operation(Generic[I, R]):
    """One item that waits for its commit."""

    apply: Apply[I, R]
    item: I
    done: asyncio.Future[R]


class GroupCommit:
    """Runs operations against a connection in batches, each batch one transaction.

    An operation names a function that applies a list of like items and returns a result for each. If a
    batch fails, its items are applied again one by one, each in a savepoint, so that only the item at
    fault fails. Results are given out after the commit.
    """

    def __init__(self, connection: apsw.Connection, committed: Callable[[float], None]) -> None:
        """Start the thread.

        Args:
            connection: handed over; only the thread uses it from now on.
            committed: called on the event loop with the duration of each commit that changed something, in
                seconds.
        """
        self._connection = connection
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._queue: SimpleQueue[list[_Operation[Any, Any]] | None] = SimpleQueue()
        self._gathered: list[_Operation[Any, Any]] = []  # for the queue
        self.waiting = 0
        """How many operations have no result yet."""
        self._dead = False
        self._why = _ENDED
        self._busy_since: float | None = None
        self.died: asyncio.Future[None] = self._loop.create_future()
        """Gets an exception if the thread ends by a bug, or the database is found damaged."""
        self._unfolded = CHECKPOINT_BUSY_PAGES  # whatever a crash has left in the WAL: it goes first
        connection.wal_autocheckpoint(0)
        threading.Thread(target=self._run, name="store", daemon=True).start()

    @property
    def stuck(self) -> bool:
        """Whether what is under way takes longer than anything that ends well."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > STUCK_SECONDS

    def submit(self, apply: Apply[I, R], item: I) -> asyncio.Future[R]:
        """Queue an item; the future has its result after the commit.

        Raises (through the future):
            StoreUnavailableError: nothing was stored, and it may be tried again.
            StoreError: this item can never be stored.
        """
        done: asyncio.Future[R] = self._loop.create_future()
        if self._dead:
            done.set_exception(StoreUnavailableError(self._why))
        else:
            if not self._gathered:
                # The thread would wake for the first one, and commit it before the others have come.
                self._loop.call_soon(self._gather, 0, MAX_PASSES)
            self._gathered.append(_Operation(apply, item, done))
            self.waiting += 1
        return done

    def _gather(self, before: int, passes: int) -> None:
        """Hand over what waits, once a pass of the event loop has brought no more."""
        if passes and before < len(self._gathered) < MAX_BATCH:
            self._loop.call_soon(self._gather, len(self._gathered), passes - 1)
        else:
            self._flush()

    def _flush(self) -> None:
        for start in range(0, len(self._gathered), MAX_BATCH):
            self._queue.put(self._gathered[start : start + MAX_BATCH])
        self._gathered.clear()

    def fail(self, error: StoreError) -> None:
        """End the thread since the database is damaged, and acknowledge nothing more; any thread may call."""
        self._tell(self._die, error, [])

    async def close(self) -> None:
        """Commit what waits, end the thread and close the connection."""
        self._dead = True
        self._flush()
        self._queue.put(None)
        await self._ended

    def _run(self) -> None:
        batch: list[_Operation[Any, Any]] = []
        try:
            while (gathered := self._queue.get()) is not None:
                self._busy_since = time.monotonic()
                batch = gathered + self._further(MAX_BATCH - len(gathered))
                before = self._connection.total_changes()
                started = time.perf_counter()
                results = self._transact(batch)
                took = time.perf_counter() - started
                changed = self._connection.total_changes() != before
                self._tell(self._give_out, batch, results, took if changed else None)
                batch = []
                del gathered, results  # or the last bodies live until the next webhook
                self._checkpoint()
                self._busy_since = None
            if not self.died.done():
                self._connection.close()
        except DAMAGED as error:
            self._tell(self._die, damaged(self._connection.filename, error), batch)
        except BaseException as error:  # noqa: BLE001 (a bug: nothing may be acknowledged any more)
            _log.critical("store.died", exc_info=error)
            self._tell(self._die, StoreError("the store's thread ended by a bug"), batch)
        with contextlib.suppress(apsw.ConnectionClosedError):
            leave_as_it_is(self._connection)
        self._tell(self._end)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call something on the event loop, if that is still there: a disk may hang for longer."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _die(self, error: StoreError, batch: list[_Operation[Any, Any]]) -> None:
        """Tell everybody who waits, and whoever runs the relay, that this is the end."""
        if not self.died.done():
            _log.critical("store.failed", extra={"fields": {"error": str(error)}})
            self._why = str(error)
            self.died.set_exception(error)
        self._dead = True
        self._flush()
        with contextlib.suppress(Empty):
            while True:
                batch += self._queue.get_nowait() or ()
        self._queue.put(None)  # for the thread, if it still runs
        self._give_out(batch, [None] * len(batch), None)

    def _further(self, room: int) -> list[_Operation[Any, Any]]:
        """Return what else was handed over, up to and with the list that fills the room."""
        further: list[_Operation[Any, Any]] = []
        with contextlib.suppress(Empty):
            while len(further) < room:
                gathered = self._queue.get_nowait()
                if gathered is None:
                    self._queue.put(None)
                    break
                further += gathered
        return further

    def _transact(self, batch: list[_Operation[Any, Any]]) -> list[Any]:
        """Return a result or an exception for each operation of a batch."""
        try:
            try:
                return self._in_transaction(batch, self._apply_together)
            except (*UNAVAILABLE, *DAMAGED):
                raise
            except Exception:  # noqa: BLE001 (one item is at fault; find out which)
                _log.debug("store.batch_failed", exc_info=True)
                return self._in_transaction(batch, self._apply_one_by_one)
        except UNAVAILABLE as error:
            _log.warning("store.unavailable", extra={"fields": {"error": str(error)}})
            return [StoreUnavailableError(f"the store can't write: {error}")] * len(batch)

    def _in_transaction(
        self,
        batch: list[_Operation[Any, Any]],
        apply: Callable[[list[_Operation[Any, Any]]], list[Any]],
    ) -> list[Any]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            results = apply(batch)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk ends it by itself
                self._connection.execute("ROLLBACK")
            raise
        return results

    def _apply_together(self, batch: list[_Operation[Any, Any]]) -> list[Any]:
        """Apply like operations in one call each."""
        positions: dict[Apply[Any, Any], list[int]] = {}
        for position, operation in enumerate(batch):
            positions.setdefault(operation.apply, []).append(position)
        results: list[Any] = [None] * len(batch)
        for apply, places in positions.items():
            applied = apply([batch[place].item for place in places])
            for place, result in zip(places, applied, strict=True):
                results[place] = result
        return results

    def _apply_one_by_one(self, batch: list[_Operation[Any, Any]]) -> list[Any]:
        results: list[Any] = []
        for operation in batch:
            try:
                with self._connection:  # a savepoint
                    results += operation.apply([operation.item])
            except (*UNAVAILABLE, *DAMAGED):
                raise
            except Exception as error:  # noqa: BLE001 (it fails alone)
                _log.exception("store.refused")
                results.append(StoreError(f"the store refused an item: {error}"))
        return results

    def _give_out(self, batch: list[_Operation[Any, Any]], results: list[Any], took: float | None) -> None:
        if self.died.done():  # who knows what a damaged file has kept
            results = [StoreUnavailableError(self._why)] * len(batch)
        self.waiting -= len(batch)
        if took is not None:
            self._committed(took)
        for operation, result in zip(batch, results, strict=True):
            if operation.done.cancelled():
                continue
            if isinstance(result, Exception):
                operation.done.set_exception(result)
            else:
                operation.done.set_result(result)

    def _checkpoint(self) -> None:
        """Fold the WAL into the database, at a moment that disturbs least."""
        # Pages written since it was asked before. A hook in each commit would have to win Python's lock.
        self._unfolded += self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)[0]
        rests = self._queue.empty() and not self._gathered
        if self._unfolded < (CHECKPOINT_IDLE_PAGES if rests else CHECKPOINT_BUSY_PAGES):
            return
        # Where a reader keeps a part of it, or the disk fails, it is tried again before long.
        self._unfolded = CHECKPOINT_IDLE_PAGES - CHECKPOINT_RETRY_PAGES
        try:
            length, folded = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if folded == length:
                self._unfolded = 0
        except DAMAGED:
            raise
        except apsw.Error as error:
            _log.warning("store.checkpoint_failed", extra={"fields": {"error": str(error)}})
