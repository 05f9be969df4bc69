"""Connections to a destination: what is an answer, and over which connection the next request goes."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from yarl import URL

from relay.config import Destination
from relay.connections import (
    MAX_ANSWER_BYTES,
    Answer,
    ClosedError,
    Connections,
    NotHttpError,
    UnreachableError,
    _Connection,
)
from relay.delivery import _head
from tests.http.world import DEADLINE_SECONDS, until

REQUEST = b"POST / HTTP/1.1\r\nHost: erp\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers each request with bytes from a script, then with `OK`. A script's None closes."""

    def __init__(self) -> None:
        self.script: deque[Sequence[bytes | None]] = deque()
        self.requests: list[int] = []  # the number of the connection that each came over
        self.writers: list[asyncio.StreamWriter] = []
        self.read = asyncio.Event()

    async def start(self, host: str = "127.0.0.1") -> int:
        """Listen, and return the port."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        self._server.close()
        for writer in self.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.writers)
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readexactly(len(REQUEST))
                self.requests.append(number)
                for part in self.script.popleft() if self.script else [OK]:
                    if part is None:
                        writer.close()
                        return
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    await made.stop()


@pytest.fixture
async def connections(server: Server) -> AsyncIterator[Connections]:
    failed: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    made = Connections(URL(f"http://127.0.0.1:{await server.start()}/"), DEADLINE_SECONDS)
    yield made
    made.close()
    await asyncio.sleep(0)
    assert not failed  # whatever came is dealt with here


async def ask(connections: Connections) -> Answer:
    return await connections.ask(REQUEST)


# ---- which connection


async def test_requests_one_after_the_other_share_a_connection(
    connections: Connections, server: Server
) -> None:
    for _ in range(5):
        assert (await ask(connections)).status == 200
    assert server.requests == [0] * 5


async def test_requests_at_once_have_connections_of_their_own(
    connections: Connections, server: Server
) -> None:
    answers = await asyncio.gather(*(ask(connections) for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert sorted(server.requests) == [0, 1, 2, 3, 4]


async def test_connection_that_was_closed_while_idle_is_not_used(
    connections: Connections, server: Server
) -> None:
    await ask(connections)
    (kept,) = connections._idle
    server.writers[0].close()
    await until(lambda: not kept.usable)
    assert (await ask(connections)).status == 200
    assert server.requests == [0, 1]


@pytest.mark.parametrize("data", [OK, b"nonsense\r\n\r\n"], ids=["answer", "nonsense"])
async def test_connection_that_spoke_unasked_is_not_used(
    connections: Connections, server: Server, data: bytes
) -> None:
    await ask(connections)
    (kept,) = connections._idle
    server.writers[0].write(data)
    await until(lambda: not kept.usable)
    answer = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    server.script.append([answer])
    assert (await ask(connections)).status == 500
    assert server.requests == [0, 1]


async def test_connection_that_spoke_half_an_answer_unasked_is_not_used(
    connections: Connections, server: Server
) -> None:
    await ask(connections)
    server.writers[0].write(OK[:20])
    await asyncio.sleep(0.05)
    no = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    server.script.append([OK[20:] + no] if connections._idle[0].usable else [no])
    assert (await ask(connections)).status == 500


async def test_answer_that_comes_twice_is_not_taken_for_the_next(
    connections: Connections, server: Server
) -> None:
    server.script += [[OK + OK], [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"]]
    with suppress(NotHttpError, ClosedError):
        assert (await ask(connections)).status == 200
    assert (await ask(connections)).status == 500
    assert server.requests == [0, 1]


async def test_connection_of_a_cancelled_request_is_not_used(
    connections: Connections, server: Server
) -> None:
    server.script.append([])
    asked = asyncio.ensure_future(ask(connections))
    await until(lambda: server.requests)
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked
    assert (await ask(connections)).status == 200
    assert server.requests == [0, 1]


async def test_each_request_has_its_whole_time_and_a_new_connection_follows_a_late_one(
    server: Server,
) -> None:
    clock = asyncio.get_running_loop().time
    connections = Connections(URL(f"http://127.0.0.1:{await server.start()}/"), 2.0)
    assert (await ask(connections)).status == 200
    await asyncio.sleep(1.0)  # so that the time of the first is up while the second waits
    server.script.append([])
    asked_at = clock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await ask(connections)
    assert 1.99 < clock() - asked_at < DEADLINE_SECONDS
    assert (await ask(connections)).status == 200
    assert server.requests == [0, 0, 1]
    connections.close()
    await asyncio.sleep(0)


# ---- what is an answer, and whether its connection is used again

CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = MAX_ANSWER_BYTES * 4
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 65000\r\nA: %s\r\n\r\n" % (b"a" * 489) + b"x" * 65_000
assert len(WHOLE) == MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    ("answer", "status", "kept"),
    [
        ([OK], 200, True),
        ([bytes([byte]) for byte in OK], 200, True),
        ([CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"], 201, True),
        ([CHUNKED, b"3\r\n", b"ab", b"c\r\n", b"0\r\n", b"\r\n"], 201, True),
        ([bytes([byte]) for byte in CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"], 201, True),
        ([CHUNKED, b"3\r\nab", None], 201, False),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, True),
        ([b"HTTP/1.1 304 Not Modified\r\n\r\n"], 304, True),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"he", b"llo"], 200, True),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", None], 200, False),
        ([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], 200, False),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"until the end", None], 200, False),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"], 200, False),
        ([b"HTTP/1.0 200 OK\r\n\r\nuntil the end", None], 200, False),
        ([b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"], 200, True),
        ([b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"], 200, True),
        ([b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"], 200, True),
        ([b"HTTP/1.1 200 OK\r\nA: \x01b\r\nContent-Length: 0\r\n\r\n"], 200, True),
        ([CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"], 201, True),
        ([OK + b"HTTP/1.1 20"], 200, False),
        ([WHOLE], 200, True),
        ([WHOLE + b"HTTP/1.1 200 OK\r\n"], 200, False),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK], 200, True),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", OK], 200, True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 3, b"HTTP/1.1 102 Processing\r\n\r\n", OK], 200, True),
        ([bytes([byte]) for byte in b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + OK], 200, True),
        ([b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"], 101, False),
        ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], 101, False),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LONG, b"x" * LONG], 200, False),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 50_000, b"x" * 50_000],
            200,
            True,
        ),
    ],
    ids=lambda value: repr(b"|".join(part or b"" for part in value))[:70] if isinstance(value, list) else "",
)
async def test_answer_is_understood(
    connections: Connections, server: Server, answer: list[bytes | None], status: int, *, kept: bool
) -> None:
    server.script.append(answer)
    assert (await ask(connections)).status == status
    assert (await ask(connections)).status == 200
    assert server.requests == ([0, 0] if kept else [0, 1])


async def test_rest_of_an_answer_is_not_waited_for_without_end(
    connections: Connections, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.connections.REST_SECONDS", 0.05)
    server.script.append([b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhe"])
    async with asyncio.timeout(DEADLINE_SECONDS / 2):  # before the request's own time is up
        assert await ask(connections) == Answer(201, None, b"he")
    assert (await ask(connections)).status == 200
    assert server.requests == [0, 1]


async def test_rest_of_an_answer_may_take_longer_than_the_request(server: Server) -> None:
    connections = Connections(URL(f"http://127.0.0.1:{await server.start()}/"), 1.0)
    server.script.append([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"])
    asked = asyncio.ensure_future(ask(connections))
    await until(lambda: server.requests)
    await asyncio.sleep(1.1)
    server.writers[0].write(b"llo")
    assert await asked == Answer(200, None, b"hello")
    connections.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "answer", [[None], [b"nonsense\r\n\r\n"], [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", None]]
)
async def test_connection_that_ended_is_forgotten_at_once(
    connections: Connections, server: Server, answer: list[bytes | None]
) -> None:
    server.script.append(answer)
    gc.collect()
    gc.disable()  # which would find it some time, with its request
    try:
        with suppress(OSError):
            await ask(connections)
        await until(lambda: not any(type(one) is _Connection for one in gc.get_objects()))
    finally:
        gc.enable()


async def test_connection_outlives_the_time_for_the_rest_of_an_answer_that_came(
    connections: Connections, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.connections.REST_SECONDS", 1.0)
    server.script.append([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"he", b"llo"])
    assert await ask(connections) == Answer(200, None, b"hello")
    await asyncio.sleep(1.1)
    assert (await ask(connections)).status == 200
    assert server.requests == [0, 0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([None], ClosedError),
        ([b"HTTP/1.1 20", None], ClosedError),
        ([b"HTTP/1.1 200 OK\r\nContent-Le", None], ClosedError),
        ([b"HTTP/1.1 103 Early Hints\r\n\r\n", None], ClosedError),
        ([b"SSH-2.0-OpenSSH_9.2\r\n\r\n"], NotHttpError),
        ([b"HTTP/1.1 abc OK\r\n\r\n"], NotHttpError),
        ([b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"], NotHttpError),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"], NotHttpError),
        ([b"HTTP/1.1 200 OK\r\nA: %s\r\n\r\n" % (b"a" * 100_000)], NotHttpError),
        ([b"HTTP/1.1 200 OK\r\n", *[b"A: %s\r\n" % (b"a" * 1000)] * 200, b"\r\n"], NotHttpError),
        ([b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"], NotHttpError),
    ],
    ids=lambda value: repr(b"|".join(part or b"" for part in value))[:50] if isinstance(value, list) else "",
)
async def test_what_is_no_answer_is_named_and_the_next_request_goes_on(
    connections: Connections, server: Server, answer: list[bytes | None], error: type[OSError]
) -> None:
    server.script.append(answer)
    with pytest.raises(error):
        await ask(connections)
    assert (await ask(connections)).status == 200
    assert server.requests == [0, 1]


async def test_retry_after_is_passed_on(connections: Connections, server: Server) -> None:
    server.script.append([b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"])
    assert await ask(connections) == Answer(503, "7", b"")
    assert await ask(connections) == Answer(200, None, b"")


@pytest.mark.parametrize(
    ("answer", "retry_after"),
    [
        (b"HTTP/1.1 103 No\r\nRetry-After: 7\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "1"),
        (
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nRetry-After: 7\r\n\r\n",
            None,
        ),
    ],
    ids=["interim", "twice", "trailer"],
)
async def test_retry_after_is_the_first_of_the_answers_own_head(
    connections: Connections, server: Server, answer: bytes, retry_after: str | None
) -> None:
    server.script.append([answer])
    assert await ask(connections) == Answer(503, retry_after, b"")


# ---- the head


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("http://erp.example", "/", "erp.example"),
        ("http://erp.example/api", "/api", "erp.example"),
        ("http://erp.example:80/api", "/api", "erp.example"),
        ("https://erp.example:443/api", "/api", "erp.example"),
        ("http://erp.example:443/api", "/api", "erp.example:443"),
        ("https://erp.example:80/api", "/api", "erp.example:80"),
        ("http://erp.example:8080/api?a=b&c=d%20e", "/api?a=b&c=d%20e", "erp.example:8080"),
        ("http://[2001:db8::1]/api", "/api", "[2001:db8::1]"),
        ("http://[2001:db8::1]:8080/api", "/api", "[2001:db8::1]:8080"),
        ("http://127.0.0.1:8080/", "/", "127.0.0.1:8080"),
        ("http://bücher.example/ä?ö", "/%C3%A4?%C3%B6", "xn--bcher-kva.example"),
        ("http://erp.example/api#fragment", "/api", "erp.example"),
    ],
)
def test_head_names_target_and_host(url: str, target: str, host: str) -> None:
    destination = Destination(url=url, timeout=timedelta(seconds=1))
    lines = _head(destination, URL(url)).split("\r\n")
    assert lines[:2] == [f"POST {target} HTTP/1.1", f"Host: {host}"]
    assert lines[-1] == ""


async def test_host_may_be_an_ipv6_address(server: Server) -> None:
    try:
        port = await server.start("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    connections = Connections(URL(f"http://[::1]:{port}/"), DEADLINE_SECONDS)
    assert (await ask(connections)).status == 200
    connections.close()
    await asyncio.sleep(0)


# ---- what it says


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ([b"HTTP/1.1 422 No\r\nContent-Length: 7\r\n\r\nno item"], b"no item"),
        ([b"HTTP/1.1 422 No\r\nContent-Length: 7\r\n\r\n", b"no ", b"item"], b"no item"),
        ([b"HTTP/1.1 422 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nno\r\n", b"0\r\n\r\n"], b"no"),
        ([b"HTTP/1.0 422 No\r\n\r\n", b"no item", None], b"no item"),
        ([b"HTTP/1.0 422 No\r\n\r\nno item", None], b"no item"),
        ([b"HTTP/1.1 422 No\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000], b"x" * 2048),
        ([b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n"], b""),
    ],
    ids=["at once", "in parts", "chunked", "until the end", "all until the end", "long", "empty"],
)
async def test_beginning_of_an_answers_body_is_kept(
    connections: Connections, server: Server, parts: list[bytes | None], kept: bytes
) -> None:
    server.script.append(parts)
    assert await ask(connections) == Answer(422, None, kept)
    server.script.append([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"])
    assert await ask(connections) == Answer(200, None, b"yes")


# ---- looking a host up


async def test_name_that_takes_long_to_look_up_delays_nobody_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await server.start()
    answered, asked = threading.Event(), []
    real = socket.getaddrinfo

    def slow(host: str, port: int, *, type: socket.SocketKind, flags: int) -> Any:  # noqa: A002 (its name)
        if host == "slow.example":
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror
            asked.append(host)
            answered.wait(DEADLINE_SECONDS)
            host = "127.0.0.1"
        return real(host, port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", slow)  # the world's resolver
    waiting = Connections(URL(f"http://slow.example:{port}/"), DEADLINE_SECONDS)
    other = Connections(URL(f"http://127.0.0.1:{port}/"), DEADLINE_SECONDS)
    asks = [asyncio.ensure_future(ask(waiting)) for _ in range(50)]
    await until(lambda: asked)
    assert (await ask(other)).status == 200
    await asyncio.to_thread(int)  # the threads that all share are free
    answered.set()
    assert {one.status for one in await asyncio.gather(*asks)} == {200}
    assert len(asked) == 1
    waiting.close()
    other.close()
    await asyncio.sleep(0)


async def test_name_that_does_not_exist_is_unreachable_every_time() -> None:
    connections = Connections(URL("http://nothing.invalid:1/"), DEADLINE_SECONDS)
    for _ in range(2):
        with pytest.raises(UnreachableError) as caught:
            await ask(connections)
        assert isinstance(caught.value.__cause__, socket.gaierror)
    connections.close()
