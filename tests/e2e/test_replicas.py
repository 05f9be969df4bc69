"""Several relays on one PostgreSQL, as a sender, the destinations and an operator see them."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.receiver import Receive
from tests.e2e.relay_process import RelayProcess, Start, event, run, until, write_config
from tests.postgres import PostgresServer

AT_ONCE = 16


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        server.start()
        yield server


@pytest.fixture
def database(server: PostgresServer) -> str:
    server.start()
    return server.create_database()


async def test_webhook_sent_to_both_at_once_is_accepted_and_delivered_once(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path, database: str
) -> None:
    erp, crm = await receive(), await receive()
    config = write_config(tmp_path, {"erp": erp.url, "crm": crm.url}, store={"url": database})
    replicas = [await start(config), await start(config)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def post(event_id: str) -> list[str]:
        async with gate:
            body = event(event_id)
            answers = await asyncio.gather(*(replica.post(client, body) for replica in replicas))
        assert {status for status, _ in answers} == {200}
        return sorted(answer["status"] for _, answer in answers)

    ids = [f"e{number}" for number in range(2_000)]
    statuses = await asyncio.gather(*map(post, ids))
    assert statuses == [["accepted", "duplicate"]] * len(ids)
    await until(lambda: erp.taken.total() == crm.taken.total() == len(ids))
    await until(lambda: replicas[0].owes_nothing(client))
    assert erp.taken == crm.taken == dict.fromkeys(ids, 1)


async def test_pause_at_one_replica_holds_for_the_other(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path, database: str
) -> None:
    erp = await receive()
    config = write_config(tmp_path, {"erp": erp.url}, store={"url": database})
    first, second = await start(config), await start(config)
    assert run("pause", "erp", "--url", first.admin).returncode == 0
    await until(lambda: second.metric(client, "itscope_relay_destination_resting", 'reason="paused"'))
    assert (await second.post(client, event("held")))[0] == 200
    assert run("resume", "erp", "--url", first.admin).returncode == 0
    await until(lambda: erp.taken == {"held": 1})
    assert erp.requests[0].attempt == 1


async def test_rolling_upgrade_costs_the_sender_nothing_that_a_proxy_cannot_retry(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path, database: str
) -> None:
    erp, crm = await receive(), await receive()
    config = write_config(tmp_path, {"erp": erp.url}, store={"url": database})
    replicas = [await start(config), await start(config)]
    numbers = itertools.count()
    accepted: list[str] = []
    stop = asyncio.Event()

    async def post_through_a_proxy() -> None:
        while not stop.is_set():
            event_id = f"e{next(numbers)}"
            for tried in itertools.count():
                assert tried < 200, f"{event_id} was refused for too long"
                try:
                    status, _ = await replicas[tried % 2].post(client, event(event_id))
                except aiohttp.ClientConnectionError:
                    status = 0  # it was just stopping, or has just stopped
                assert status in {0, 200, 503}
                if status == 200:
                    break
                await asyncio.sleep(0.01)
            accepted.append(event_id)

    posting = asyncio.gather(*(post_through_a_proxy() for _ in range(6)))
    await until(lambda: len(accepted) > 100)
    write_config(tmp_path, {"erp": erp.url, "crm": crm.url}, store={"url": database})
    for place in range(2):
        old = replicas[place]
        old.signal(signal.SIGTERM)
        assert await old.ended() == 0
        replicas[place] = await start(config)
        reached = len(accepted) + 100
        await until(lambda reached=reached: len(accepted) > reached)  # type: ignore[misc]
    stop.set()
    await posting
    await until(lambda: erp.taken.total() >= len(accepted))
    await until(lambda: replicas[0].owes_nothing(client))
    assert erp.taken == dict.fromkeys(accepted, 1)
    assert crm.taken.keys() < erp.taken.keys()


async def test_without_its_database_a_replica_refuses_and_says_why_until_it_is_back(  # noqa: PLR0917 (fixtures)
    start: Start,
    receive: Receive,
    client: aiohttp.ClientSession,
    tmp_path: Path,
    database: str,
    server: PostgresServer,
) -> None:
    erp = await receive()
    relay = await start(write_config(tmp_path, {"erp": erp.url}, store={"url": database}))
    assert (await relay.post(client, event("before")))[0] == 200
    await until(lambda: erp.taken == {"before": 1})
    server.stop(signal.SIGQUIT)
    for number in range(5):
        status, answer = await relay.post(client, event(f"refused{number}"))
        assert (status, list(answer)) == (503, ["error"])
    status, reason = await ready(relay, client)
    assert status == 503
    assert "database" in reason
    server.start()

    async def accepts() -> bool:
        return (await relay.post(client, event("after")))[0] == 200

    await until(accepts)
    await until(lambda: erp.taken.keys() == {"before", "after"})
    assert (await ready(relay, client))[0] == 200
    relay.signal(signal.SIGTERM)
    assert await relay.ended() == 0


def test_backup_says_what_it_can_not_do(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, {"erp": "http://127.0.0.1:9/"}, store={"url": "postgresql://relay@127.0.0.1:9/relay"}
    )
    done = run("backup", "-c", config, tmp_path / "backup")
    assert done.returncode == 1
    assert "pg_dump" in done.stderr


async def ready(relay: RelayProcess, client: aiohttp.ClientSession) -> tuple[int, str]:
    async with client.get(f"{relay.admin}/-/ready") as response:
        return response.status, await response.text()
