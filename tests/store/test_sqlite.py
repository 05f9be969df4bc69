"""What only the SQLite store has: a file with a lock, a schema, a disk that can be full."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from relay.errors import StoreError, StoreUnavailableError
from relay.model import DeliveryState, Owed, References
from relay.store import group_commit, sqlite_search
from relay.store.repair import Filter, Page
from relay.store.sqlite import SqliteStore, open_store
from relay.store.sqlite_find import Finder
from relay.store.upkeep import MAX_QUARANTINED
from tests.locked import locked
from tests.store.conftest import read_sqlite
from tests.store.opened import (
    START,
    accept,
    attempt,
    backlog,
    claim_again,
    claim_all,
    event,
    finish,
    ids,
    offer,
    owed,
    rejected,
)

MIGRATIONS = Path(__file__).parents[2] / "relay" / "store" / "migrations" / "sqlite"
LARGE = 256 << 10  # bytes of a body


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.db"


@pytest.fixture
def commits() -> list[float]:
    return []


@pytest.fixture
async def store(path: Path, commits: list[float]) -> AsyncIterator[SqliteStore]:
    opened = open_store(path, commits.append)
    yield opened
    await opened.close()


@pytest.fixture
def raw(path: Path) -> Iterator[apsw.Connection]:
    """The file, opened by somebody else."""
    connection = apsw.Connection(str(path))
    yield connection
    connection.close()


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if check():
                return
            await asyncio.sleep(0.005)


async def test_file_is_made_with_the_newest_schema(store: SqliteStore, path: Path) -> None:
    await store.probe()
    assert read_sqlite(path, "PRAGMA user_version") == [(len(list(MIGRATIONS.glob("*.sql"))),)]
    assert read_sqlite(path, "PRAGMA integrity_check") == [("ok",)]


async def test_migrations_apply_to_every_older_schema(path: Path, raw: apsw.Connection) -> None:
    scripts = sorted(MIGRATIONS.glob("*.sql"))
    for done in range(len(scripts)):
        if done:
            raw.execute(scripts[done - 1].read_text()).fetchall()
            raw.pragma("user_version", done)
            copy = path.with_name(f"schema{done}.db")
            raw.execute("VACUUM INTO ?", (str(copy),)).fetchall()
        else:
            copy = path.with_name("schema0.db")
        opened = open_store(copy, lambda _: None)
        await accept(opened, "e1")
        await opened.close()


async def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [int(script.name[:4]) for script in sorted(MIGRATIONS.glob("*.sql"))]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_statements_keep_what_they_may_undo_in_memory(store: SqliteStore) -> None:
    assert store._commits._connection.pragma("temp_store") == 2  # or else each large one makes a file


async def test_commits_are_synchronous_and_in_wal(store: SqliteStore, path: Path) -> None:
    await store.probe()
    assert read_sqlite(path, "PRAGMA journal_mode") == [("wal",)]
    assert (
        store._commits._connection.pragma("synchronous") == 2
    )  # FULL: NORMAL loses commits when the power fails


async def test_each_commit_is_measured_and_waiting_events_share_one(
    store: SqliteStore, commits: list[float]
) -> None:
    await asyncio.gather(*(offer(store, event(f"e{number}"), {"erp": False}) for number in range(100)))
    assert 1 <= len(commits) < 50
    before = len(commits)
    await claim_all(store, "nobody")
    assert len(commits) == before  # nothing was written


class Noting(apsw.Connection):
    """Notes how long the log was, and how much of it was folded into the database, at each try of that."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.pragma("journal_mode", "wal")
        self.execute("CREATE TABLE IF NOT EXISTS notes (text)")
        self.folded: list[tuple[int, int]] = []

    def wal_checkpoint(self, *arguments: Any, **options: Any) -> tuple[int, int]:
        self.folded.append(super().wal_checkpoint(*arguments, **options))
        return self.folded[-1]

    def write(self, notes: Sequence[str]) -> list[None]:
        self.execute("INSERT INTO notes VALUES (?)", (notes[0],))
        return [None]


async def test_checkpoint_that_a_reader_hinders_is_tried_now_and_then(
    path: Path, raw: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "CHECKPOINT_IDLE_PAGES", 100)
    monkeypatch.setattr(group_commit, "CHECKPOINT_RETRY_PAGES", 20)
    connection = Noting(path)
    raw.execute("BEGIN")  # and sees this moment from now on
    assert raw.execute("SELECT count(*) FROM notes").get == 0
    commits = group_commit.GroupCommit(connection, lambda _: None)
    for number in range(200):
        await commits.submit(connection.write, f"note {number}")
    tries = len(connection.folded)
    assert 5 <= tries <= 1 + 2 * 200 // 20  # at most two pages each: a leaf, and the one above
    assert all(folded < length for length, folded in connection.folded[1:])
    raw.execute("COMMIT")
    for number in range(40):
        await commits.submit(connection.write, f"note {number}")
    await commits.close()
    assert [length for length, folded in connection.folded[tries:] if folded == length] != []


async def test_log_that_a_crash_has_left_is_folded_first(path: Path, raw: apsw.Connection) -> None:
    raw.wal_autocheckpoint(0)
    before = Noting(path)
    before.wal_autocheckpoint(0)
    before.write(["left"])
    connection = Noting(path)
    commits = group_commit.GroupCommit(connection, lambda _: None)
    for note in ("first", "second"):  # after which what followed the first has been done
        await commits.submit(connection.write, note)
    assert [folded == length for length, folded in connection.folded] == [True]
    await commits.close()
    before.close()


async def in_its_thread(store: SqliteStore, look: Callable[[], Any]) -> Any:
    """Do something with the connection of a store, where it may be used."""
    return await store._commits.submit(lambda _: [look()], None)


async def test_cost_of_a_claim_does_not_grow_with_what_becomes_due_later(store: SqliteStore) -> None:
    connection = store._commits._connection
    operations = 0  # of SQLite's virtual machine

    def note() -> bool:
        nonlocal operations
        operations += 1
        return False

    async def cost() -> int:
        nonlocal operations
        operations = 0
        assert ids((await claim_again(store, START + 1)).deliveries) == []
        return operations

    async def postpone(*event_ids: str) -> None:
        await accept(store, *event_ids)
        later = [attempt(one, DeliveryState.PENDING, due_at=START + 9000) for one in await claim_all(store)]
        await store.record(later)

    await in_its_thread(store, lambda: connection.set_progress_handler(note, 1))
    await postpone("first")
    before = await cost()
    await postpone(*(f"e{number}" for number in range(100)))
    assert await cost() < 2 * before


async def test_prepared_statements_keep_no_large_bodies(store: SqliteStore) -> None:
    connection = store._commits._connection

    async def kept_bytes() -> int:
        used: tuple[int, int] = await in_its_thread(
            store, lambda: connection.status(apsw.SQLITE_DBSTATUS_STMT_USED)
        )  # with what is bound to them
        return used[0]

    await accept(store, "small")
    before = await kept_bytes()
    burst = [
        (event(f"e{number}", body=bytes(LARGE)), References(), {"erp": Owed(claim=False)})
        for number in range(16)
    ]
    await in_its_thread(store, lambda: store._steps.accept(burst))  # in one transaction, however they come
    await offer(store, event("alone", body=bytes(16 * LARGE)), {"erp": False})
    assert await kept_bytes() < before + LARGE


async def test_second_relay_on_the_same_file_is_refused(store: SqliteStore, path: Path) -> None:
    with pytest.raises(StoreError, match=r"in use by another relay"):
        open_store(path, lambda _: None)
    await accept(store, "e1")


async def test_lock_of_a_killed_process_is_free(path: Path) -> None:
    script = (
        "import asyncio, os, signal, sys; from pathlib import Path\n"
        "from relay.store.sqlite import open_store\n"
        "async def main():\n"
        "    open_store(Path(sys.argv[1]), lambda _: None)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(path))
    assert await process.wait() == -9
    opened = open_store(path, lambda _: None)
    await opened.close()


async def test_newer_schema_is_refused_and_left_as_it_is(path: Path, raw: apsw.Connection) -> None:
    raw.pragma("user_version", 999)
    with pytest.raises(StoreError, match=r"newer relay \(schema 999"):
        open_store(path, lambda _: None)
    assert raw.execute("SELECT count(*) FROM sqlite_schema").get == 0


async def test_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    content = b"this is not a database, but somebody's notes\n" * 200
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"the store .*relay\.db is damaged \(file is not a database\)"):
        open_store(path, lambda _: None)
    assert path.read_bytes() == content


async def test_damaged_file_is_refused(path: Path) -> None:
    opened = open_store(path, lambda _: None)
    await accept(opened, *(f"e{number}" for number in range(50)))
    await opened.close()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)  # the header is good, every page is not
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"the store .* is damaged \(.*malformed"):
        open_store(path, lambda _: None)


async def test_refused_file_is_not_kept_locked(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError):
        open_store(path, lambda _: None)
    path.unlink()
    opened = open_store(path, lambda _: None)
    await opened.close()


async def test_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"can't open the store .*no such file or directory"):
        open_store(tmp_path / "missing" / "relay.db", lambda _: None)


async def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"can't open the store"):
        open_store(tmp_path, lambda _: None)


async def test_locked_database_is_unavailable_and_works_again_afterwards(
    store: SqliteStore, path: Path
) -> None:
    store._commits._connection.set_busy_timeout(20)  # five seconds otherwise
    with locked(path):
        with pytest.raises(StoreUnavailableError):
            await offer(store, event(), {"erp": True})
        with pytest.raises(StoreUnavailableError):
            await store.probe()
    assert await backlog(store) == owed()
    await accept(store, "e1")
    assert ids(await claim_all(store)) == ["e1"]


async def test_webhooks_are_refused_at_once_while_a_commit_hangs(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "STUCK_SECONDS", 0.02)
    store._commits._connection.set_busy_timeout(600_000)
    with locked(path):
        waiting = asyncio.ensure_future(offer(store, event("waits"), {"erp": False}))
        await until(lambda: store._commits.stuck)
        for refused in (offer(store, event("late"), {"erp": True}), store.quarantine(rejected(b"late"))):
            with pytest.raises(StoreUnavailableError, match="the disk takes too long"):
                await refused
        assert not waiting.done()
        assert store._commits.waiting == 1  # nothing of the others is stored later
    await waiting
    monkeypatch.undo()  # or a slow machine hangs as well
    await accept(store, "late")
    assert ids(await claim_all(store)) == ["waits", "late"]


async def test_store_that_has_nothing_to_do_is_not_stuck(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.probe()
    monkeypatch.setattr(group_commit, "STUCK_SECONDS", -1.0)
    await until(lambda: not store._commits.stuck)  # the thread has come back for more


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from relay.errors import StoreUnavailableError
from relay.store.sqlite import open_store
from tests.store.opened import event, claim_all, offer

LIMIT = 1 << 20

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
    store = open_store(Path(sys.argv[1]), lambda _: None)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    stored = 0
    try:
        while True:
            await offer(store, event(f"e{stored}", body=b"x" * 100_000), {"erp": False})
            stored += 1
            assert stored < 100
    except StoreUnavailableError as error:
        print(error)
    for _ in range(3):
        try:
            await offer(store, event("lost", body=b"x" * 100_000), {"erp": True})
        except StoreUnavailableError:
            continue
        raise AssertionError("stored on a full disk")
    try:
        late = [event(f"l{n}", body=b"x" * 90_000) for n in range(20)]
        await asyncio.gather(*(offer(store, one, {"erp": True}) for one in late))
    except StoreUnavailableError:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.probe()
    assert not (await offer(store, event("lost", body=b"y"), {"erp": False})).duplicate, "half-stored"
    await store.close()
    store = open_store(Path(sys.argv[1]), lambda _: None)
    found = [delivery.event.event_id for delivery in await claim_all(store)]
    assert found[:stored] == [f"e{n}" for n in range(stored)], found
    assert "lost" in found and len(found) == len(set(found)), found
    await store.close()

asyncio.run(main())
print("as it should be")
"""


async def test_full_disk_is_unavailable_and_nothing_is_half_stored(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FULL_DISK,
        str(path),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out.decode().splitlines()[-1:] == ["as it should be"], (out + err).decode()
    assert "the store can't write" in out.decode()


async def test_operation_on_a_closed_store_is_unavailable(path: Path) -> None:
    opened = open_store(path, lambda _: None)
    await opened.close()
    with pytest.raises(StoreUnavailableError):
        await offer(opened, event(), {"erp": False})


async def test_closing_commits_what_waits(path: Path) -> None:
    opened = open_store(path, lambda _: None)
    waiting = [asyncio.ensure_future(offer(opened, event(f"e{n}"), {"erp": False})) for n in range(20)]
    await asyncio.sleep(0)  # let each be queued
    await opened.close()
    await asyncio.gather(*waiting)
    assert read_sqlite(path, "SELECT count(*) FROM events") == [(20,)]


async def test_quarantine_is_bounded_and_drops_the_oldest(
    store: SqliteStore, path: Path, raw: apsw.Connection
) -> None:
    with raw:
        raw.executemany(
            "INSERT INTO quarantine (source, reason, digest, detail, content_type, received_at,"
            " last_received_at, times, body) VALUES ('itscope', 'not-json', ?, '', '', 0, 0, 1, x'00')",
            ((f"{number:064}",) for number in range(MAX_QUARANTINED)),
        )
    await store.quarantine(rejected(b"newest"))
    assert read_sqlite(path, "SELECT count(*), min(id) FROM quarantine") == [(MAX_QUARANTINED, 2)]
    assert read_sqlite(path, "SELECT count(*) FROM quarantine WHERE body = x'6e6577657374'") == [(1,)]


HANGING_DISK = """
import asyncio, sys, time
from pathlib import Path
import apsw
from relay.store.sqlite import open_store
from tests.store.opened import event, offer

path = Path(sys.argv[1])

async def main() -> apsw.Connection:
    store = open_store(path, lambda _: None)
    store._commits._connection.set_busy_timeout(600_000)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE").fetchall()
    waiting = asyncio.ensure_future(offer(store, event(), {"erp": True}))
    await asyncio.sleep(0)  # it waits for the disk before the store closes
    try:
        await asyncio.wait_for(store.close(), 0.2)
    except TimeoutError:
        print("gave up")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return other

other = asyncio.run(main())
print("the loop has ended", flush=True)
"""
DISK_COMES_BACK = """
other.execute("ROLLBACK").fetchall()
time.sleep(0.5)
print(other.execute("SELECT count(*) FROM events").get)
"""


@pytest.mark.parametrize("then", ["", DISK_COMES_BACK], ids=["for good", "for a while"])
async def test_hanging_disk_keeps_no_process_from_ending(path: Path, then: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HANGING_DISK + then,
        str(path),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    expected = ["gave up", "the loop has ended", *(["1"] if then else [])]
    assert (process.returncode, out.decode().splitlines(), err.decode()) == (0, expected, "")


# ---- how much is looked at


def pages_read(connection: apsw.Connection) -> int:
    return connection.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]


async def test_only_the_rows_of_a_page_of_unrouted_events_are_looked_at(
    store: SqliteStore, raw: apsw.Connection
) -> None:
    for number in range(200):  # each has a page of the file for itself
        await offer(store, event(f"e{number}", body=b"{%b}" % (b" " * 3500)), {})
    before = pages_read(raw)
    found = Finder(raw).find_events(Filter(unrouted=True), Page(10, None))
    assert [one.event_id for one in found.items] == [f"e{number}" for number in range(199, 189, -1)]
    assert pages_read(raw) - before < 50


async def test_dead_deliveries_that_are_many_are_not_looked_at_for_being_counted(
    store: SqliteStore, raw: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(store, *(f"e{number}" for number in range(300)))
    await finish(store, DeliveryState.DEAD)
    raw.execute("UPDATE deliveries SET reason = printf('%4000s', '')")  # each has a page for itself
    monkeypatch.setattr(sqlite_search, "MAX_LOOKED_AT", 200)
    looking = apsw.Connection(raw.filename)
    found = Finder(looking).find_deliveries(Filter(state=DeliveryState.DEAD), Page(10, None))
    assert [one.event_id for one in found.items] == [f"e{number}" for number in range(299, 289, -1)]
    assert pages_read(looking) < 100
    looking.close()
