"""A destination on a port of its own that answers as its script says and remembers everything."""

from __future__ import annotations

import collections
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Received:
    """One request, as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers.get("Idempotency-Key", "")  # what isn't a delivery has none

    @property
    def attempt(self) -> int:
        return int(self.headers["X-Relay-Attempt"])


Script = Callable[[Received], Awaitable[int]]


async def accept(_received: Received) -> int:
    """Take everything at once."""
    return 200


class Receiver:
    """One scripted destination; `script` may be set at any time.

    Attributes:
        requests: everything that came, in order.
        taken: how often each event id was answered with a 2xx.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Received] = []
        self.taken: collections.Counter[str] = collections.Counter()
        self.port = 0
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        received = Received(request.method, request.path, request.headers, await request.read())
        self.requests.append(received)
        status = await self.script(received)
        if 200 <= status < 300:
            self.taken[received.event_id] += 1
        return web.Response(status=status)


class Receive(Protocol):
    """Starts a receiver, which is closed with the test."""

    def __call__(self, script: Script = accept) -> Awaitable[Receiver]: ...
