"""The PostgreSQL that a fleet shares: its restarts, and what a laboratory reads from it.

Reads with connections of its own, beside the relays.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any, Self, TypeVar

import psycopg

from tests.e2e.relay_process import POLL_SECONDS
from tests.lab.store_file import Pair
from tests.postgres import DEADLINE_SECONDS, PostgresServer, read_postgres

T = TypeVar("T")

CALM_SECONDS = 20.0  # after a restart, everything must work as if there had been none

_IN_FLIGHT = """
SELECT e.event_id, d.destination FROM deliveries AS d JOIN events AS e ON e.id = d.event
WHERE d.state = 'in_flight'
"""
_UNFINISHED = "SELECT destination, state, count(*) FROM deliveries WHERE state <> 'delivered' GROUP BY 1, 2"
_MISCOUNTED = """
SELECT destination, state, sum(number) FROM open_counts GROUP BY destination, state HAVING sum(number) <> 0
"""
_UNRECORDED = """
SELECT count(*) FROM deliveries AS d
WHERE d.attempts <> (SELECT count(*) FROM attempts AS a WHERE a.delivery = d.id) OR d.attempts = 0
"""
_OWED_TO_NOBODY = """
SELECT count(*) FROM events AS e WHERE (SELECT count(*) FROM deliveries AS d WHERE d.event = e.id) <> {}
"""


class Restart(Enum):
    """How a server ends before it starts again."""

    FAST = signal.SIGINT
    IMMEDIATE = signal.SIGQUIT


class Database:
    """One server with one database. Use `async with`."""

    def __init__(self, *, fsync: bool) -> None:
        self._fsync = fsync
        # The server ends with the thread that started it, so this one is kept.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        self._disturbed_at = time.monotonic()
        self._is_down = False
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await self._in_thread(lambda: PostgresServer(fsync=self._fsync))
        try:
            await self._in_thread(self._server.start)
            self.url = await self._in_thread(self._server.create_database)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._in_thread(self._server.__exit__)
        self._thread.shutdown()

    @property
    def is_calm(self) -> bool:
        """Whether its last restart is some time ago."""
        return not self.was_disturbed_since(time.monotonic() - CALM_SECONDS)

    def was_disturbed_since(self, moment: float) -> bool:
        """Tell whether it was away at or after a moment of the monotonic clock."""
        return self._is_down or self._disturbed_at >= moment

    async def restart(self, how: Restart, away_seconds: float) -> None:
        """End it, and start it after a while."""
        self._is_down = True
        try:
            await self._in_thread(lambda: self._server.stop(how.value))
            await asyncio.sleep(away_seconds)
            await self._in_thread(self._server.start)
        finally:
            self._is_down = False
            self._disturbed_at = time.monotonic()

    async def in_flight(self) -> set[Pair]:
        """Return what is claimed, by whichever relay."""
        try:
            return set(await self._read(_IN_FLIGHT))
        except psycopg.errors.UndefinedTable:  # the first relay died before it made its tables
            return set()

    async def damages(self, destinations: int) -> list[str]:
        """Return what contradicts that everything was delivered to so many destinations."""
        found = [f"in the database: {row}" for row in await self._read(_UNFINISHED)]
        found += [f"counted as open: {row}" for row in await self._read(_MISCOUNTED)]
        for what, select in (
            ("deliveries whose attempts are not all there", _UNRECORDED),
            ("events that are not owed to every destination", _OWED_TO_NOBODY.format(destinations)),
        ):
            ((number,),) = await self._read(select)
            found += [f"{number} {what}"] if number else []
        return found

    async def _read(self, select: str) -> list[Any]:
        """Read once it is there."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                return await asyncio.to_thread(read_postgres, self.url, select)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
