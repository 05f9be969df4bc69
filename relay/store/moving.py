"""All of a SQLite store into an empty PostgreSQL database: complete and compared, or not at all.

One transaction makes the schema, copies each table and reads it again. Owns which tables are moved, and how
what stands in the one reads in the other; the schemas are the stores'. The relay that used the file has
ended, and the file stays as it is, so that one can go back to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import apsw
import psycopg
from psycopg import errors

from relay.errors import StoreError
from relay.store.postgres_order import Connection
from relay.store.postgres_pool import wait_for_the_disk
from relay.store.postgres_schema import migrate as migrate_postgres
from relay.store.sqlite_check import DAMAGED, check_at_start, damaged, leave_as_it_is
from relay.store.sqlite_file import connect, lock, migrate

Progress = Callable[[str, str, int, int], None]
Row = tuple[Any, ...]

CONNECT_SECONDS = 10
LOCK_SECONDS = 10  # for others to finish what they have begun in the database
ROWS_AT_ONCE = 20_000  # in one statement: what its triggers have to do is kept in the server's memory
_ROWS_BETWEEN_LOOKS = 1_000

# The tables by what they are ordered by, those that others refer to first.
_KEYS = {
    "events": "id",
    "deliveries": "id",
    "attempts": "delivery, number",
    "quarantine": "id",
    "pauses": "destination",
    "changes": "id",
    "route_matches": "day, route",
}
# What isn't copied as it stands: SQLite knows a body's size by itself, and nobody works any more on what was
# in flight.
_INSTEAD = {
    ("events", "size"): "length(body)",
    ("deliveries", "state"): "CASE state WHEN 'in_flight' THEN 'pending' ELSE state END",
    ("deliveries", "token"): "NULL",
    ("deliveries", "lease_until"): "NULL",
}
_BOOLEAN = 16  # their types' numbers in PostgreSQL
_INTEGER = 23


@dataclass(frozen=True, slots=True)
class Contents:
    """What a table holds: how many rows, and the SHA-256 of their text in order."""

    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move did.

    Attributes:
        anew: False if all was in the database already.
        tables: by name.
    """

    anew: bool
    tables: Mapping[str, Contents]


async def move(store: Path, conninfo: str, progress: Progress | None = None) -> Moved:
    """Copy a SQLite store into a PostgreSQL database; if it is there already, only compare the two.

    Args:
        store: brought up to date where needed, and otherwise left as it is.
        conninfo: of the database, as libpq takes it.
        progress: called now and then with what is done, the table, and how many of how many rows.

    Raises:
        StoreError: the file is no store or in use, or the database can't be used or holds something else.
            It holds what it held before.
    """
    with _opened(store) as source:
        try:
            async with (
                await psycopg.AsyncConnection.connect(
                    conninfo, autocommit=True, connect_timeout=CONNECT_SECONDS
                ) as target,
                target.transaction(),
            ):
                return await _Move(source, target, progress).run()
        except errors.LockNotAvailable as error:
            raise StoreError("the database is in use; stop what uses it, and move again") from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StoreError(f"the database can't be used: {_text(error)}") from error
        except psycopg.Error as error:
            raise StoreError(f"the database refused it: {_text(error)}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    """Open a store that no relay uses, for as long as nobody else may."""
    if not os.path.isfile(path):  # noqa: PTH113 (Path raises where the folder can't be entered)
        raise StoreError(f"there is no store {path}")
    descriptor = lock(path)
    try:
        check_at_start(path)
        with contextlib.closing(connect(path)) as connection:
            leave_as_it_is(connection)
            if not connection.pragma("user_version"):
                raise StoreError(f"{path} is not the store of a relay")
            migrate(connection, path)
            connection.pragma("query_only", True)
            connection.execute("BEGIN")
            yield connection
    except (*DAMAGED, UnicodeDecodeError) as error:  # the latter: a text that nobody has written
        raise damaged(path, error) from error
    except apsw.Error as error:
        raise StoreError(f"can't read the store {path}: {error}") from error
    finally:
        os.close(descriptor)


class _Move:
    """One move, within a transaction of either store."""

    def __init__(self, source: apsw.Connection, target: Connection, progress: Progress | None) -> None:
        self._source, self._target, self._progress = source, target, progress

    async def run(self) -> Moved:
        await self._prepare()
        tables = [await _described(self._target, name) for name in _KEYS]
        rows = {table.name: self._source.execute(table.count).get for table in tables}
        there = {table.name: await self._count(table) for table in tables}
        anew = not any(there.values())
        if not anew and there != rows:
            raise _holds_other(next(name for name in rows if rows[name] != there[name]))
        contents = {}
        for table in tables:
            total = rows[table.name]
            contents[table.name] = await self._copy(table, total) if anew else self._read(table, total)
        if anew:  # or the first queries would be planned badly
            await self._target.execute(f"ANALYZE {', '.join(_KEYS)}")
        for table in tables:
            if await self._read_back(table, rows[table.name]) != contents[table.name]:
                raise _taken_wrongly(table.name) if anew else _holds_other(table.name)
        await self._continue_ids()
        return Moved(anew, contents)

    async def _prepare(self) -> None:
        """Make the schema where there is none, and keep everybody else from writing."""
        await wait_for_the_disk(self._target)
        await self._target.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        await self._target.execute("SET LOCAL statement_timeout = 0")
        await self._target.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await migrate_postgres(self._target)
        await self._target.execute(f"LOCK TABLE {', '.join(_KEYS)} IN SHARE ROW EXCLUSIVE MODE")
        await self._target.execute("SET LOCAL lock_timeout = 0")

    async def _count(self, table: _Table) -> int:
        row = await (await self._target.execute(table.count.encode())).fetchone()
        return 0 if row is None else row[0]

    async def _copy(self, table: _Table, total: int) -> Contents:
        """Copy a table; the result is of what was read."""
        try:
            return await self._copied(table, total)
        except psycopg.DataError as error:
            raise StoreError(f"PostgreSQL can't hold all {table.name}: {_text(error)}") from error

    async def _copied(self, table: _Table, total: int) -> Contents:
        digest = _Digest()
        rows = iter(self._source.execute(table.read))
        while (first := next(rows, None)) is not None:
            async with self._target.cursor().copy(table.write.encode()) as copy:
                copy.set_types(table.types)
                for row in chain((first,), islice(rows, ROWS_AT_ONCE - 1)):
                    await copy.write_row(row)
                    self._add(digest, row, "copying", table, total)
        return digest.contents()

    def _read(self, table: _Table, total: int) -> Contents:
        """Read a table of the file."""
        digest = _Digest()
        for row in self._source.execute(table.read):
            self._add(digest, row, "reading", table, total)
        return digest.contents()

    async def _read_back(self, table: _Table, total: int) -> Contents:
        """Read a table of the database."""
        digest = _Digest()
        async for row in _rows_back(self._target, table):
            self._add(digest, row, "comparing", table, total)
        return digest.contents()

    def _add(self, digest: _Digest, row: Row, doing: str, table: _Table, total: int) -> None:
        digest.add(row)
        if self._progress is not None and digest.rows % _ROWS_BETWEEN_LOOKS == 0:
            self._progress(doing, table.name, digest.rows, total)

    async def _continue_ids(self) -> None:
        """Let the next ids be higher than any that either store ever gave."""
        for table, highest in self._source.execute("SELECT name, seq FROM sqlite_sequence WHERE seq > 0"):
            if table in _KEYS:
                await self._target.execute(
                    "SELECT setval(sequence, greatest(%s, pg_sequence_last_value(sequence)))"
                    " FROM (SELECT pg_get_serial_sequence(%s, 'id')::regclass AS sequence) AS of_table",
                    (highest, table),
                )


@dataclass(frozen=True, slots=True)
class _Table:
    """How a table is counted, read from the file, written into the database, and read from there."""

    name: str
    count: str
    read: str
    write: str
    types: tuple[int, ...]
    read_back: str
    types_back: tuple[int, ...]


async def _described(target: Connection, name: str) -> _Table:
    """Return a table with the columns that it has in the database; those in the file have the same names."""
    cursor = await target.execute(
        "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        " AND NOT attisdropped ORDER BY attnum",
        (name,),
    )
    columns: list[tuple[str, int]] = await cursor.fetchall()
    key, names = _KEYS[name], ", ".join(column for column, _ in columns)
    read = ", ".join(_INSTEAD.get((name, column), column) for column, _ in columns)
    # SQLite's booleans are numbers, and are compared as such. Its order of texts is that of their bytes.
    back = ", ".join(f"{column}::integer" if type_ == _BOOLEAN else column for column, type_ in columns)
    key_back = f'{key} COLLATE "C"' if name == "pauses" else key
    return _Table(
        name,
        count=f"SELECT count(*) FROM {name}",  # noqa: S608
        read=f"SELECT {read} FROM {name} ORDER BY {key}",  # noqa: S608
        write=f"COPY {name} ({names}) FROM STDIN (FORMAT BINARY)",
        types=tuple(type_ for _, type_ in columns),
        read_back=f"COPY (SELECT {back} FROM {name} ORDER BY {key_back}) TO STDOUT (FORMAT BINARY)",  # noqa: S608
        types_back=tuple(_INTEGER if type_ == _BOOLEAN else type_ for _, type_ in columns),
    )


async def _rows_back(target: Connection, table: _Table) -> AsyncIterator[Row]:
    async with target.cursor().copy(table.read_back.encode()) as copy:
        copy.set_types(table.types_back)
        async for row in copy.rows():
            yield row


class _Digest:
    """The contents of a table, row by row.

    Attributes:
        rows: how many there were.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def add(self, row: Row) -> None:
        self.rows += 1
        self._hash.update(f"{row!r}\n".encode())  # a text for each value, and exact for floats

    def contents(self) -> Contents:
        return Contents(self.rows, self._hash.hexdigest())


def _holds_other(table: str) -> StoreError:
    return StoreError(
        f"the database holds other {table} than the file, and was left as it is; move into an empty one"
        " (if these were moved before, a relay has used one of the two since)"
    )


def _taken_wrongly(table: str) -> StoreError:
    return StoreError(f"the {table} in the database are not those of the file; nothing of it was kept")


def _text(error: BaseException) -> str:
    """Return the first line of what is wrong; PostgreSQL's further ones quote rows."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
