"""A copy of the database while a relay uses it: one consistent file, checked, complete or not there at all.

Runs in a process of its own and only reads. A long copy holds up no webhook, but the write-ahead log can't be
folded into the database meanwhile, and grows.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import apsw

from relay.errors import StoreError

_STEPS_BETWEEN_LOOKS = 200_000  # of SQLite's virtual machine: some times a second


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup holds."""

    bytes: int
    events: int


def back_up(
    store: Path, file: Path, *, replace: bool = False, progress: Callable[[int], None] | None = None
) -> Made:
    """Copy a store into a file, readable for its owner alone.

    Args:
        store: may be in use. Everything that was acknowledged before this call is in the copy.
        file: is there afterwards, or as before if an error is raised.
        replace: whether there may be a file already.
        progress: called now and then with the number of bytes written.

    Raises:
        StoreError: there is no store, the file is there already, can't be written, or is not sound.
    """
    if not replace and os.path.lexists(file):
        raise StoreError(f"{file} is there already; choose another name, or --force to replace it")
    if replace and file.exists() and store.exists() and file.samefile(store):
        raise StoreError(f"{file} is the store itself")
    with _reading(store) as source, _draft(file) as draft:
        try:
            _copy(source, draft, progress)
            _sync(draft)
        except apsw.CorruptError as error:
            raise StoreError(f"can't read the store {store}: {_reason(error)}") from error
        except (apsw.Error, OSError) as error:
            raise StoreError(f"can't write the backup {file}: {_reason(error)}") from error
        made = Made(draft.stat().st_size, _checked(draft, file))
        draft.replace(file)
        _sync(file.parent)
    return made


@contextlib.contextmanager
def _reading(store: Path) -> Iterator[apsw.Connection]:
    try:
        connection = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(5000)
        connection.execute("SELECT count(*) FROM sqlite_schema").get  # noqa: B018 (reads: it is a database)
    except apsw.Error as error:
        raise StoreError(f"can't read the store {store}: {_reason(error)}") from error
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _draft(file: Path) -> Iterator[Path]:
    """Make an empty file beside another one, for its owner's eyes alone, and see that it doesn't stay."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise StoreError(f"can't write the backup {file}: {_reason(error)}") from error
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
    finally:
        for left in (draft, Path(f"{draft}-journal")):
            left.unlink(missing_ok=True)


def _copy(source: apsw.Connection, draft: Path, progress: Callable[[int], None] | None) -> None:
    def look() -> bool:
        if progress is not None:
            progress(draft.stat().st_size)
        return False  # go on

    source.set_progress_handler(look, _STEPS_BETWEEN_LOOKS)  # also lets Ctrl-C through
    source.execute("VACUUM INTO ?", (str(draft),))


def _checked(draft: Path, file: Path) -> int:
    """Return how many events a copy holds, after it was found sound."""
    try:
        # Nobody else uses it: so no files beside it are made.
        copy = apsw.Connection(
            f"file:{quote(str(draft.absolute()))}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        with contextlib.closing(copy):
            found = copy.execute("PRAGMA quick_check(1)").get
            if found != "ok":
                raise StoreError(f"the backup {file} is not sound ({found}), and was not kept")
            return int(copy.execute("SELECT count(*) FROM events").get)
    except apsw.Error as error:
        raise StoreError(f"the backup {file} is not sound ({_reason(error)}), and was not kept") from error


def _sync(path: Path) -> None:
    """Have a file or folder on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error) or "error").lower()
