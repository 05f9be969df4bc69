"""`migrate-store` moves all that a SQLite file holds into a PostgreSQL database, or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import apsw
import psycopg
import pytest

from relay.store.moving import ROWS_AT_ONCE
from relay.store.sqlite_file import migrate
from tests.e2e.receiver import Receive
from tests.e2e.relay_process import (
    COMMAND,
    DEADLINE_SECONDS,
    Start,
    environment,
    event,
    run,
    until,
    write_config,
)
from tests.postgres import create_database, drop_database, running_server

START = 1_800_000_000.25
STATES = ("pending", "in_flight", "delivered", "dead", "discarded")
DESTINATIONS = ("erp", "crm", "buchhaltung-süd")
TABLES = {
    "events": "id",
    "deliveries": "id",
    "attempts": "delivery, number",
    "quarantine": "id",
    "pauses": "destination",
    "changes": "id",
    "route_matches": "day, route",
}
OF_A_RUNNING_RELAY = {"schema_version", "probe", "chores", "open_counts"}
EVER_GIVEN = {"events": 9_000, "deliveries": 50_000, "quarantine": 77, "changes": 99_999}
NOWHERE = "postgresql://relay@127.0.0.1:9/relay"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Return the URL of a PostgreSQL server."""
    with running_server() as url:
        yield url


@pytest.fixture
def database(server: str) -> Iterator[str]:
    """Return the URL of an empty database."""
    url = create_database(server)
    yield url
    drop_database(server, url)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with everything that there can be, which no test may change."""
    return made(tmp_path_factory.mktemp("filled") / "relay.db", events=3_000, changes=ROWS_AT_ONCE + 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with something of everything, which no test may change."""
    return made(tmp_path_factory.mktemp("small") / "relay.db", events=30, changes=9)


def made(path: Path, events: int = 0, changes: int = 0) -> Path:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.pragma("journal_mode", "WAL")
        migrate(connection, path)
        if events:
            with connection:
                fill(connection, events, changes)
    return path


def fill(connection: apsw.Connection, events: int, changes: int) -> None:
    chance = random.Random(4711)
    ids = range(1, events * 3, 3)
    insert(connection, "events", (event_row(chance, id_) for id_ in ids))
    deliveries = [row for id_ in ids for row in delivery_rows(chance, id_)]
    insert(connection, "deliveries", deliveries)
    insert(connection, "attempts", (row for each in deliveries for row in attempt_rows(chance, each)))
    insert(connection, "quarantine", (quarantine_row(chance, id_) for id_ in range(5, 60, 2)))
    for destination, at in (("Zoll", 1.5), ("erp", START), ("buchhaltung-süd", START + 1 / 3), ("_a", 2.0)):
        insert(connection, "pauses", [{"destination": destination, "paused_at": at}])
    insert(connection, "changes", (change_row(id_) for id_ in range(1, changes + 1)))
    for number, route in enumerate(("Zoll", "alles", "\u00e4nderungen", "_a")):
        insert(connection, "route_matches", [{"day": "2026-01-31", "route": route, "number": number}])
    for name, highest in EVER_GIVEN.items():  # retention has deleted the newest
        connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (highest, name))


def insert(connection: apsw.Connection, table: str, rows: Any) -> None:
    for row in rows:
        marks = ", ".join(f":{name}" for name in row)
        connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)  # noqa: S608


def event_row(chance: random.Random, id_: int) -> dict[str, Any]:
    order = chance.choice([None, f"Auftrag-Ä{id_ % 50}", "日本 '\\\t\"\n", ""])
    body = json.dumps({"eventId": f"e{id_}", "orderId": order}, ensure_ascii=False).encode()
    return {
        "id": id_,
        "source": chance.choice(["itscope", "zweite"]),
        "event_id": f"e{id_}-grüße-🚚",
        "received_at": START + chance.random() * 1e6,
        "content_type": "application/json",
        "event_type": chance.choice([None, "ORDER", "INVOICE"]),
        "transaction_status": chance.choice([None, "SENT"]),
        "trace_id": f"{id_:032x}",
        "unrouted": chance.choice([0, 1]),
        "body": chance.choice([body, b"", body * 50, b"\x00\xff\n\\."]),
        "order_id": order,
        "itscope_order_id": chance.choice([None, "\\N"]),
        "document_id": None,
        "transaction_id": f"t{id_}",
    }


def delivery_rows(chance: random.Random, event_id: int) -> Iterator[dict[str, Any]]:
    for place in range(chance.randrange(4)):
        state = chance.choice(STATES)
        tried = state != "pending" or chance.random() < 0.5
        in_flight = state == "in_flight"
        yield {
            "id": event_id * 5 + place,
            "event": event_id,
            "destination": DESTINATIONS[place],
            "state": state,
            "accepted_at": START + event_id / 7,
            "due_at": START + event_id / 3,
            "attempts": chance.randrange(1, 4) if tried else 0,
            "token": chance.getrandbits(60) if in_flight else None,
            "lease_until": START + 60.125 if in_flight else None,
            "fresh": int(not tried),
            "order_key": chance.choice([None, "Schlüssel"]),
            "blocked": int(state == "pending" and chance.random() < 0.3),
            "replay_of": chance.choice([None, 3]),
            "reason": "von Hand gelöst" if state == "discarded" else None,
        }


def attempt_rows(chance: random.Random, delivery: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number in range(1, delivery["attempts"] + 1):
        status = chance.choice([None, 200, 503])
        yield {
            "delivery": delivery["id"],
            "number": number,
            "started_at": delivery["accepted_at"] + number * 0.1,
            "duration_seconds": chance.random(),
            "status": status,
            "error": "connection refused" if status is None else None,
            "next_state": "pending",
            "answer": chance.choice([None, b"Fehler: \xfc\x00", "schön".encode()]),
        }


def quarantine_row(chance: random.Random, id_: int) -> dict[str, Any]:
    body = chance.randbytes(id_ * 30)
    return {
        "id": id_,
        "source": "itscope",
        "reason": "not-utf-8",
        "digest": hashlib.sha256(body).hexdigest(),
        "detail": "the body is not UTF-8 (byte 0)",
        "content_type": "text/plain; charset=ü",
        "received_at": START,
        "last_received_at": START + id_ / 9,
        "times": id_,
        "body": body,
    }


def change_row(id_: int) -> dict[str, Any]:
    detail = json.dumps({"reason": "läuft wieder", "nul": "\0"})
    return {"id": id_, "at": START + id_, "who": "jörg", "action": "pause", "detail": detail, "number": id_}


# ---- looking


def moved(file: Path, database: str, *more: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return run("migrate-store", "--from", f"sqlite:///{file}", "--to", database, *more, **how)


def rows_in_file(path: Path, table: str) -> list[dict[str, Any]]:
    """Return what the database should hold of a table of the file."""
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY {TABLES[table]}")  # noqa: S608
        rows = [dict(zip((name for name, _ in cursor.get_description()), row, strict=True)) for row in cursor]
    for row in rows:
        row |= {name: bool(row[name]) for name in ("unrouted", "fresh", "blocked") if name in row}
        if table == "events":
            row["size"] = len(row["body"])
        if row.get("state") == "in_flight":
            row |= {"state": "pending", "token": None, "lease_until": None}
    return rows


def rows_in_database(url: str, table: str) -> list[dict[str, Any]]:
    key = 'destination COLLATE "C"' if table == "pauses" else TABLES[table]
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY {key}".encode()).fetchall()  # noqa: S608


def read(url: str, sql: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def tables_of(url: str) -> set[str]:
    return {name for (name,) in read(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def assert_all_moved(file: Path, database: str) -> None:
    for table in TABLES:
        there = rows_in_database(database, table)
        assert there, f"{table} is empty"
        assert there == rows_in_file(file, table)


def test_all_is_moved_and_the_file_stays_as_it_is(filled: Path, database: str) -> None:
    before = filled.read_bytes()
    done = moved(filled, database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("have store.url name the database now\n")
    assert filled.read_bytes() == before
    assert_all_moved(filled, database)
    assert tables_of(database) == {*TABLES, *OF_A_RUNNING_RELAY}

    counted = read(
        database,
        "SELECT destination, state, sum(number)::integer FROM open_counts GROUP BY 1, 2 ORDER BY 1, 2",
    )
    assert counted == read(
        database,
        "SELECT destination, state, count(*)::integer FROM deliveries"
        " WHERE state IN ('pending', 'in_flight', 'dead') GROUP BY 1, 2 ORDER BY 1, 2",
    )
    for table, highest in EVER_GIVEN.items():
        assert read(database, f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))") == [(highest + 1,)]


def test_a_repeated_move_finds_all_there_and_changes_nothing(small: Path, database: str) -> None:
    first = moved(small, database, "--json")
    again = moved(small, database, "--json")
    assert (first.returncode, again.returncode) == (0, 0)
    assert json.loads(again.stdout) == {**json.loads(first.stdout), "moved": False}
    assert json.loads(first.stdout)["moved"] is True
    assert json.loads(first.stdout)["tables"]["events"]["rows"] == 30
    told = moved(small, database)
    assert told.stdout.endswith("all of it was there already, and is the same; nothing was changed\n")
    assert_all_moved(small, database)


async def test_a_move_that_is_killed_leaves_nothing_and_can_be_repeated(
    filled: Path, database: str, tmp_path: Path
) -> None:
    assert moved(made(tmp_path / "empty.db"), database).returncode == 0
    with psycopg.connect(database) as holding:
        holding.execute("LOCK TABLE open_counts IN ACCESS EXCLUSIVE MODE")  # deliveries are counted there
        with started_move(filled, database) as moving:
            waits = (
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY deliv%'"
            )
            await until(lambda: read(database, waits))
            moving.kill()
    locked = "SELECT 1 FROM pg_locks WHERE relation = 'events'::regclass"
    await until(lambda: not read(database, locked))
    assert all(rows_in_database(database, table) == [] for table in TABLES)
    assert moved(filled, database).returncode == 0
    assert_all_moved(filled, database)


async def test_a_move_whose_connection_is_lost_is_explained_and_leaves_nothing(
    small: Path, database: str, tmp_path: Path
) -> None:
    assert moved(made(tmp_path / "empty.db"), database).returncode == 0
    with psycopg.connect(database) as holding:
        holding.execute("LOCK TABLE open_counts IN ACCESS EXCLUSIVE MODE")
        with started_move(small, database) as moving:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY deliv%'"
            await until(lambda: read(database, ended))
            _, said = moving.communicate(timeout=DEADLINE_SECONDS)
    assert (moving.returncode, said.count("\n")) == (1, 1)
    assert said.startswith("the database can't be used: terminating connection")
    assert all(rows_in_database(database, table) == [] for table in TABLES)


@contextlib.contextmanager
def started_move(file: Path, database: str) -> Iterator[subprocess.Popen[str]]:
    """Start a move, and see that it ends."""
    arguments = ["migrate-store", "--from", f"sqlite:///{file}", "--to", database]
    process = subprocess.Popen([COMMAND, *arguments], env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_what_is_owed_is_delivered_from_the_database(
    start: Start, receive: Receive, client: aiohttp.ClientSession, database: str, tmp_path: Path
) -> None:
    erp = await receive()
    before = await start(write_config(tmp_path, {"erp": "http://127.0.0.1:9/"}))
    assert (await before.post(client, event("owed")))[0] == 200
    in_use = moved(tmp_path / "relay.db", database)
    assert (in_use.returncode, in_use.stdout) == (1, "")
    assert "relay.db is in use by another relay" in in_use.stderr
    assert tables_of(database) == set()
    before.kill()  # so the delivery may be in flight, and the newest is in the write-ahead log
    write_ahead = (tmp_path / "relay.db-wal").read_bytes()
    assert moved(tmp_path / "relay.db", database).returncode == 0
    assert (tmp_path / "relay.db-wal").read_bytes() == write_ahead

    after = await start(write_config(tmp_path, {"erp": erp.url}, store={"url": database}))
    await until(lambda: after.owes_nothing(client))
    assert len(erp.requests) == 1
    assert (await after.post(client, event("owed")))[1]["status"] == "duplicate"
    assert (await after.post(client, event("new")))[1]["status"] == "accepted"
    await until(lambda: after.owes_nothing(client))

    again = moved(tmp_path / "relay.db", database)
    assert again.returncode == 1
    assert again.stderr.startswith("the database holds other events than the file, and was left as it is")
    assert len(rows_in_database(database, "events")) == 2


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("DELETE FROM changes WHERE id = 7", "changes"),
        ("UPDATE events SET body = body || 'x'::bytea WHERE id = 4", "events"),
        (
            "UPDATE deliveries SET due_at = due_at + 1e-6 WHERE id = (SELECT min(id) FROM deliveries)",
            "deliveries",
        ),
        ("INSERT INTO pauses VALUES ('new', 1)", "pauses"),
    ],
)
def test_a_database_that_holds_something_else_is_refused_and_stays(
    small: Path, database: str, change: str, table: str
) -> None:
    assert moved(small, database).returncode == 0
    with psycopg.connect(database) as connection:
        assert connection.execute(change.encode()).rowcount == 1
    before = {name: rows_in_database(database, name) for name in TABLES}
    refused = moved(small, database)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(
        f"the database holds other {table} than the file, and was left as it is;"
    )
    assert {name: rows_in_database(database, name) for name in TABLES} == before


def test_a_database_of_something_else_is_refused(small: Path, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE deliveries (parcel TEXT)")
    refused = moved(small, database)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == 'the database refused it: relation "deliveries" already exists\n'
    assert tables_of(database) == {"deliveries"}


def test_a_database_in_another_encoding_is_refused_before_anything_is_copied(
    small: Path, server: str, database: str
) -> None:
    western = f"{database}_western"
    create = f"CREATE DATABASE {western.rpartition('/')[2]} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(create.encode())
    try:
        refused = moved(small, western)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert (
            refused.stderr
            == "the database is encoded in LATIN1, which can't hold every text; it must be UTF8\n"
        )
        assert tables_of(western) == set()
    finally:
        drop_database(server, western)


def test_a_store_of_an_older_relay_is_brought_up_to_date_first(database: str, tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    first = resources.files("relay.store") / "migrations" / "sqlite" / "0001_initial.sql"
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute(first.read_text(encoding="utf-8")).fetchall()
        connection.execute(
            "INSERT INTO events (source, event_id, received_at, content_type, trace_id, unrouted, body)"
            """ VALUES ('itscope', 'e', 1.5, 'application/json', '', 1, CAST('{"orderId": "PÖ"}' AS BLOB))"""
        )
        connection.pragma("user_version", 1)
    assert moved(path, database).returncode == 0
    assert rows_in_database(database, "events") == rows_in_file(path, "events")
    assert read(database, "SELECT order_id FROM events") == [("PÖ",)]


def test_a_text_that_postgresql_can_not_hold_is_named_and_nothing_is_moved(
    database: str, tmp_path: Path
) -> None:
    path = made(tmp_path / "relay.db")
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute("INSERT INTO pauses VALUES ('erp', 1), ('e' || char(0), 2)")
        insert(connection, "changes", [change_row(1)])
    refused = moved(path, database)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert (
        refused.stderr
        == 'PostgreSQL can\'t hold all pauses: invalid byte sequence for encoding "UTF8": 0x00\n'
    )
    assert tables_of(database) == set()


def test_a_file_that_is_no_store_is_refused_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "minutes.db").write_bytes(b"minutes of the last meeting, in no way a database\n" * 100)
    (tmp_path / "empty.db").touch()
    (tmp_path / "folder").mkdir()
    for name, why in (
        ("missing.db", "there is no store missing.db"),
        ("folder", "there is no store folder"),
        ("minutes.db", "the store minutes.db is damaged (file is not a database); stop here, keep"),
        ("empty.db", "empty.db is not the store of a relay"),
    ):
        refused = moved(Path(name), NOWHERE, folder=tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith(why)
    assert not (tmp_path / "missing.db").exists()
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_a_database_that_can_not_be_reached_is_explained_without_its_password(
    tmp_path: Path,
) -> None:
    path = made(tmp_path / "relay.db")
    (tmp_path / "password").write_text("geheim &=%/ü\n", encoding="utf-8")
    for more, variables in (
        (("--password-file", str(tmp_path / "password")), {}),
        ((), {"PGPASSWORD": "geheim"}),
    ):
        failed = moved(path, NOWHERE, *more, variables=variables)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr.startswith("the database can't be used: connection failed: ")
        assert "geheim" not in failed.stderr


def test_a_password_is_taken_from_a_file_or_the_environment(
    small: Path, database: str, tmp_path: Path
) -> None:
    """The server of these tests believes everybody, so this shows only that such a password does no harm."""
    (tmp_path / "password").write_text("p w&=%/?#@:ü\n", encoding="utf-8")
    by_file = moved(small, database, "--password-file", str(tmp_path / "password"))
    assert (by_file.returncode, by_file.stderr) == (0, "")
    by_variable = moved(small, database, variables={"PGPASSWORD": "p w"})
    assert (by_variable.returncode, by_variable.stderr) == (0, "")


def test_without_the_extra_it_says_what_is_missing(small: Path) -> None:
    without = "import sys; sys.modules['psycopg'] = None\nfrom relay.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", without, "migrate-store", "--from", f"sqlite:///{small}", "--to", NOWHERE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "PostgreSQL needs the package's extra: itscope-relay[postgres]\n"


@pytest.mark.parametrize(
    ("source", "target", "more", "why"),
    [
        (
            "sqlite:///relay.db",
            "postgresql://relay:geheim@db/relay",
            (),
            "--to: a password doesn't belong into the URL; use --password-file, PGPASSWORD or PGPASSFILE",
        ),
        (
            "sqlite:///relay.db",
            "postgresql://relay@db/relay?password=geheim",
            (),
            "--to: a password doesn't belong into the URL; use --password-file, PGPASSWORD or PGPASSFILE",
        ),
        ("relay.db", NOWHERE, (), "--from: write sqlite:///PATH"),
        ("sqlite:///relay.db", "mysql://db/relay", (), "--to: write sqlite:///PATH"),
        ("sqlite:///relay.db", "postgresql://db", (), "--to: write sqlite:///PATH"),
        (NOWHERE, "sqlite:///relay.db", (), "--from: only a SQLite file can be moved: sqlite:///PATH"),
        ("sqlite:///a.db", "sqlite:///b.db", (), "--to: it can only be moved to postgresql://"),
        ("sqlite:///\udcff.db", NOWHERE, (), "--from: is not UTF-8 text"),
        ("sqlite:///relay.db", NOWHERE, ("--password-file", "no"), "--password-file: can't read no: no such"),
        (
            "sqlite:///relay.db",
            f"{NOWHERE}?sslmod=on",
            (),
            "--to: sslmod is not a parameter that may stand in",
        ),
    ],
)
def test_wrong_usage_is_explained_and_shows_no_password(
    source: str, target: str, more: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    wrong = run("migrate-store", "--from", source, "--to", target, *more, folder=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert f"Invalid value for {why}" in wrong.stderr
    assert "geheim" not in wrong.stderr
    assert list(tmp_path.iterdir()) == []
