"""A stop loses nothing: what was taken is finished or put back, and what comes is told to come again."""

from __future__ import annotations

import asyncio

import pytest

from tests.http.conftest import StartRelay
from tests.http.world import DEADLINE_SECONDS, Receiver, Running, head, refused, until

BODY = b'{"eventId": "e-1"}'
POST = head(f"Content-Length: {len(BODY)}") + BODY


async def test_webhook_that_comes_while_draining_is_answered_503(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 2") + b"{}")
    assert (await wire.answer()).status == 200
    await wire.send(POST)
    await running.drain()
    answer = await wire.answer()
    refused(answer, 503, folder=running.folder)
    assert int(answer.headers["Retry-After"]) > 0
    assert await wire.rest() == b""
    assert len(running.events()) == 1


async def test_webhook_whose_body_is_under_way_is_still_accepted(relay: StartRelay) -> None:
    running = await relay(server={"drain_timeout": "10s"})
    wire = await running.wire()
    await wire.send(head(f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
    assert (await wire.answer()).status == 100
    draining = asyncio.ensure_future(running.drain())
    await until(lambda: running.relay._ingress.draining)
    await wire.send(BODY)
    answer = await wire.answer()
    assert answer.json["status"] == "accepted"
    assert answer.headers["Connection"] == "close"
    await draining
    assert running.events() == [("e-1", BODY)]


async def test_webhook_on_a_kept_connection_is_answered_503_while_another_arrives(
    relay: StartRelay,
) -> None:
    running = await relay(server={"drain_timeout": "10s"})
    slow, kept = await running.wire(), await running.wire()
    await slow.send(head(f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
    assert (await slow.answer()).status == 100
    draining = asyncio.ensure_future(running.drain())
    await until(lambda: running.relay._ingress.draining)
    await kept.send(POST)
    answer = await kept.answer()
    refused(answer, 503, folder=running.folder)
    assert (int(answer.headers["Retry-After"]) > 0, answer.headers["Connection"]) == (True, "close")
    await slow.send(BODY)
    assert (await slow.answer()).json["status"] == "accepted"
    await draining


async def test_body_that_never_comes_does_not_keep_the_relay_from_stopping(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 100", "Expect: 100-continue"))
    assert (await wire.answer()).status == 100
    async with asyncio.timeout(DEADLINE_SECONDS):
        await running.drain()
    assert await wire.rest() == b""
    assert running.events() == running.quarantine() == []


async def test_relay_is_not_ready_and_takes_no_connections_while_draining(
    relay: StartRelay, erp: Receiver
) -> None:
    running = await relay(server={"drain_timeout": "10s"})
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    public = running.public
    draining = asyncio.ensure_future(running.drain())
    await until(lambda: running.relay._ingress.draining)
    ready = await running.ask("/-/ready")
    assert (ready.status, ready.json) == (503, {"error": "the relay is stopping", "code": "unavailable"})
    assert (await running.ask("/-/healthy")).status == 200
    assert (await running.metrics())["itscope_relay_ready", frozenset()] == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*public)
    erp.release.set()
    await draining


async def test_attempt_under_way_is_finished(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(server={"drain_timeout": "10s"})
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    draining = asyncio.ensure_future(running.drain())
    await until(lambda: running.relay._ingress.draining)
    erp.release.set()
    await draining
    assert running.deliveries() == [("delivered", 1)]


async def test_attempt_that_does_not_finish_is_put_back_and_not_counted(
    running: Running, erp: Receiver
) -> None:
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    await running.drain()
    assert running.deliveries() == [("pending", 0)]
    assert running.attempts() == []
    erp.otherwise = 200
    await running.restart()
    await running.settled("delivered")
    assert [request.headers["X-Relay-Attempt"] for request in erp.requests] == ["1", "1"]
    assert len({request.headers["Idempotency-Key"] for request in erp.requests}) == 1


async def test_what_waits_behind_is_put_back_untried(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"concurrency": 1}})
    erp.otherwise = erp.hang
    for number in range(300):
        await running.post({"eventId": str(number)})
    await erp.arrived(1)
    await running.drain()
    assert running.deliveries() == [("pending", 0)] * 300
    erp.otherwise = 200
    await running.restart()
    await running.settled("delivered", number=300)
    assert len(erp.requests) == 301


async def test_accepted_webhooks_survive_a_stop_right_after_the_answer(
    relay: StartRelay, erp: Receiver
) -> None:
    running = await relay()
    for number in range(20):
        erp.script.append(503)
        assert (await running.post({"eventId": str(number)})).status == 200
    await running.restart()
    await running.settled("delivered", number=20)
    assert (await running.post({"eventId": "7"})).json["status"] == "duplicate"


async def test_stop_without_anything_to_do_ends(running: Running) -> None:
    await running.drain()
