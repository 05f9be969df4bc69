"""SIGTERM and SIGINT: what is under way finishes or is put back, and the exit code is 0."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.receiver import Receive, Received, accept
from tests.e2e.relay_process import Start, event, until, write_config

both_signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@both_signals
async def test_drain_finishes_a_delivery_in_flight_and_records_it(
    number: signal.Signals,
    start: Start,
    receive: Receive,
    client: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()

    async def hold(_received: Received) -> int:
        await gate.wait()
        return 200

    erp = await receive(hold)
    config = write_config(tmp_path, {"erp": erp.url})
    relay = await start(config)
    assert (await relay.post(client, event("slow")))[0] == 200
    await until(lambda: erp.requests)
    relay.signal(number)
    await until(lambda: relay.facts("relay.draining"))
    assert relay.runs
    gate.set()
    assert await relay.ended() == 0

    relay = await start(config)
    assert await relay.owes_nothing(client)
    assert await relay.post(client, event("next")) == (
        200,
        {"status": "accepted", "eventId": "next", "deliveries": 1},
    )
    await until(lambda: erp.taken["next"])
    assert erp.taken == {"slow": 1, "next": 1}


@both_signals
async def test_what_outlasts_the_drain_is_put_back_without_spending_an_attempt(
    number: signal.Signals,
    start: Start,
    receive: Receive,
    client: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    async def hang(_received: Received) -> int:
        await asyncio.Event().wait()
        return 200

    erp = await receive(hang)
    one_at_a_time = {"url": erp.url, "concurrency": 1}
    config = write_config(
        tmp_path, {"erp": one_at_a_time}, server={"listen": "127.0.0.1:0", "drain_timeout": "200ms"}
    )
    relay = await start(config)
    for name in ("in-flight", "waiting"):
        assert (await relay.post(client, event(name)))[0] == 200
    await until(lambda: erp.requests)
    relay.signal(number)
    assert await relay.ended() == 0

    erp.script = accept
    relay = await start(config)
    await until(lambda: erp.taken.total() == 2)
    assert [(received.event_id, received.attempt) for received in erp.requests] == [
        ("in-flight", 1),
        ("in-flight", 1),
        ("waiting", 1),
    ]
    assert len({received.headers["X-Relay-Delivery-Id"] for received in erp.requests}) == 2


async def test_a_draining_relay_accepts_nothing(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gate = asyncio.Event()

    async def hold(_received: Received) -> int:
        await gate.wait()
        return 200

    erp = await receive(hold)
    relay = await start(write_config(tmp_path, {"erp": erp.url}))
    assert (await relay.post(client, event()))[0] == 200
    await until(lambda: erp.requests)
    relay.signal(signal.SIGTERM)
    await until(lambda: relay.facts("relay.draining"))

    async def is_refused() -> bool:
        async with aiohttp.ClientSession() as fresh:
            try:
                status, _ = await relay.post(fresh, event())
            except aiohttp.ClientConnectionError:
                return True
            assert status == 503
            return False

    await until(is_refused)
    async with client.get(f"{relay.admin}/-/ready") as response:
        assert response.status == 503
        assert await response.json() == {"error": "the relay is stopping", "code": "unavailable"}
    gate.set()
    assert await relay.ended() == 0


async def test_a_reload_while_draining_changes_nothing(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gate = asyncio.Event()

    async def hold(_received: Received) -> int:
        await gate.wait()
        return 200

    erp = await receive(hold)
    one_at_a_time = {"url": erp.url, "concurrency": 1}
    relay = await start(write_config(tmp_path, {"erp": one_at_a_time}))
    for name in ("in-flight", "waiting"):
        assert (await relay.post(client, event(name)))[0] == 200
    await until(lambda: erp.requests)
    relay.signal(signal.SIGTERM)
    await until(lambda: relay.facts("relay.draining"))
    await relay.reload()
    gate.set()
    assert await relay.ended() == 0
    assert erp.taken == {"in-flight": 1}
    assert relay.facts("config.rejected")[0]["problems"] == ["the relay is stopping"]
