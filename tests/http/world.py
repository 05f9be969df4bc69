"""The world around a relay under test: destinations that answer from a script, and clients.

Everything runs over real sockets on 127.0.0.1. Nothing of the relay is replaced, save its clock, which
can be moved.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import apsw
import yaml
from aiohttp import encode_basic_auth, web
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from relay import __version__
from relay.app import Relay
from relay.config import load

DEADLINE_SECONDS = 15.0
POLL_SECONDS = 0.005

USER, PASSWORD = "itscope", "wonderful-secret-1"
RIGHT = encode_basic_auth(USER, PASSWORD)
PATH = "/webhooks/itscope"
ORDER = {"eventId": "e-1", "eventType": "ORDER", "transactionStatus": "OPEN", "orderId": "4711"}


async def until(check: Callable[[], object | Awaitable[object]], seconds: float = DEADLINE_SECONDS) -> Any:
    """Poll until a check returns something true, and return it."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = check()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError("this never became true") from None


class Clock:
    """The time of day, plus what a test moved it on."""

    def __init__(self) -> None:
        self.moved_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.moved_seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def refused(answer: Answer, status: int, *, folder: Path, code: str | None = None) -> str:
    """Check that an answer is an error as promised, and that it tells nothing; return its sentence.

    The admin listener gives a code as well.
    """
    assert answer.status == status, answer
    assert list(answer.json) == (["error"] if code is None else ["error", "code"]), answer
    assert answer.json.get("code") == code, answer
    everything = f"{dict(answer.headers)} {answer.body!r}"
    for told in (__version__, "aiohttp", "Python", "Traceback", str(folder), PASSWORD, RIGHT[6:], "sqlite"):
        assert told not in everything, answer
    sentence = answer.json["error"]
    assert isinstance(sentence, str)
    assert sentence
    return sentence


# ---- destinations

Step = int | tuple[int, Mapping[str, str]] | Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request that reached a destination."""

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


class Receiver:
    """A destination. It records requests, and answers with `script` step by step, then with `otherwise`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.script: deque[Step] = deque()
        self.otherwise: Step = 200
        self.url = ""
        self.release = asyncio.Event()
        self.connections = 0
        self._tls = tls
        self._port = 0

    async def start(self) -> None:
        """Listen; on the same port again after `stop`."""
        server = web.Server(self._handle)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}/api/itscope"

    async def stop(self) -> None:
        """Listen no more, and close all connections."""
        self.release.set()
        await self._runner.cleanup()

    async def hang(self, _request: web.BaseRequest) -> web.StreamResponse:
        """Answer when `release` is set."""
        await self.release.wait()
        return web.Response()

    async def arrived(self, number: int) -> list[Received]:
        """Wait until so many requests have come, and return them."""
        await until(lambda: len(self.requests) >= number)
        return self.requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()  # of any size
        self.requests.append(Received(request.method, request.raw_path, CIMultiDict(request.headers), body))
        match self.script.popleft() if self.script else self.otherwise:
            case int() as status:
                return web.Response(status=status)
            case (status, headers):
                return web.Response(status=status, headers=headers)
            case step:
                return await step(request)


async def drop(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(request: web.BaseRequest) -> web.StreamResponse:
    """Promise a body and close in the middle of it."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"half an answ")
    assert request.transport is not None
    request.transport.close()
    return response


async def never_end(request: web.BaseRequest) -> web.StreamResponse:
    """Answer 200 with a body that has no end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        await response.write(b"x" * 65536)
    return response


async def talk_nonsense(request: web.BaseRequest) -> web.StreamResponse:
    """Answer with something that isn't HTTP."""
    assert isinstance(request.transport, asyncio.Transport)
    request.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    request.transport.close()
    return web.Response()


# ---- the relay, and those who talk to it


class Wire:
    """A connection whose every byte a test chooses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; a peer that closed meanwhile is for `answer` to notice."""
        self._writer.write(data)
        with suppress(ConnectionError):
            await self._writer.drain()

    async def answer(self) -> Answer:
        """Read one answer."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            headers = CIMultiDict(
                (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
            )
            body = await self._reader.readexactly(int(headers.get("Content-Length", "0")))
        return Answer(int(status_line.split(" ", 2)[1]), headers, body)

    async def rest(self) -> bytes:
        """Read until the peer closes."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    @property
    def certificate(self) -> Any:
        """What the peer showed of itself."""
        return self._writer.get_extra_info("ssl_object").getpeercert()

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def head(
    *lines: str, method: str = "POST", target: str = PATH, auth: str | None = RIGHT, version: str = "HTTP/1.1"
) -> bytes:
    """Return a request's head with the right credentials, the lines given, and the empty line."""
    credentials = [f"Authorization: {auth}"] if auth else []
    return "\r\n".join([f"{method} {target} {version}", "Host: relay", *credentials, *lines, "", ""]).encode(
        "latin-1"
    )


class Running:
    """One relay that runs, with a client for each of its listeners and a look into its store."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.file = folder / "config.yaml"
        self.clock = clock
        self.config: dict[str, Any] = {}
        self._stack = AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Start the relay with what `config` says."""
        self.write()
        await self._stack.__aenter__()
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.relay = await Relay(self.file, load(self.file, {}), {}, self.clock).__aenter__()
        self._up = True
        return self

    def write(self) -> None:
        """Write the configuration file anew."""
        self.file.write_text(yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")

    async def drain(self) -> None:
        """Stop the relay as SIGTERM does."""
        if self._up:
            self._up = False
            await self.relay.__aexit__()

    async def stop(self) -> None:
        """Stop the relay, if it still runs, and the clients."""
        await self.drain()
        await self._stack.aclose()

    async def restart(self) -> Self:
        """Stop the relay and start it again over the same store."""
        await self.drain()
        self.relay = await Relay(self.file, load(self.file, {}), {}, self.clock).__aenter__()
        self._up = True
        return self

    @property
    def public(self) -> tuple[str, int]:
        return self.relay.public.addresses[-1]

    @property
    def admin(self) -> tuple[str, int]:
        return self.relay.admin.addresses[-1]

    # ---- ITscope

    async def post(
        self,
        payload: Any = ORDER,
        *,
        auth: str | None = RIGHT,
        path: str = PATH,
        method: str = "POST",
        headers: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Send a webhook: bytes as they are, anything else as JSON."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        all_headers = CIMultiDict([("Content-Type", "application/json"), *headers])
        if auth is not None:
            all_headers.add("Authorization", auth)
        host, port = self.public
        data = io.BytesIO(body) if len(body) >= 1 << 20 else body  # as aiohttp wants it
        return await self._request(method, f"http://{host}:{port}{path}", data=data, headers=all_headers)

    async def wire(self, *, ssl_context: ssl.SSLContext | None = None, admin: bool = False) -> Wire:
        """Connect to the public listener, or the admin one."""
        host, port = self.admin if admin else self.public
        name = "localhost" if ssl_context else None
        wire = Wire(*await asyncio.open_connection(host, port, ssl=ssl_context, server_hostname=name))
        self._stack.push_async_callback(wire.close)
        return wire

    # ---- the operator

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        """Send a request to the admin listener."""
        host, port = self.admin
        url = URL(f"http://{host}:{port}{path}", encoded=True)
        return await self._request(method, url, headers=headers or {}, data=data)

    async def reload(self, **overrides: Any) -> Answer:
        """Change the configuration file and have it taken anew."""
        self.config = merged(self.config, overrides)
        self.write()
        return await self.ask("/-/reload", method="POST")

    async def metric(self, name: str, **labels: str) -> float:
        """Return one sample's value."""
        return (await self.metrics())[name, frozenset(labels.items())]

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return every sample, by name and labels."""
        text = (await self.ask("/metrics")).body.decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    # ---- a look into the store

    def rows(self, sql: str, *bindings: Any) -> list[Any]:
        """Return the rows of a SELECT."""
        connection = apsw.Connection(str(self.folder / "relay.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(5000)
            return list(connection.execute(sql, bindings))
        finally:
            connection.close()

    def events(self) -> list[tuple[str, bytes]]:
        """Return id and body of every event."""
        return self.rows("SELECT event_id, body FROM events ORDER BY id")

    def quarantine(self) -> list[tuple[str, bytes]]:
        """Return reason and body of everything in quarantine."""
        return self.rows("SELECT reason, body FROM quarantine ORDER BY id")

    def deliveries(self, destination: str = "erp") -> list[tuple[str, int]]:
        """Return state and number of attempts of a destination's deliveries."""
        return self.rows(
            "SELECT state, attempts FROM deliveries WHERE destination = ? ORDER BY id", destination
        )

    def attempts(self, destination: str = "erp") -> list[tuple[int | None, str | None, str]]:
        """Return status, error and next state of a destination's attempts."""
        return self.rows(
            "SELECT status, error, next_state FROM attempts AS a JOIN deliveries AS d ON d.id = a.delivery"
            " WHERE destination = ? ORDER BY a.delivery, number",
            destination,
        )

    async def settled(self, state: str, destination: str = "erp", number: int = 1) -> None:
        """Wait until so many deliveries of a destination, and no others, are in a state."""
        await until(lambda: [found for found, _ in self.deliveries(destination)] == [state] * number)

    async def attempted(
        self, number: int, destination: str = "erp"
    ) -> list[tuple[int | None, str | None, str]]:
        """Wait until at least so many attempts for a destination are recorded, and return them."""
        await until(lambda: len(self.attempts(destination)) >= number)
        return self.attempts(destination)

    async def _request(self, method: str, url: str | URL, **options: Any) -> Answer:
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            self.session.request(method, url, allow_redirects=False, **options) as response,
        ):
            return Answer(response.status, CIMultiDict(response.headers), await response.read())


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return one configuration over another: mappings are merged, None removes, all else replaces."""
    result = dict(base)
    for key, value in overrides.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def lives(running: Running) -> bool:
    """Tell whether no part of the relay has ended by a bug."""
    parts = (running.relay._dispatcher.crashed, running.relay._store.died, *running.relay._chores)
    return not any(part.done() for part in parts)
