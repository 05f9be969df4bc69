"""SQLite's write-ahead log, folded into the database before it grows long: beside the work, but for its end.

Folding thousands of pages takes some ten milliseconds, and on a busy disk a tenth of a second, in which
nothing could be committed. Another connection, in a thread of its own, can fold what is in the log while more
is written; but the log begins anew only where nothing has been written meanwhile. So the few pages of that
time are folded between two transactions, by the thread that makes them. What is written is `group_commit`'s.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future

import apsw

from relay.store.sqlite_check import DAMAGED, leave_as_it_is

_log = logging.getLogger(__name__)

# In pages of 4 KiB: when it is folded, and after how many more where that could not be finished.
FOLD_PAGES = 2_000
RETRY_PAGES = 200


class Log:
    """The log of one database, for the thread that writes it."""

    def __init__(self, connection: apsw.Connection, beside: apsw.Connection) -> None:
        """Take over what SQLite does by itself.

        Args:
            connection: the one that writes.
            beside: another one, handed over.
        """
        self._connection = connection
        connection.wal_autocheckpoint(0)
        self._beside = beside
        leave_as_it_is(beside)
        self._unfolded = FOLD_PAGES  # whatever a crash has left: it goes first
        self._folding: Future[bool] | None = None

    def written(self) -> None:
        """Learn that a transaction has ended, and fold the log if it is time.

        Raises:
            apsw.Error: one of DAMAGED: the database is.
        """
        # Pages written since it was asked before. A hook in each commit would have to win Python's lock.
        self._unfolded += self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)[0]
        if self._folding is None:
            if self._unfolded >= FOLD_PAGES:
                self._folding = Future()
                # No executor: a disk that hangs must not keep the process.
                threading.Thread(
                    target=self._fold_beside, args=(self._folding,), name="store-log", daemon=True
                ).start()
        elif self._folding.done():
            folded = self._folding.result() and _fold(self._connection)
            # Where a reader keeps a part of it, or the disk fails, it is tried again before long.
            self._unfolded = 0 if folded else FOLD_PAGES - RETRY_PAGES
            self._folding = None

    def close(self) -> None:
        """Wait for what is being folded; the rest stays for whoever closes the last connection.

        Raises:
            apsw.Error: one of DAMAGED: the database is.
        """
        try:
            if self._folding is not None:
                self._folding.result()
        finally:
            self._beside.close()

    def _fold_beside(self, done: Future[bool]) -> None:
        try:
            done.set_result(_fold(self._beside))
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is asked for)
            done.set_exception(error)


def _fold(connection: apsw.Connection) -> bool:
    """Fold what is in the log as far as nobody reads there, and tell whether that was all of it."""
    try:
        length, folded = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except DAMAGED:
        raise
    except apsw.Error as error:
        _log.warning("store.checkpoint_failed", extra={"fields": {"error": str(error)}})
        return False
    return length == folded
