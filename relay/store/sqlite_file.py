"""One SQLite file: its lock, its rights, its durability and its schema. No SQL of events stands here."""

from __future__ import annotations

import fcntl
import logging
import os
from importlib import resources
from pathlib import Path

import apsw

from relay.errors import StoreError

_log = logging.getLogger(__name__)


_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "temp_store = MEMORY",  # what a statement may have to undo; or else each large one makes a file
    "foreign_keys = ON",
    "cache_size = -32000",
    "journal_size_limit = 67108864",  # what a long backup let the log grow to is given back
)


def lock(path: Path) -> int:
    """Return a descriptor that holds the lock beside a database; the system frees it with the process.

    Both files are made for their owner's eyes alone; SQLite gives those beside the database the same rights.
    """
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"can't open the store {path}: {(error.strerror or 'error').lower()}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"the store {path} is in use by another relay; one process at a time may have it"
        ) from error
    return descriptor


def connect(path: Path) -> apsw.Connection:
    """Return a connection to a database."""
    connection = apsw.Connection(str(path), statementcachesize=200)
    connection.set_busy_timeout(5000)
    return connection


def set_durability(connection: apsw.Connection) -> None:
    """Make a commit survive a power failure."""
    for pragma in _PRAGMAS:
        connection.pragma(*pragma.split(" = "))


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the schema up to date, one numbered script after the other; there is no way back."""
    folder = resources.files("relay.store") / "migrations" / "sqlite"
    scripts = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    version = connection.pragma("user_version")
    if version > len(scripts):
        raise StoreError(
            f"the store {path} was written by a newer relay (schema {version}, this one knows {len(scripts)})"
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        with connection:
            for _ in connection.execute(script.read_text(encoding="utf-8")):
                pass
            connection.pragma("user_version", number)
    if version < len(scripts):
        _log.info("store.migrated", extra={"fields": {"schema": len(scripts), "from": version}})
