"""The store in one PostgreSQL, for several relays at a time.

Webhooks and attempts that wait at the same moment share a transaction, as `batches` says; all else has one of
its own. Owns the transactions, and what PostgreSQL's errors mean. Connections are `postgres_pool`'s; the SQL
is that of the other `postgres_` modules.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout

from relay.errors import StoreError, StoreUnavailableError
from relay.model import Acceptance, Attempt, Delivery, Event, Owed, Quarantined, References
from relay.store import Backlog, Claimed, Purged
from relay.store import postgres_count as counting
from relay.store import postgres_find as finding
from relay.store import postgres_repair as repairing
from relay.store import postgres_upkeep as upkeep
from relay.store.admission import Admission
from relay.store.batches import Batches
from relay.store.postgres_backlog import read_backlog
from relay.store.postgres_order import Connection
from relay.store.postgres_pool import CONNECT_SECONDS, Pool, arguments, configure, text
from relay.store.postgres_schema import migrate
from relay.store.postgres_steps import Steps
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
from relay.store.steps import Offer, Wish

P = ParamSpec("P")
T = TypeVar("T")

TRANSACTION_SECONDS = 5.0  # what takes longer ends with its connection
STUCK_SECONDS = 5.0  # webhooks that come then are refused at once
# Two relays that wait for each other in a circle; PostgreSQL ends one of them.
_AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
TRIES = 5
# What PostgreSQL says when the server, not the statement, is at fault: later it may work.
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,  # a server that is or was made a standby
    errors.InFailedSqlTransaction,
)


class PostgresStore:
    """`Store` on one database. Made by `open_store`."""

    def __init__(self, pool: Pool, committed: Callable[[float], None]) -> None:
        self._pool = pool
        self._committed = committed
        self._died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder = uuid.uuid4().hex
        self._steps = Steps()
        self._admission = Admission()
        self._away = False  # as the last webhooks or attempts found it; whoever finds it there says so
        self._quarantining = asyncio.Semaphore()  # who posts rubbish waits for others who do
        self._accepting: Batches[Offer, Acceptance] = Batches(self._accept, self._died)
        self._recording: Batches[Sequence[Attempt], list[bool]] = Batches(self._record, self._died, size=len)

    # ---- the steps

    @property
    def died(self) -> asyncio.Future[None]:
        return self._died

    async def accept(self, event: Event, references: References, owed: Mapping[str, Owed]) -> Acceptance:
        with self._admitted(len(event.body)):
            return await self._accepting.submit((event, references, owed))

    async def quarantine(self, request: Quarantined) -> None:
        with self._admitted(len(request.body)):
            async with self._quarantining:
                await self._in_transaction(upkeep.quarantine, request)

    async def claim(
        self, destination: str, *, fresh: bool, limit: int, max_bytes: int, now: float
    ) -> Claimed:
        return await self._at_once(self._steps.claim, Wish(destination, fresh, limit, max_bytes, now))

    async def record(self, attempts: Sequence[Attempt]) -> list[bool]:
        return await self._recording.submit(attempts)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._at_once(self._steps.release, deliveries)

    async def renew(self, deliveries: Sequence[Delivery], now: float) -> list[Delivery]:
        return await self._at_once(self._steps.renew, deliveries, now)

    async def bring_forward(self, destination: str, latest_due_at: float, now: float) -> int:
        return await self._in_transaction(upkeep.bring_forward, destination, latest_due_at, now)

    async def expire(self, now: float) -> int:
        return await self._at_once(self._steps.expire, now)

    async def purge(self, after: int, accepted_before: float, limit: int) -> Purged:
        return await self._in_transaction(
            upkeep.purge, self._holder, after, accepted_before, limit, time.time()
        )

    async def backlog(self) -> dict[str, Backlog]:
        return await self._reading(read_backlog)

    async def probe(self) -> None:
        await self._in_transaction(upkeep.probe, time.time())

    async def close(self) -> None:
        await self._accepting.close()
        await self._recording.close()
        await self._pool.close()

    async def _accept(self, offers: Sequence[Offer]) -> list[Acceptance]:
        return await self._timed(partial(self._steps.accept, offers=offers))

    async def _record(self, batches: Sequence[Sequence[Attempt]]) -> list[list[bool]]:
        return await self._timed(partial(self._steps.record, batches=batches))

    async def _timed(self, step: Callable[[Connection], Awaitable[T]]) -> T:
        started = time.perf_counter()
        try:
            result = await self._tried(step)
        except StoreUnavailableError as error:
            self._away = True
            if isinstance(error.__cause__, TimeoutError):  # the server hangs, or is gone without a word
                await self._pool.drain()
            raise
        self._committed(time.perf_counter() - started)
        return result

    def _admitted(self, size: int) -> AbstractContextManager[None]:
        """Let a webhook wait for the store; while that is away, only one does, to find out about it."""
        waiting = self._accepting.waiting
        hindrance = None
        if self._accepting.busy_seconds > STUCK_SECONDS:
            hindrance = "the database takes too long"
        elif self._away and (waiting or self._accepting.busy_seconds):
            hindrance = "the database is away"
        return self._admission.admit(size, waiting, hindrance)

    # ---- what operators find and change

    async def find_events(
        self, wanted: Filter, page: Page, *, bodies: bool = False, to: str | None = None
    ) -> Found[EventRecord]:
        return await self._reading(partial(finding.find_events, bodies=bodies, to=to), wanted, page)

    async def find_deliveries(self, wanted: Filter, page: Page) -> Found[DeliveryRecord]:
        return await self._reading(finding.find_deliveries, wanted, page)

    async def read_event(self, id_: int) -> EventRecord | None:
        return await self._reading(finding.read_event, id_)

    async def read_attempts(self, event: int) -> dict[int, tuple[AttemptRecord, ...]]:
        return await self._reading(finding.read_attempts, event)

    async def replay(self, change: Change, replays: Sequence[Replay]) -> Changed:
        return await self._in_transaction(repairing.replay, change, replays)

    async def discard(self, change: Change, deliveries: Sequence[int], reason: str) -> Changed:
        return await self._in_transaction(repairing.discard, change, deliveries, reason)

    async def skip(self, change: Change, deliveries: Sequence[int]) -> Changed:
        return await self._in_transaction(repairing.skip, change, deliveries)

    async def pause(self, change: Change, destination: str) -> Changed:
        return await self._in_transaction(repairing.pause, change, destination)

    async def resume(self, change: Change, destination: str) -> Changed:
        return await self._in_transaction(repairing.resume, change, destination)

    async def paused(self) -> dict[str, float]:
        return await self._reading(finding.paused)

    async def find_quarantined(self, source: str | None, page: Page) -> Found[QuarantineRecord]:
        return await self._reading(finding.find_quarantined, source, page)

    async def read_quarantined(self, id_: int) -> QuarantineRecord | None:
        return await self._reading(finding.read_quarantined, id_)

    async def release_quarantined(
        self, change: Change, id_: int, event: Event, references: References, owed: Mapping[str, Owed]
    ) -> Acceptance | None:
        return await self._in_transaction(
            repairing.release_quarantined, self._steps, change, id_, event, references, owed
        )

    async def discard_quarantined(self, change: Change, ids: Sequence[int]) -> Changed:
        return await self._in_transaction(repairing.discard_quarantined, change, ids)

    async def find_changes(self, page: Page) -> Found[ChangeRecord]:
        return await self._reading(finding.find_changes, page)

    async def last_events(self) -> dict[str, float]:
        return await self._reading(counting.last_events)

    async def count_unrouted(self) -> Counts:
        return await self._reading(counting.count_unrouted)

    async def count_quarantined(self) -> Counts:
        return await self._reading(counting.count_quarantined)

    async def count_dead(self) -> Counts:
        return await self._reading(counting.count_dead)

    async def add_matches(self, day: str, matches: Mapping[str, int]) -> None:
        await self._in_transaction(upkeep.add_matches, day, matches)

    async def read_matches(self, since_day: str) -> dict[tuple[str, str], int]:
        return await self._reading(counting.read_matches, since_day)

    # ---- transactions

    async def _at_once(
        self, step: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a step that cares for its own transaction, also if nobody waits for it any more."""

        async def run(connection: Connection) -> T:
            return await step(connection, *args, **kwargs)

        return await self._carried_through(run)

    async def _in_transaction(
        self, step: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        async def run(connection: Connection) -> T:
            async with connection.transaction():
                return await step(connection, *args, **kwargs)

        return await self._carried_through(run)

    async def _reading(
        self, step: Callable[Concatenate[Connection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a step that reads, all of it at the same moment."""

        async def run(connection: Connection) -> T:
            async with connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                return await step(connection, *args, **kwargs)

        return await self._tried(run)

    async def _carried_through(self, run: Callable[[Connection], Awaitable[T]]) -> T:
        """Run something to its end, also if nobody waits for it any more."""
        task = asyncio.ensure_future(self._tried(run))
        task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def _tried(self, run: Callable[[Connection], Awaitable[T]]) -> T:
        """Run something on a connection, again if it stood in another relay's way.

        Raises:
            StoreUnavailableError: the database is away, or takes too long.
            StoreError: it refuses this for good.
        """
        for left in reversed(range(TRIES)):
            connection: Connection | None = None
            try:
                async with asyncio.timeout(TRANSACTION_SECONDS), self._pool.connection() as connection:
                    result = await run(connection)
            except _AGAIN as error:
                if not left:
                    raise StoreUnavailableError(f"the database is too busy: {text(error)}") from error
            except TimeoutError as error:
                raise StoreUnavailableError("the database takes too long") from error
            except psycopg.Error as error:
                is_broken = connection is not None and connection.broken
                if not (is_broken or isinstance(error, _UNAVAILABLE)):
                    raise StoreError(f"the database refused it: {text(error)}") from error
                if connection is not None:  # the server has restarted, maybe, or is a standby now
                    await self._pool.drain()
                # What was committed all the same does no harm when it is repeated: steps look first, and
                # claims that nobody has been told of end with their lease.
                if not (left and is_broken):
                    why = self._pool.explain(error)
                    raise StoreUnavailableError(f"the database can't be used: {why}") from error
            else:
                self._away = False
                return result
        raise AssertionError


def _seen(task: asyncio.Task[T]) -> None:
    """Take note of an exception, which isn't a fault if nobody waited for it."""
    if not task.cancelled():
        task.exception()


async def open_store(url: str, committed: Callable[[float], None]) -> PostgresStore:
    """Return the store of a database, its schema made or brought up to date where needed.

    Args:
        url: as libpq takes it.
        committed: called with the duration of each transaction of webhooks or attempts, in seconds.

    Raises:
        StoreError: the database can't be reached, is too old, or newer than this relay.
    """
    try:
        pool = Pool(url)
        async with await psycopg.AsyncConnection.connect(**arguments(url)) as connection:
            await configure(connection)
            await migrate(connection)
        try:
            await pool.open(wait=True, timeout=CONNECT_SECONDS)
        except PoolTimeout as error:
            raise StoreError(f"can't open the store: {pool.explain(error)}") from error
    except psycopg.Error as error:
        raise StoreError(f"can't open the store: {text(error)}") from error
    return PostgresStore(pool, committed)
