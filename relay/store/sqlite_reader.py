"""A connection that only reads, and the one thread that uses it. No SQL stands here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from relay.errors import StoreUnavailableError
from relay.store.group_commit import UNAVAILABLE
from relay.store.sqlite_check import DAMAGED
from relay.store.sqlite_file import connect

T = TypeVar("T")


class Reader:
    """Reads beside the writer, one thing after the other.

    A thread of its own rather than a lock: whoever waits may go away meanwhile, and the next read must not
    begin before the end of the one that nobody waits for any more.
    """

    def __init__(self, path: Path, found_damage: Callable[[Exception], None]) -> None:
        """Open a connection.

        Args:
            path: of the database.
            found_damage: told what SQLite says of a damaged file.
        """
        self.connection: apsw.Connection = connect(path)
        self._found_damage = found_damage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    async def read(self, function: Callable[[], T]) -> T:
        """Return what a function reads from the connection.

        Raises:
            StoreUnavailableError: the disk doesn't allow it now.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        except (*UNAVAILABLE, *DAMAGED) as error:
            if isinstance(error, DAMAGED):
                self._found_damage(error)
            raise StoreUnavailableError(f"the store can't be read: {error}") from error

    async def close(self) -> None:
        """Finish what is being read and close the connection."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self.connection.close()
