"""The stores that the conformance suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from relay.store import Store
from relay.store.sqlite import open_store as open_sqlite
from tests.store.opened import Opened


@pytest.fixture(params=["sqlite"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """Opens one store, again and again."""
    match request.param:
        case "sqlite":
            opened = _sqlite(tmp_path / "relay.db")
        case other:
            raise ValueError(other)
    yield opened
    await opened.close()


@pytest.fixture
async def store(open_store: Opened) -> Store:
    """The store, opened for the first time."""
    return await open_store()


def _sqlite(path: Path) -> Opened:
    async def opener() -> Store:
        return open_sqlite(path, lambda _seconds: None)

    return Opened(opener, partial(read_sqlite, path))


def read_sqlite(path: Path, sql: str) -> list[Any]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()
