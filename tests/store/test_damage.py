"""A damaged file is noticed, and from then on nothing is acknowledged; what is whole is not complained of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from relay.errors import StoreError, StoreUnavailableError
from relay.model import DeliveryState
from relay.store import sqlite_backlog, sqlite_check
from relay.store.repair import Filter, Page
from relay.store.sqlite import SqliteStore, open_store
from tests.damage import DAMAGES, EVENTS, PAGE, Damage, make_store, move_a_row, zero_all_rows
from tests.store.conftest import read_sqlite
from tests.store.opened import accept, attempt, claim_all, event, ids, offer

SEEDS = range(8)
DEADLINE_SECONDS = 30.0


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "relay.db"
    await make_store(path)
    return path


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = open_store(path, lambda _: None)
    yield opened
    await opened.close()


def sentence(path: Path) -> str:
    """Return what is said of a damaged file, as a pattern."""
    before, after = re.escape(f"the store {path} is damaged ("), r"\); stop here, keep the file and see "
    return rf"^{before}[^\n]+{after}'When the database is damaged' in docs/operations\.md$"


async def died(store: SqliteStore) -> str:
    """Wait until a store has ended by itself and return why."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.wait([store.died])
    return str(store.died.exception())


# ---- at the start


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_file_is_refused_and_left_as_it_is(path: Path, damage: Damage, seed: int) -> None:
    damage(path, random.Random(seed))  # noqa: S311 (the same each time)
    content = path.read_bytes()
    with pytest.raises(StoreError, match=sentence(path)):
        open_store(path, lambda _: None)
    assert path.read_bytes() == content


async def test_empty_file_beside_a_log_is_refused_and_the_log_is_kept(path: Path, tmp_path: Path) -> None:
    crashed = await crash(path, tmp_path)
    log = crashed.with_name("relay.db-wal")
    content = log.read_bytes()
    crashed.write_bytes(b"")
    with pytest.raises(StoreError, match=sentence(crashed)):
        open_store(crashed, lambda _: None)
    assert log.read_bytes() == content  # SQLite would delete it


async def test_log_of_a_damaged_file_is_not_written_into_it(path: Path, tmp_path: Path) -> None:
    crashed = await crash(path, tmp_path)
    zero_all_rows(crashed)  # the log has those of few pages
    files = [crashed, crashed.with_name("relay.db-wal")]
    contents = [file.read_bytes() for file in files]
    with pytest.raises(StoreError, match=sentence(crashed)):
        open_store(crashed, lambda _: None)
    assert [file.read_bytes() for file in files] == contents


async def test_damage_to_a_page_that_the_log_holds_as_well_does_no_harm(path: Path, tmp_path: Path) -> None:
    crashed = await crash(path, tmp_path)
    ((page,),) = read_sqlite(crashed, "SELECT rootpage - 1 FROM sqlite_schema WHERE name = 'attempts'")
    with crashed.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(bytes(PAGE))
    opened = open_store(crashed, lambda _: None)
    await opened.close()
    assert read_sqlite(crashed, "PRAGMA integrity_check") == [("ok",)]
    assert read_sqlite(crashed, "SELECT count(*) FROM attempts") == [(EVENTS,)]


async def crash(path: Path, folder: Path) -> Path:
    """Return what a relay that was killed leaves, its last changes in the log."""
    opened = open_store(path, lambda _: None)
    await opened.record([attempt(delivery, DeliveryState.DELIVERED) for delivery in await claim_all(opened)])
    (folder / "crashed").mkdir()
    for name in ("relay.db", "relay.db-wal"):
        shutil.copy(path.with_name(name), folder / "crashed" / name)
    await opened.close()
    return folder / "crashed" / "relay.db"


# ---- later


async def test_file_too_large_to_be_looked_at_before_the_start_is_looked_at_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_check, "CHECK_SECONDS", 0.0)
    move_a_row(path, random.Random(1))  # noqa: S311
    opened = open_store(path, lambda _: None)
    assert re.match(sentence(path), await died(opened))
    with pytest.raises(StoreUnavailableError, match="is damaged"):
        await offer(opened, event("late"), {"erp": False})
    with pytest.raises(StoreUnavailableError, match="is damaged"):
        await opened.probe()  # so readiness fails
    await opened.close()


async def test_whole_file_is_looked_at_after_the_start_and_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_check, "CHECK_SECONDS", 0.0)
    opened = open_store(path, lambda _: None)
    assert opened._check is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.to_thread(opened._check._thread.join)
    await accept(opened, "late")
    assert not opened.died.done()
    await opened.close()
    assert not path.with_name("relay.db-wal").exists()


async def test_look_at_a_large_file_ends_with_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_check, "CHECK_SECONDS", 0.0)
    opened = open_store(path, lambda _: None)
    await opened.close()
    assert opened._check is not None
    assert not opened._check._thread.is_alive()
    assert not path.with_name("relay.db-wal").exists()


async def claims(store: SqliteStore) -> None:
    await claim_all(store)


async def accepts(store: SqliteStore) -> None:
    await offer(store, event("late"), {"erp": True})


async def finds(store: SqliteStore) -> None:
    await store.find_events(Filter(), Page(100))


@pytest.mark.parametrize("use", [claims, accepts, finds])
async def test_damage_that_whoever_uses_the_file_comes_upon_is_the_end(
    store: SqliteStore, path: Path, use: Callable[[SqliteStore], Awaitable[None]]
) -> None:
    assert store._check is None  # it was whole
    zero_all_rows(path)
    with pytest.raises(StoreUnavailableError):
        await use(store)
    assert re.match(sentence(path), await died(store))
    with pytest.raises(StoreUnavailableError, match="is damaged"):
        await accepts(store)


async def test_nothing_that_waits_when_damage_is_found_is_acknowledged(
    store: SqliteStore, path: Path
) -> None:
    zero_all_rows(path)
    waiting = [offer(store, event(f"late{number}"), {"erp": False}) for number in range(50)]
    answers = await asyncio.gather(claims(store), *waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailableError}


async def test_batch_that_is_committed_after_damage_was_found_is_not_acknowledged(store: SqliteStore) -> None:
    waiting = asyncio.ensure_future(accepts(store))
    await asyncio.sleep(0)  # it is on its way to the other thread
    store._commits.fail(StoreError("found"))
    with pytest.raises(StoreUnavailableError, match="found"):
        await waiting


async def test_webhook_that_came_in_the_same_turn_as_the_damage_is_told(store: SqliteStore) -> None:
    waiting = asyncio.ensure_future(accepts(store))
    asyncio.get_running_loop().call_soon(store._commits._die, StoreError("found"), [])
    with pytest.raises(StoreUnavailableError, match="found"):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await waiting


async def test_text_that_nobody_has_written_is_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_check, "CHECK_SECONDS", 0.0)
    content = path.read_bytes()
    assert content.count(b"erp") >= EVENTS
    path.write_bytes(content.replace(b"erp", b"\xff\xfe\xfd"))
    opened = open_store(path, lambda _: None)
    assert re.match(sentence(path), await died(opened))
    await opened.close()


async def test_what_was_stored_before_is_counted_with_what_has_changed_since(path: Path) -> None:
    opened = open_store(path, lambda _: None)
    await accept(opened, "since", to=["erp", "mes"])  # before it is counted, or after: the same
    pending = {name: one.counts[DeliveryState.PENDING] for name, one in (await opened.backlog()).items()}
    assert (pending["erp"], pending["mes"]) == (EVENTS + 1, 1)
    await opened.close()


async def test_disk_that_fails_while_it_is_counted_ends_the_store_and_says_so(path: Path) -> None:
    opened = open_store(path, lambda _: None)
    unreadable = os.open(os.devnull, os.O_WRONLY)
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if descriptor.readlink() == path:
                os.dup2(unreadable, int(descriptor.name))
    os.close(unreadable)
    assert re.match(r"can't count what is owed: .*disk I/O error", await died(opened))
    with pytest.raises(StoreUnavailableError, match="can't count"):
        await opened.backlog()
    await opened.close()


async def test_count_ends_with_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "id IN (WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n)"
    monkeypatch.setattr(sqlite_backlog, "_COUNTED", [(DeliveryState.PENDING, endless)])
    opened = open_store(path, lambda _: None)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await opened.close()
    assert not opened.died.done()


async def test_whole_file_has_all_it_had(store: SqliteStore) -> None:
    assert len(ids(await claim_all(store))) == EVENTS
