"""`backup` copies the store of a relay that is at work."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import apsw
import pytest

from relay.errors import StoreError
from relay.store.sqlite_backup import Made
from relay.store.sqlite_backup import back_up as copy_store
from tests.e2e.receiver import Receive
from tests.e2e.relay_process import (
    DEADLINE_SECONDS,
    RelayProcess,
    Start,
    environment,
    event,
    run,
    write_config,
)

NOWHERE = {"erp": "http://127.0.0.1:9/"}
SENDERS = 4
SLOW_DISK = """
import os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have it ignored
def fsync(descriptor):
    print("slow", flush=True)
    time.sleep(60)
os.fsync = fsync
from relay.cli import main
main()
"""
PADDING = "x" * 400_000  # makes the copy take long enough to be written to meanwhile


class Load:
    """Posts events until it is told to stop.

    Attributes:
        acknowledged: the ids that were answered 200, in order.
    """

    def __init__(self, relay: RelayProcess, client: aiohttp.ClientSession) -> None:
        self.acknowledged: list[str] = []
        self.enough = False
        self._relay, self._client = relay, client

    async def post(self, event_id: str, **fields: str) -> None:
        status, answer = await self._relay.post(self._client, event(event_id, **fields))
        assert (status, answer["status"]) == (200, "accepted")
        self.acknowledged.append(event_id)

    async def go_on(self, sender: int) -> None:
        number = 0
        while not self.enough:
            await self.post(f"load-{sender}-{number}")
            number += 1


async def back_up(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, "backup", *arguments)


def ids_in(database: Path) -> set[str]:
    with contextlib.closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        return {event_id for (event_id,) in connection.execute("SELECT event_id FROM events")}


def damage(database: Path, copy: Path) -> None:
    """Copy a database without the first page of its events."""
    with contextlib.closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").get
        size = connection.pragma("page_size")
    content = bytearray(database.read_bytes())
    content[(page - 1) * size : page * size] = bytes(size)
    copy.write_bytes(content)


async def test_a_backup_under_load_has_every_event_that_was_acknowledged_before_it_and_serves(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    erp = await receive()
    config = write_config(tmp_path, {"erp": erp.url})
    relay = await start(config)
    load = Load(relay, client)
    for number in range(40):
        await load.post(f"large-{number}", padding=PADDING)
    senders = asyncio.gather(*(load.go_on(sender) for sender in range(SENDERS)))
    before = list(load.acknowledged)
    made = await back_up("-c", config, tmp_path / "copy.db")
    during = len(load.acknowledged) - len(before)
    load.enough = True
    await senders

    assert (made.returncode, made.stderr) == (0, "")
    copied = ids_in(tmp_path / "copy.db")
    assert set(before) <= copied <= set(load.acknowledged)
    assert made.stdout.startswith(f"{tmp_path}/copy.db: {len(copied)} events, ")
    assert during > SENDERS
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.glob("*copy.db*")) == ["copy.db"]

    relay.signal(signal.SIGTERM)
    assert await relay.ended() == 0
    assert ids_in(tmp_path / "relay.db") == set(load.acknowledged)

    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.move(tmp_path / "copy.db", restored / "relay.db")
    again = await start(write_config(restored, {"erp": erp.url}))
    assert (await again.post(client, event("new")))[1]["status"] == "accepted"
    assert (await again.post(client, event(before[0], padding=PADDING)))[1]["status"] == "duplicate"


async def test_a_backup_replaces_no_file_unless_it_is_forced_to(start: Start, tmp_path: Path) -> None:
    config = write_config(tmp_path, NOWHERE)
    await start(config)
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"the only backup there is")
    refused = run("backup", "-c", config, copy)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"{copy} is there already; choose another name, or --force to replace it\n"
    assert copy.read_bytes() == b"the only backup there is"

    forced = run("backup", "-c", config, copy, "--force", "--json")
    assert forced.returncode == 0
    assert json.loads(forced.stdout) == {"file": str(copy), "bytes": copy.stat().st_size, "events": 0}
    assert ids_in(copy) == set()

    itself = run("backup", "-c", config, tmp_path / "relay.db", "--force")
    assert (itself.returncode, itself.stderr) == (1, f"{tmp_path}/relay.db is the store itself\n")


async def test_a_backup_that_can_not_be_made_is_explained_and_leaves_nothing_behind(
    start: Start, tmp_path: Path
) -> None:
    relay = await start(write_config(tmp_path, NOWHERE))
    relay.signal(signal.SIGTERM)
    await relay.ended()
    (tmp_path / "minutes.db").write_bytes(b"minutes of the last meeting, in no way a database\n" * 100)
    damage(tmp_path / "relay.db", tmp_path / "damaged.db")
    (tmp_path / "folder").mkdir()
    for store, copy, why in (
        ("missing.db", "copy.db", "can't read the store {}/missing.db: unable to open database file"),
        ("minutes.db", "copy.db", "can't read the store {}/minutes.db: file is not a database"),
        ("damaged.db", "copy.db", "can't read the store {}/damaged.db: database disk image is malformed"),
        ("relay.db", "no/copy.db", "can't write the backup {}/no/copy.db: no such file or directory"),
        ("relay.db", "copy.db" * 40, f"can't write the backup {{}}/{'copy.db' * 40}: file name too long"),
        ("relay.db", "folder", "{}/folder is a folder; name a file in it"),
        ("relay.db", "\udcff.copy.db", "{}/\\udcff.copy.db: SQLite takes only names that are UTF-8 text"),
    ):
        config = write_config(tmp_path, NOWHERE, store={"url": f"sqlite:///{store}"})
        failed = run("backup", "-c", config, tmp_path / copy)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr == f"{why.format(tmp_path)}\n"
        assert list(tmp_path.rglob("*copy.db*")) == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a small database that nobody has open."""
    path = tmp_path / "relay.db"
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE events (event_id TEXT)")
    return path


@contextlib.contextmanager
def slow_copy(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a backup into copy.db that comes as far as the disk, and no further."""
    config = write_config(folder, NOWHERE)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_DISK, "backup", "-c", config, folder / "copy.db"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "slow\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def copies(folder: Path) -> list[Path]:
    return list(folder.glob("*copy.db*"))


@pytest.mark.parametrize("force", [False, True])
async def test_a_backup_never_takes_the_place_of_a_part_of_the_store(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path, *, force: bool
) -> None:
    config = write_config(tmp_path, NOWHERE)
    relay = await start(config)
    await relay.post(client, event("one"))
    (tmp_path / "link").symlink_to("relay.db-wal")
    (tmp_path / "hard").hardlink_to(tmp_path / "relay.db-wal")
    (tmp_path / "here").symlink_to(tmp_path)
    told = run("backup", "-c", config, tmp_path / "relay.db-wal", *(("--force",) if force else ()))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"{tmp_path}/relay.db-wal is the store's write-ahead log\n"
    for name in ("", "-wal", "-shm", "-journal", ".lock"):
        for file in (tmp_path / f"relay.db{name}", tmp_path / "here" / f"relay.db{name}"):
            with pytest.raises(StoreError, match=" is the "):
                copy_store(tmp_path / "relay.db", file, replace=force)
    for name in ("link", "hard"):
        with pytest.raises(StoreError, match="is the store's write-ahead log"):
            copy_store(tmp_path / "relay.db", tmp_path / name, replace=force)
    assert not (tmp_path / "relay.db-journal").exists()
    assert (await relay.post(client, event("one")))[1]["status"] == "duplicate"
    relay.kill()
    assert ids_in(tmp_path / "relay.db") == {"one"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_backup_that_is_ended_leaves_nothing_behind(
    store: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with slow_copy(tmp_path) as process:
        assert len(copies(store.parent)) == 1
        process.send_signal(number)
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, said) == (1, f"ended by {number.name}\n")
    assert copies(tmp_path) == []


def test_what_a_killed_backup_left_behind_is_removed_by_the_next_one(store: Path, tmp_path: Path) -> None:
    with slow_copy(tmp_path) as killed:
        killed.kill()
        killed.wait()
    (left,) = copies(tmp_path)
    similar = tmp_path / f"{left.name}s"
    similar.write_bytes(b"of somebody else")
    with slow_copy(tmp_path):  # is at work on its own
        assert not left.exists()
        own = {*copies(tmp_path)} - {similar}
        copy_store(store, tmp_path / "copy.db")
        assert {*copies(tmp_path)} == {tmp_path / "copy.db", similar, *own}
        assert len(own) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_while_a_backup_is_made_stays(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    def link(*_names: object) -> None:
        raise OSError(errno.EPERM, "there are no links here")

    def appear(_descriptor: int) -> None:
        (tmp_path / "copy.db").write_bytes(b"from elsewhere")

    if not links:
        monkeypatch.setattr(os, "link", link)
    assert copy_store(store, tmp_path / "first.db") == Made((tmp_path / "first.db").stat().st_size, 0)
    assert ids_in(tmp_path / "first.db") == set()
    monkeypatch.setattr(os, "fsync", appear)
    with pytest.raises(StoreError, match="is there already"):
        copy_store(store, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_bytes() == b"from elsewhere"
    assert copies(tmp_path) == [tmp_path / "copy.db"]
    monkeypatch.undo()
    copy_store(store, tmp_path / "copy.db", replace=True)
    assert ids_in(tmp_path / "copy.db") == set()
    assert (tmp_path / "first.db").stat().st_nlink == 1
