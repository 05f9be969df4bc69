"""A store's file whose write lock somebody else holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep the SQLite file from being written.

    What the relay is writing at that moment ends before: the lock is waited for, five seconds at most.

    Raises:
        apsw.BusyError: it wasn't to be had.
    """
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.set_busy_timeout(5_000)
        connection.execute("BEGIN IMMEDIATE").fetchall()
        yield
        connection.execute("ROLLBACK").fetchall()
