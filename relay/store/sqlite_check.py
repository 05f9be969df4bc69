"""Whether a database file is whole: looked at before anything is done with it, and after that if it is large.

Owns what SQLite says of a damaged file, how long a start may be held up by looking, and the thread that looks
at the rest. What becomes of a relay whose file is damaged is the store's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from relay.errors import StoreError

_log = logging.getLogger(__name__)

# Tried again, it would be the same: storage has lost or changed what was written.
DAMAGED = (apsw.CorruptError, apsw.NotADBError)

# For looking before the relay listens: webhooks are refused meanwhile. A start must take less than three
# seconds.
CHECK_SECONDS = 1.0
# Of SQLite's virtual machine, or pages, between two looks at the time: some milliseconds.
_STEPS_BETWEEN_LOOKS = 200
# The first looks at the form of every page, and at 100 MB in a tenth of a second or so. The second takes
# several times as long, and also compares each index with its table: a delivery that its index doesn't know
# would never be made.
_STOP_EVERY_SECONDS = 0.01
_FORM, _ALL = "quick_check", "integrity_check"


def damaged(path: Path | str, reason: Exception | str) -> StoreError:
    """Return what to say of a damaged file."""
    (*_, last) = str(reason).splitlines() or ["unknown"]
    return StoreError(
        f"the store {path} is damaged ({last}); stop here, keep the file and see"
        " 'When the database is damaged' in docs/operations.md"
    )


def check_at_start(path: Path) -> bool:
    """Look at a database for CHECK_SECONDS at the most, and tell whether that was enough to see all of it.

    Nothing is written. Whoever calls this holds the lock.

    Raises:
        StoreError: it is damaged.
    """
    wal = Path(f"{path}-wal")
    if path.stat().st_size == 0 and wal.exists() and wal.stat().st_size > 0:
        # SQLite would make a new database of it, and delete the log with what was acknowledged last.
        raise damaged(path, "it is empty, but its write-ahead log is not")
    until = time.monotonic() + CHECK_SECONDS
    with _looking(path) as connection:
        connection.set_progress_handler(lambda: time.monotonic() >= until, _STEPS_BETWEEN_LOOKS)
        for pragma in (_FORM, _ALL):
            if time.monotonic() >= until or not _is_whole(connection, path, pragma):
                return False
    return True


class BackgroundCheck:
    """A thread that looks at all of a database while it is in use.

    The write-ahead log can't be folded in completely meanwhile, and grows, as during a backup.
    """

    def __init__(self, path: Path, found: Callable[[StoreError], None]) -> None:
        """Start it; `found` is called by the thread if the file is damaged."""
        self._path = path
        self._found = found
        self._stopped = False
        self._connection: apsw.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="store-check", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End it."""
        self._stopped = True
        while self._thread.is_alive():  # an interrupt that comes before the statement has no effect
            if self._connection is not None:
                with contextlib.suppress(apsw.ConnectionClosedError):
                    self._connection.interrupt()
            await asyncio.sleep(_STOP_EVERY_SECONDS)

    def _run(self) -> None:
        started = time.monotonic()
        try:
            with _looking(self._path) as connection:
                self._connection = connection
                if self._stopped or not _is_whole(connection, self._path, _ALL):
                    return
        except StoreError as error:
            self._found(error)
            return
        except apsw.Error as error:
            _log.warning("store.not_checked", extra={"fields": {"error": str(error)}})
            return
        _log.info("store.checked", extra={"fields": {"seconds": round(time.monotonic() - started, 1)}})


@contextlib.contextmanager
def _looking(path: Path) -> Iterator[apsw.Connection]:
    """Open a database and leave it, and the files beside it, as they are."""
    connection = apsw.Connection(str(path))
    try:
        leave_as_it_is(connection)
        connection.set_busy_timeout(5000)
        yield connection
    finally:
        connection.close()


def leave_as_it_is(connection: apsw.Connection) -> None:
    """Have a connection, when it is closed as the last, not fold the write-ahead log into the database."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def _is_whole(connection: apsw.Connection, path: Path, pragma: str) -> bool:
    """Tell whether all was looked at and is whole, False: interrupted before; raise if it is damaged."""
    try:
        found = connection.execute(f"PRAGMA {pragma}(1)").get
    except apsw.InterruptError:
        return False
    except DAMAGED as error:
        raise damaged(path, error) from error
    if found != "ok":
        raise damaged(path, str(found))
    return True
