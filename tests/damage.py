"""What storage can do to a database file, each time the same for the same seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import apsw

from relay.store.sqlite import open_store
from tests.store.opened import DESTINATIONS, event, offer

PAGE = 4096
EVENTS = 400
_TABLE_LEAF = 0x0D  # the first byte of a page that holds rows

Damage = Callable[[Path, random.Random], None]


async def make_store(path: Path) -> None:
    """Make a database with some hundred events, all in one file: the log has been folded in."""
    store = open_store(path, lambda _: None)
    owed = dict.fromkeys(DESTINATIONS, False)
    await asyncio.gather(*(offer(store, event(f"e{number}"), owed) for number in range(EVENTS)))
    await store.close()
    assert not path.with_name(f"{path.name}-wal").exists()


def destroy_header(path: Path, chance: random.Random) -> None:
    """Write garbage over the first 100 bytes, which say how to read the rest."""
    _write(path, 0, chance.randbytes(100))


def scribble(path: Path, chance: random.Random) -> None:
    """Write garbage over three pages."""
    for page in chance.sample(range(1, path.stat().st_size // PAGE), 3):
        _write(path, page * PAGE, chance.randbytes(PAGE))


def zero_a_page(path: Path, chance: random.Random) -> None:
    """Lose a page with rows, as when a block is remapped."""
    _write(path, chance.choice(leaves(path)) * PAGE, bytes(PAGE))


def truncate(path: Path, chance: random.Random) -> None:
    """Lose the end of the file, also in the middle of a page."""
    with path.open("r+b") as file:
        file.truncate(chance.randrange(PAGE, path.stat().st_size - 1))


def move_a_row(path: Path, chance: random.Random) -> None:
    """Change a row behind the back of one index."""
    index = "deliveries_due"
    connection = apsw.Connection(str(path))
    entry = connection.execute("SELECT * FROM sqlite_schema WHERE name = ?", (index,)).get
    connection.pragma("writable_schema", True)
    connection.execute("DELETE FROM sqlite_schema WHERE name = ?", (index,))
    connection.close()
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE deliveries SET due_at = 0 WHERE id = ?", (chance.randrange(1, EVENTS),))
    connection.pragma("writable_schema", True)
    connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", entry)
    connection.close()


DAMAGES: tuple[Damage, ...] = (destroy_header, scribble, zero_a_page, truncate, move_a_row)


def leaves(path: Path) -> list[int]:
    """Return the pages with rows but the first, counted from 0."""
    content = path.read_bytes()
    return [page for page in range(1, len(content) // PAGE) if content[page * PAGE] == _TABLE_LEAF]


def zero_all_rows(path: Path) -> None:
    """Lose every page with rows, also while the file is in use."""
    for page in leaves(path):
        _write(path, page * PAGE, bytes(PAGE))


def _write(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
