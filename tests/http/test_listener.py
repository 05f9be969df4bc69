"""Bodies larger than a connection takes in before they are read, and what comes behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from relay.answer import Answer
from relay.listener import Server
from tests.http.world import Wire, head

TAKEN_IN = 1 << 17  # bytes before aiohttp lets the client wait, give or take a read of its own
BEGUN_SECONDS = 0.05  # for a body to come in as far as it may


class Slow:
    """A server that reads no body before it is told to."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        await self.may_read.wait()
        return Answer(200, f'{{"bytes": {len(await request.content.read())}}}')


@pytest.fixture
async def slow() -> Slow:
    return Slow()


@pytest.fixture
async def wire(slow: Slow) -> AsyncIterator[Wire]:
    loop = asyncio.get_running_loop()
    server = Server(slow.handle, lambda status, message: Answer(status, f'"{message}"'))
    listening = await loop.create_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    connected = Wire(*await asyncio.open_connection("127.0.0.1", port))
    yield connected
    await connected.close()
    listening.close()
    await server.shutdown(1)


@pytest.mark.parametrize("size", [TAKEN_IN + step * 10_000 for step in range(-7, 20, 2)] + [1 << 22])
async def test_request_behind_a_large_body_is_answered_too(slow: Slow, wire: Wire, size: int) -> None:
    requests = [head(f"Content-Length: {length}") + b"x" * length for length in (size, 5)]
    sending = asyncio.ensure_future(wire.send(b"".join(requests)))
    await asyncio.sleep(BEGUN_SECONDS)
    slow.may_read.set()
    assert [(await wire.answer()).json["bytes"] for _ in requests] == [size, 5]
    await sending


async def test_body_that_nobody_reads_is_not_taken_in(slow: Slow, wire: Wire) -> None:
    size = 32 << 20  # more than the system takes in by itself
    sending = asyncio.ensure_future(wire.send(head(f"Content-Length: {size}") + b"x" * size))
    left, before = size, -1
    while left != before:
        await asyncio.sleep(BEGUN_SECONDS)
        left, before = wire.unsent, left
    assert left > 0
    slow.may_read.set()
    assert (await wire.answer()).json["bytes"] == size
    await sending
