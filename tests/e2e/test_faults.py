"""What can befall a relay: a full disk, no descriptor left, a damaged file, a bug in the store."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.damage import DAMAGES, Damage, make_store, move_a_row
from tests.e2e.receiver import Receive, Received
from tests.e2e.relay_process import (
    AUTHORIZATION,
    COMMAND,
    RelayProcess,
    Start,
    connect,
    event,
    run,
    until,
    write_config,
)

NOWHERE = {"erp": "http://127.0.0.1:9/"}
ONE_LINE = "stop here, keep the file and see 'When the database is damaged' in docs/operations.md"


class Gate:
    """A destination's answer, given when `open` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, _received: Received) -> int:
        await self.open.wait()
        return 200


async def post(client: aiohttp.ClientSession, relay: RelayProcess, body: bytes) -> tuple[int, str | None]:
    """Post a webhook and return the answer's status and Retry-After."""
    async with client.post(relay.ingress, data=body, headers=AUTHORIZATION) as response:
        await response.json()
        return response.status, response.headers.get("Retry-After")


async def get(client: aiohttp.ClientSession, relay: RelayProcess, path: str) -> tuple[int, str]:
    async with client.get(relay.admin + path) as response:
        return response.status, await response.text()


def prelude(code: str) -> tuple[str, ...]:
    """Return a command that runs some code and then is the relay's."""
    return sys.executable, "-c", f"{code}\nfrom relay.cli import main; main()"


# ---- a full disk

DISK_BYTES = 6 << 20
BALLAST_BYTES = 3 << 20
BODY_CHARACTERS = 50_000

# A file system of its own, which goes with the process; with the rights of whoever makes it, or of a user
# namespace. Where there is neither, no file may grow beyond a bound: SQLite fails in the same way.
MOUNT = (
    f'mount -t tmpfs -o size={DISK_BYTES} none "$0" && head -c {BALLAST_BYTES} /dev/zero >"$0/ballast"'
    ' && exec "$@"'
)
NAMESPACES = (("unshare", "-m"), ("unshare", "-Urm"))


class Disk:
    """A small disk at a folder, as only the relay sees it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._namespace = next((way for way in NAMESPACES if self._works(way)), None)

    def _works(self, way: Sequence[str]) -> bool:
        try:
            return (
                subprocess.run(self._mounted(way, "true"), capture_output=True, check=False).returncode == 0
            )
        except FileNotFoundError:
            return False

    def _mounted(self, way: Sequence[str], *command: str | Path) -> list[str | Path]:
        return [*way, "sh", "-c", MOUNT, str(self._folder), *command]

    @property
    def command(self) -> Sequence[str | Path]:
        """What starts a relay there."""
        if self._namespace is not None:
            return self._mounted(self._namespace, COMMAND)
        bound = DISK_BYTES - BALLAST_BYTES
        return prelude(
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE,"
            f" ({bound}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))"
        )

    def make_room(self, relay: RelayProcess) -> None:
        if self._namespace is not None:
            Path(f"/proc/{relay.process.pid}/root{self._folder}/ballast").unlink()
        else:
            _, most = resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, (most, most))


@pytest.fixture(params=["mounted", "bounded"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    if request.param == "bounded":
        monkeypatch.setattr(sys.modules[__name__], "NAMESPACES", ())
    return Disk(tmp_path / "disk")


async def test_full_disk_refuses_webhooks_and_loses_none(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path, disk: Disk
) -> None:
    gate = Gate()
    erp = await receive(gate)
    config = write_config(tmp_path, {"erp": erp.url}, store={"url": "sqlite:///disk/relay.db"})
    relay = await start(config, command=disk.command)
    accepted = set[str]()
    refused = set[str]()

    async def offer(name: str) -> bool:
        status, retry_after = await post(client, relay, event(name, filler="x" * BODY_CHARACTERS))
        assert (status, retry_after) in {(200, None), (503, "5")}
        (accepted if status == 200 else refused).add(name)
        return status == 200

    number = 0
    while await offer(f"e{number}"):
        number += 1
        assert number < 200
    for more in range(1, 20):
        await offer(f"e{number + more}")
    assert len(accepted) > 10

    async def is_ready() -> bool:
        return (await get(client, relay, "/-/ready"))[0] == 200

    async def is_not_ready() -> bool:
        return not await is_ready()

    await until(is_not_ready)
    status, reason = await get(client, relay, "/-/ready")
    assert (status, "the store can't write: " in reason) == (503, True), reason
    assert (await get(client, relay, "/-/healthy"))[0] == 200
    assert await relay.metric(client, "itscope_relay_requests_total", 'code="503"') == len(refused)
    status, found = await get(client, relay, "/api/v1/events?limit=5")
    assert (status, '"e' in found) == (200, True)
    # What is under way ends, and what it came to isn't forgotten.
    under_way = {received.event_id for received in erp.requests}
    assert under_way
    gate.open.set()
    await until(lambda: under_way <= erp.taken.keys())
    assert relay.runs

    disk.make_room(relay)
    for name in sorted(refused):
        await until(lambda name=name: offer(name))  # type: ignore[misc]
    await until(lambda: relay.owes_nothing(client))
    assert relay.runs
    assert erp.taken == dict.fromkeys(accepted, 1)
    assert accepted >= refused
    await until(is_ready)
    assert await relay.metric(client, "itscope_relay_events_total", 'outcome="duplicate"') == 0


# ---- no descriptor left

DESCRIPTORS = 64


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_relay_without_descriptors_spends_no_attempt_and_recovers(
    start: Start,
    receive: Receive,
    client: aiohttp.ClientSession,
    tmp_path: Path,
    loop: str,
) -> None:
    gate = Gate()
    erp = await receive(gate)
    if loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError('not installed')\n", encoding="utf-8")
    relay = await start(
        write_config(tmp_path, {"erp": {"url": erp.url, "concurrency": 4}}),
        command=("sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh", COMMAND),
        variables={"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert (await relay.post(client, event("before")))[0] == 200  # over a connection that stays
    await until(lambda: erp.requests)
    descriptors = Path(f"/proc/{relay.process.pid}/fd")
    async with AsyncExitStack() as idle:
        for _ in range(2 * DESCRIPTORS):
            await idle.enter_async_context(connect(relay.ingress))
        await until(lambda: len(list(descriptors.iterdir())) == DESCRIPTORS)
        for number in range(3):
            assert (await relay.post(client, event(f"e{number}")))[0] == 200
        await until(lambda: relay.facts("delivery.not_tried"))
        before = len(relay.facts("delivery.not_tried"))
        await until(lambda: len(relay.facts("delivery.not_tried")) >= before + 8)  # some seconds of it
        assert relay.runs
        assert len(relay.facts()) < 200, "the log is flooded"
    gate.open.set()
    await until(lambda: erp.taken.total() == 4)
    await until(lambda: relay.owes_nothing(client))
    assert erp.taken == {"before": 1, "e0": 1, "e1": 1, "e2": 1}
    assert {received.attempt for received in erp.requests} == {1}
    async with aiohttp.ClientSession() as fresh:
        assert (await relay.post(fresh, event("after")))[0] == 200
    await until(lambda: erp.taken["after"])
    assert relay.runs


# ---- a damaged file


@pytest.mark.parametrize("damage", DAMAGES)
async def test_relay_does_not_start_on_a_damaged_file(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "relay.db"
    await make_store(path)
    damage(path, random.Random(42))
    content = path.read_bytes()
    refused = run("serve", "-c", write_config(tmp_path, NOWHERE))
    assert refused.returncode == 1
    assert f"the store {path} is damaged (" in refused.stderr
    assert ONE_LINE in refused.stderr
    assert refused.stdout == ""  # it never listened
    assert path.read_bytes() == content


async def test_relay_that_finds_damage_after_its_start_ends(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make_store(path)
    move_a_row(path, random.Random(42))
    no_time = prelude("import relay.store.sqlite_check as check; check.CHECK_SECONDS = 0.0")
    # Nothing is owed to this destination: so nobody but the check comes upon it.
    relay = RelayProcess(write_config(tmp_path, {"new": "http://127.0.0.1:9/"}), tmp_path, command=no_time)
    try:
        assert await relay.ended() == 1
        assert "listening on" in relay.output
        assert "Traceback" not in relay.errors
        assert f"the store {path} is damaged (" in relay.errors
        assert ONE_LINE in relay.errors.splitlines()[-1]
    finally:
        relay.kill()


# ---- a bug

DIES_WITH_THE_COMMIT_OF = """
import apsw
from relay.store.group_commit import GroupCommit
transact = GroupCommit._transact

def fail(self, batch):
    if any(b"poison" in getattr(operation.item[0], "body", b"")
           for operation in batch if isinstance(operation.item, tuple)):
        raise AssertionError("a bug")
    return transact(self, batch)

GroupCommit._transact = fail
"""


async def test_store_that_ends_by_a_bug_ends_the_relay_and_nothing_that_waits_is_acknowledged(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    erp = await receive()
    config = write_config(tmp_path, {"erp": erp.url})
    relay = await start(config, command=prelude(DIES_WITH_THE_COMMIT_OF))
    accepted = set[str]()
    statuses = set[int]()

    async def offer(name: str) -> None:
        try:
            status, _ = await post(client, relay, event(name))
        except aiohttp.ClientError:
            return  # it has ended already
        statuses.add(status)
        if status == 200:
            accepted.add(name)

    await offer("before")
    assert accepted == {"before"}
    await asyncio.gather(*(offer(f"poison{n}" if n == 20 else f"e{n}") for n in range(60)))
    assert 503 in statuses <= {200, 503}
    assert "poison20" not in accepted
    assert await relay.ended() == 1
    assert '"store.died"' in relay.errors
    assert "the store's thread ended by a bug" in relay.errors.splitlines()[-1]

    relay = await start(config)
    await until(lambda: accepted <= erp.taken.keys())
