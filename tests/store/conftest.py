"""The stores that the conformance suite runs against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from relay.store import Store
from relay.store.postgres import open_store as open_postgres
from relay.store.sqlite import open_store as open_sqlite
from tests.postgres import create_database, drop_database, empty_database, read_postgres, running_server
from tests.store.opened import Opened


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[str]:
    """The URL of a PostgreSQL database; its server starts when the first test asks for it."""
    with running_server() as server:
        url = create_database(server)
        yield url
        drop_database(server, url)


@pytest.fixture
def postgres_url(postgres_database: str) -> str:
    """The URL of that database, empty."""
    empty_database(postgres_database)
    return postgres_database


@pytest.fixture(params=["sqlite", "postgres"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """Opens one store, again and again."""
    match request.param:
        case "sqlite":
            opened = _sqlite(tmp_path / "relay.db")
        case "postgres":
            opened = _postgres(request.getfixturevalue("postgres_url"))
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


def _postgres(url: str) -> Opened:
    async def opener() -> Store:
        return await open_postgres(url, lambda _seconds: None)

    return Opened(opener, partial(read_postgres, url))


def read_sqlite(path: Path, sql: str) -> list[Any]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()
