"""A copy of the database while a relay uses it: one consistent file, checked, complete or not there at all.

Runs in a process of its own and only reads. A long copy holds up no webhook, but the write-ahead log can't be
folded into the database meanwhile, and grows.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import apsw

from relay.errors import StoreError

_STEPS_BETWEEN_LOOKS = 200_000  # of SQLite's virtual machine: some times a second
_DRAFT_SUFFIX = ".draft"
_OF_STORE = {
    "": "the store itself",
    "-wal": "the store's write-ahead log",
    "-shm": "the index of the store's write-ahead log",
    "-journal": "the store's journal",
    ".lock": "the store's lock",
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # FAT and some network file systems


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
        progress: called now and then with the number of bytes written; what it raises ends the copy.

    Raises:
        StoreError: there is no store, the file is there already, can't be written, or is not sound.
    """
    _require_possible(store, file, replace=replace)
    with _reading(store) as source, _draft(file) as draft:
        try:
            _copy(source, draft, progress)
            _sync(draft)
        except apsw.CorruptError as error:
            raise StoreError(f"can't read the store {store}: {_reason(error)}") from error
        except (apsw.Error, OSError) as error:
            raise _unwritable(file, error) from error
        made = Made(draft.stat().st_size, _checked(draft, file, progress))
        _publish(draft, file, replace=replace)
    return made


def _require_possible(store: Path, file: Path, *, replace: bool) -> None:
    """Refuse a file that can't become a backup, before anything is written."""
    for path in (store, file):
        if not _is_text(path):
            raise StoreError(f"{path}: SQLite takes only names that are UTF-8 text")
    if (what := _part_of_store(store, file)) is not None:
        raise StoreError(f"{file} is {what}")
    if os.path.isdir(file):  # noqa: PTH112 (Path raises where a name is too long)
        raise StoreError(f"{file} is a folder; name a file in it")
    if not replace and os.path.lexists(file):
        raise _is_there(file)


def _is_text(path: Path) -> bool:
    try:
        os.path.abspath(path).encode()  # noqa: PTH100 (where the working folder is gone, Path can't say so)
    except (UnicodeEncodeError, OSError):
        return False
    return True


def _part_of_store(store: Path, file: Path) -> str | None:
    """Return what a file is to a store, None for nothing: by its name, or under another one."""
    target = os.path.realpath(file)
    for suffix, what in _OF_STORE.items():
        for part in {f"{store}{suffix}", f"{os.path.realpath(store)}{suffix}"}:
            if target == os.path.realpath(part) or _is_same(target, part):
                return what
    return None


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # one of them isn't there
        return False


def _publish(draft: Path, file: Path, *, replace: bool) -> None:
    """Give a draft its name; whatever got that name since it was looked at stays, unless it is replaced."""
    try:
        if replace:
            draft.replace(file)
        else:
            _name(draft, file)
        _sync(file.parent)
    except FileExistsError as error:
        raise _is_there(file) from error
    except OSError as error:
        raise _unwritable(file, error) from error


def _name(draft: Path, file: Path) -> None:
    """Give a draft a name that nothing has, or raise FileExistsError."""
    try:
        os.link(draft, file)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # nobody else can have it now
        draft.replace(file)


def _is_there(file: Path) -> StoreError:
    return StoreError(f"{file} is there already; choose another name, or --force to replace it")


def _unwritable(file: Path, error: Exception) -> StoreError:
    return StoreError(f"can't write the backup {file}: {_reason(error)}")


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
    """Make an empty file beside another one, for its owner's eyes alone, and see that it doesn't stay.

    Its lock says that somebody works on it: what a copy that was killed has left behind has none.
    """
    try:
        _remove_stale(file)
        descriptor, name = tempfile.mkstemp(_DRAFT_SUFFIX, f".{file.name}.", file.parent)
    except OSError as error:
        raise _unwritable(file, error) from error
    draft = Path(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield draft
    finally:
        _remove(draft)
        os.close(descriptor)


def _remove_stale(file: Path) -> None:
    """Remove the drafts of the same file that nobody works on any more."""
    of_file = re.compile(rf"\.{re.escape(file.name)}\.[a-z0-9_]{{8}}{re.escape(_DRAFT_SUFFIX)}")
    for draft in file.parent.iterdir():
        if not of_file.fullmatch(draft.name):
            continue
        with contextlib.suppress(OSError):  # somebody's, or gone
            descriptor = os.open(draft, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(draft)
            finally:
                os.close(descriptor)


def _remove(draft: Path) -> None:
    for left in (draft, Path(f"{draft}-journal")):
        left.unlink(missing_ok=True)


def _copy(source: apsw.Connection, draft: Path, progress: Callable[[int], None] | None) -> None:
    _look_now_and_then(source, draft, progress)
    source.execute("VACUUM INTO ?", (str(draft),))


def _look_now_and_then(
    connection: apsw.Connection, draft: Path, progress: Callable[[int], None] | None
) -> None:
    def look() -> bool:
        if progress is not None:
            progress(draft.stat().st_size)
        return False  # go on

    connection.set_progress_handler(look, _STEPS_BETWEEN_LOOKS)  # also lets signals through


def _checked(draft: Path, file: Path, progress: Callable[[int], None] | None) -> int:
    """Return how many events a copy holds, after it was found sound."""
    try:
        # Nobody else uses it: so no files beside it are made.
        copy = apsw.Connection(
            f"file:{quote(str(draft.absolute()))}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        with contextlib.closing(copy):
            _look_now_and_then(copy, draft, progress)
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
