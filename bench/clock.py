"""ITscope and the internal systems in one process, so that one clock times both ends.

Posts at a steady rate whatever the answers take (open loop), and receives what the relay delivers. Written on
bare asyncio protocols, since a client or server framework would cost more than what is measured. How late its
posts leave, and how much of a core it uses, is measured too: whether it is the limit itself.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from bench.harness import AUTHORIZATION, PATH

_CONNECTIONS = 32  # to begin with; where none is free, one more is made
_MOST_CONNECTIONS = 512  # where none is free then, posts leave late
_PATIENCE_SECONDS = 30.0
_BEFORE_ID = b'{"eventId": "'
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Times:
    """Seconds on one clock.

    Attributes:
        answers: from posting to the answer.
        deliveries: from posting to the arrival at each receiver, by receiver.
        late: from when a post was due until it left.
        refused: answers other than 200.
        cores: that this process used.
    """

    answers: list[float] = field(default_factory=list)
    deliveries: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    late: list[float] = field(default_factory=list)
    refused: int = 0
    cores: float = 0.0

    @property
    def arrivals(self) -> int:
        return sum(map(len, self.deliveries.values()))


class Receiver(asyncio.Protocol):
    """Answers 200 at once, or never."""

    def __init__(self, number: int, receivers: Receivers, *, hangs: bool) -> None:
        self._number = number
        self._receivers = receivers
        self._hangs = hangs
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(_header(head, b"content-length"))
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 :][:length], self._buffer[end + 4 + length :]
            if self._hangs:
                continue
            self._receivers.arrived(self._number, body[len(_BEFORE_ID) :].partition(b'"')[0])
            self._transport.write(_OK)


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


def webhook(event_id: str) -> bytes:
    """Return a body of 600 bytes."""
    payload = {
        "eventId": event_id,
        "timestamp": "2026-11-22T11:01:36",
        "eventType": "INVOICE",
        "transactionStatus": "ARRIVED",
        "orderId": "PO-123456",
        "itscopeOrderId": "123456-789",
        "documentId": "123456789",
        "padding": "",
    }
    payload["padding"] = "x" * (600 - len(json.dumps(payload)))
    return json.dumps(payload).encode()


class Poster(asyncio.Protocol):
    """One connection to the relay; posts one webhook at a time, and is idle again after the answer."""

    def __init__(self, idle: asyncio.Queue[Poster], times: Times) -> None:
        self._idle = idle
        self._times = times
        self._buffer = b""
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def post(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = int(_header(self._buffer[:end].lower(), b"content-length"))
        if len(self._buffer) < end + 4 + length:
            return
        self._times.answers.append(time.perf_counter() - self.sent_at)
        self._times.refused += self._buffer[9:12] != b"200"
        self._buffer = b""
        self._idle.put_nowait(self)

    def close(self) -> None:
        self._transport.close()


class Receivers:
    """Internal systems on ports of their own."""

    def __init__(self) -> None:
        self.times = Times()
        self.urls: list[str] = []
        self._prefix = b""
        self._sent: list[float] = []  # of the post with that number

    async def start(self, number: int, hanging: frozenset[int] = frozenset()) -> None:
        """Listen; the hanging ones take connections and never answer."""
        loop = asyncio.get_running_loop()
        for index in range(number):
            server = await loop.create_server(
                lambda index=index: Receiver(index, self, hangs=index in hanging),  # type: ignore[misc]
                "127.0.0.1",
                0,
            )
            self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/itscope")

    def arrived(self, receiver: int, event_id: bytes) -> None:
        """Note the arrival of one of the events that are being posted; others don't count."""
        prefix, _, number = event_id.rpartition(b"-")
        if prefix == self._prefix:
            self.times.deliveries[receiver].append(time.perf_counter() - self._sent[int(number)])

    async def run(self, port: int, rate: float, seconds: float, answering: int) -> Times:
        """Post at a rate and return when everything has arrived at the `answering` receivers.

        Raises:
            TimeoutError: nothing arrives any more.
        """
        times = self.times = Times()
        self._sent = []
        self._prefix = uuid.uuid4().hex.encode()
        gc.collect()
        gc.freeze()  # a collection would be taken for the relay's slowness
        used, number = time.process_time(), int(rate * seconds)
        posters = await self._post(port, rate, number)
        times.cores = (time.process_time() - used) / seconds
        arrivals, since = -1, time.perf_counter()
        while len(times.answers) < number or times.arrivals < number * answering:
            if times.arrivals != arrivals:
                arrivals, since = times.arrivals, time.perf_counter()
            if time.perf_counter() - since > _PATIENCE_SECONDS:
                raise TimeoutError(f"{len(times.answers)} answers, {arrivals} arrivals of {number} events")
            await asyncio.sleep(0.02)
        for poster in posters:
            poster.close()
        return times

    async def _post(self, port: int, rate: float, number: int) -> list[Poster]:
        """Post each request when it is due; return the connections."""
        loop = asyncio.get_running_loop()
        idle: asyncio.Queue[Poster] = asyncio.Queue()
        posters: list[Poster] = []

        async def connect() -> None:
            _, poster = await loop.create_connection(lambda: Poster(idle, self.times), "127.0.0.1", port)
            posters.append(poster)
            idle.put_nowait(poster)

        for _ in range(_CONNECTIONS):
            await connect()
        start = time.perf_counter() + 0.1
        for index, request in enumerate(_requests(self._prefix.decode(), number)):
            due = start + index / rate
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            if idle.empty() and len(posters) < _MOST_CONNECTIONS:
                await connect()
            poster = await idle.get()
            poster.post(request)
            self._sent.append(poster.sent_at)
            self.times.late.append(poster.sent_at - due)
        return posters


def _requests(prefix: str, number: int) -> Iterator[bytes]:
    """Yield whole requests, whose eventIds are the prefix with the number of each."""
    mark = "#" * 8
    before, after = webhook(f"{prefix}-{mark}").split(mark.encode())
    length = len(before) + len(mark) + len(after)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: relay\r\nAuthorization: {AUTHORIZATION}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode() + before
    for index in range(number):
        yield b"%s%08d%s" % (head, index, after)
