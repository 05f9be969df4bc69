"""`backup` copies the store of a relay that is at work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import aiohttp
import apsw

from tests.e2e.receiver import Receive
from tests.e2e.relay_process import RelayProcess, Start, event, run, write_config

NOWHERE = {"erp": "http://127.0.0.1:9/"}
SENDERS = 4
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
    for store, copy, why in (
        ("missing.db", "copy.db", "can't read the store {}/missing.db: unable to open database file"),
        ("minutes.db", "copy.db", "can't read the store {}/minutes.db: file is not a database"),
        ("damaged.db", "copy.db", "can't read the store {}/damaged.db: database disk image is malformed"),
        ("relay.db", "no/copy.db", "can't write the backup {}/no/copy.db: no such file or directory"),
    ):
        config = write_config(tmp_path, NOWHERE, store={"url": f"sqlite:///{store}"})
        failed = run("backup", "-c", config, tmp_path / copy)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr == f"{why.format(tmp_path)}\n"
        assert list(tmp_path.rglob("*copy.db*")) == []
