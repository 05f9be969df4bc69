"""The real relay on port 0, between scripted destinations and clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.http.world import PASSWORD, USER, Clock, Receiver, Running, merged

StartRelay = Callable[..., Awaitable[Running]]
StartReceiver = Callable[..., Awaitable[Receiver]]

FAST_RETRY = {"initial": "1ms", "max": "5ms"}


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def receiver_factory() -> AsyncIterator[StartReceiver]:
    """Starts destinations."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Receiver:
            receiver = Receiver(**options)
            await receiver.start()
            stack.push_async_callback(receiver.stop)
            return receiver

        yield start


@pytest.fixture
async def erp(receiver_factory: StartReceiver) -> Receiver:
    """The destination that everything goes to, unless a test says otherwise."""
    return await receiver_factory()


@pytest.fixture
async def crm(receiver_factory: StartReceiver) -> Receiver:
    """A second destination, for tests that configure it."""
    return await receiver_factory()


@pytest.fixture
async def relay(tmp_path: Path, erp: Receiver, clock: Clock) -> AsyncIterator[StartRelay]:
    """Starts the relay: one source, one destination, and what a test lays over that."""
    running = Running(tmp_path, clock)

    async def start(**overrides: Any) -> Running:
        base = {
            "server": {"listen": "127.0.0.1:0", "drain_timeout": "100ms"},
            "admin": {"listen": "127.0.0.1:0"},
            "sources": {"itscope": {"auth": [{"username": USER, "password": PASSWORD}]}},
            "destinations": {"erp": {"url": erp.url, "retry": FAST_RETRY}},
            "routes": [{"name": "everything", "to": ["erp"]}],
        }
        running.config = merged(base, overrides)
        return await running.start()

    yield start
    erp.release.set()
    await running.stop()
    await asyncio.sleep(0)


@pytest.fixture
async def running(relay: StartRelay) -> Running:
    """The relay as it is without further ado."""
    return await relay()
