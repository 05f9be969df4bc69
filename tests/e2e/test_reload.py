"""SIGHUP: the configuration is taken anew, whole or not at all, and no webhook notices."""

from __future__ import annotations

import asyncio
import collections
import re
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.receiver import Receive, Receiver
from tests.e2e.relay_process import AUTHORIZATION, Start, connect, event, until, write_config

SUCCESSFUL = "itscope_relay_config_last_reload_successful"


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bytes:
    """Post a webhook on this very connection and return the answer; fail if it was closed."""
    head = (
        f"POST /webhooks/itscope HTTP/1.1\r\nHost: relay\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: {AUTHORIZATION['Authorization']}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", answer)
    assert length is not None
    return answer + await reader.readexactly(int(length[1]))


async def test_a_new_destination_takes_effect_and_a_kept_connection_survives(
    start: Start, receive: Receive, tmp_path: Path
) -> None:
    erp, crm = await receive(), await receive()
    relay = await start(write_config(tmp_path, {"erp": erp.url}))
    async with connect(relay.ingress) as connection:
        assert b'"deliveries": 1' in await post(*connection, event("before"))
        write_config(tmp_path, {"erp": erp.url, "crm": crm.url})
        await relay.reload()
        assert b'"deliveries": 2' in await post(*connection, event("after"))
    await until(lambda: crm.taken and erp.taken.total() == 2)
    assert erp.taken == {"before": 1, "after": 1}
    assert crm.taken == {"after": 1}


async def test_reloads_under_load_lose_and_double_nothing(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    receivers = {"erp": await receive(), "crm": await receive()}
    relay = await start(_with_concurrency(tmp_path, receivers, 8))

    async def post_some(sender: int) -> list[str]:
        ids = [f"{sender}-{number}" for number in range(80)]
        for event_id in ids:
            status, answer = await relay.post(client, event(event_id))
            assert (status, answer["status"]) == (200, "accepted")
        return ids

    posting = asyncio.gather(*(post_some(sender) for sender in range(6)))
    reloads = 0
    while not posting.done() or reloads < 4:
        _with_concurrency(tmp_path, receivers, 1 + reloads % 4)  # each time every lane is replaced
        await relay.reload()
        reloads += 1
    posted = collections.Counter(event_id for ids in await posting for event_id in ids)
    await until(lambda: relay.owes_nothing(client))
    assert len(relay.facts("config.reloaded")) == reloads
    assert receivers["erp"].taken == posted
    assert receivers["crm"].taken == posted


def _with_concurrency(folder: Path, receivers: dict[str, Receiver], concurrency: int) -> Path:
    return write_config(
        folder,
        {name: {"url": receiver.url, "concurrency": concurrency} for name, receiver in receivers.items()},
    )


async def test_an_invalid_file_changes_nothing_and_is_reported_until_it_is_repaired(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    erp = await receive()
    config = write_config(tmp_path, {"erp": erp.url})
    relay = await start(config)
    good = config.read_text(encoding="utf-8")
    assert await relay.metric(client, SUCCESSFUL) == 1

    config.write_text(good.replace('"everything"', '"everything", "too": 1'), encoding="utf-8")
    await relay.reload()
    (rejected,) = relay.facts("config.rejected")
    assert rejected["level"] == "error"
    (problem,) = rejected["problems"]
    assert problem.startswith(f"{config}:")
    assert "routes[0].too" in problem
    assert await relay.metric(client, SUCCESSFUL) == 0
    assert (await relay.post(client, event("meanwhile")))[1]["deliveries"] == 1
    await until(lambda: erp.taken["meanwhile"])

    config.write_text(good, encoding="utf-8")
    await relay.reload()
    assert await relay.metric(client, SUCCESSFUL) == 1


async def test_the_admin_listener_reloads_too_and_tells_what_is_wrong(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    erp, crm = await receive(), await receive()
    config = write_config(tmp_path, {"erp": erp.url})
    relay = await start(config)
    config.write_text("sources: {}", encoding="utf-8")
    async with client.post(f"{relay.admin}/-/reload") as response:
        assert response.status == 422
        problems = (await response.json())["problems"]
    assert len(problems) == 3
    write_config(tmp_path, {"erp": erp.url, "crm": crm.url})
    async with client.post(f"{relay.admin}/-/reload") as response:
        assert response.status == 200
    assert (await relay.post(client, event()))[1]["deliveries"] == 2


async def test_the_store_can_not_be_moved_by_a_reload(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    destinations = {"erp": "http://127.0.0.1:9/"}
    relay = await start(write_config(tmp_path, destinations))
    write_config(tmp_path, destinations, store={"url": "sqlite:///other.db"})
    await relay.reload()
    assert "store.url" in relay.facts("config.rejected")[0]["problems"][0]
    assert not (tmp_path / "other.db").exists()
    assert (await relay.post(client, event()))[0] == 200


async def test_a_reload_moves_the_listener_and_what_was_connected_stays(
    start: Start, receive: Receive, tmp_path: Path, unused_tcp_port: int
) -> None:
    erp = await receive()
    relay = await start(write_config(tmp_path, {"erp": erp.url}))
    async with connect(relay.ingress) as connection:
        assert b"accepted" in await post(*connection, event("before"))
        write_config(tmp_path, {"erp": erp.url}, server={"listen": f"127.0.0.1:{unused_tcp_port}"})
        await relay.reload()
        assert b"accepted" in await post(*connection, event("on the old connection"))
    async with connect(f"http://127.0.0.1:{unused_tcp_port}") as connection:
        assert b"accepted" in await post(*connection, event("on the new address"))
    with pytest.raises(ConnectionRefusedError):
        async with connect(relay.ingress):
            pass
    await until(lambda: erp.taken.total() == 3)
