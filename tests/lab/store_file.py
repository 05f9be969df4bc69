"""The relay's store as it lies on the disk while no relay runs.

Reads a copy, so that the next start finds everything as the last relay left it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw

Pair = tuple[str, str]  # event id, destination


def in_flight(path: Path) -> set[Pair]:
    """Return what was claimed and not recorded when the relay died."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        connection = apsw.Connection(str(copy))
        try:
            if connection.pragma("user_version") == 0:  # it died while it made its first tables
                return set()
            rows = connection.execute(
                "SELECT e.event_id, d.destination FROM deliveries AS d JOIN events AS e ON e.id = d.event"
                " WHERE d.state = 'in_flight'"
            )
            return {(str(event_id), str(destination)) for event_id, destination in rows}
        finally:
            connection.close()


def damages(path: Path) -> list[str]:
    """Return what SQLite finds wrong with a store."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = [str(line) for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
        found += [f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check")]
    finally:
        connection.close()
    return found
