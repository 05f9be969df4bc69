"""ITscope and the internal systems in one process, so that one clock times both ends.

Posts at a steady rate whatever the answers take (open loop), and receives what the relay delivers. Written on
bare asyncio protocols, since a client or server framework would cost more than what is measured.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import cast

from bench.harness import AUTHORIZATION, PATH

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Times:
    """Seconds on one clock.

    Attributes:
        answers: from posting to the answer.
        deliveries: from posting to the arrival at each receiver, by receiver.
        refused: answers other than 200.
    """

    answers: list[float] = field(default_factory=list)
    deliveries: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: int = 0


class Receiver(asyncio.Protocol):
    """Answers 200 at once, or never."""

    def __init__(self, number: int, times: Times, sent: dict[str, float], *, hangs: bool) -> None:
        self._number = number
        self._times = times
        self._sent = sent
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
            self._buffer = self._buffer[end + 4 + length :]
            if self._hangs:
                continue
            sent_at = self._sent.get(_header(head, b"idempotency-key").decode())
            if sent_at is not None:
                self._times.deliveries[self._number].append(time.perf_counter() - sent_at)
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


class Poster:
    """Posts one webhook at a time over one connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.busy = asyncio.Lock()

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def post(self, body: bytes) -> int:
        self._writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: relay\r\nAuthorization: {AUTHORIZATION}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(int(_header(head.lower(), b"content-length")))
        return int(head[9:12])

    def close(self) -> None:
        self._writer.close()


class Receivers:
    """Internal systems on ports of their own."""

    def __init__(self) -> None:
        self._times = Times()
        self._sent: dict[str, float] = {}
        self.urls: list[str] = []

    async def start(self, number: int, hanging: frozenset[int] = frozenset()) -> None:
        """Listen; the hanging ones take connections and never answer."""
        loop = asyncio.get_running_loop()
        for index in range(number):
            server = await loop.create_server(
                lambda index=index: Receiver(  # type: ignore[misc]
                    index, self.times, self._sent, hangs=index in hanging
                ),
                "127.0.0.1",
                0,
            )
            self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/itscope")

    @property
    def times(self) -> Times:
        return self._times

    async def run(self, port: int, rate: float, seconds: float, answering: int) -> Times:
        """Post at a rate and return when everything has arrived at the `answering` receivers."""
        self._times.answers.clear()
        self._times.deliveries.clear()
        posters = [Poster(port) for _ in range(32)]
        await asyncio.gather(*(poster.connect() for poster in posters))
        number = int(rate * seconds)
        start = time.perf_counter() + 0.1

        async def one(index: int) -> None:
            due = start + index / rate
            await asyncio.sleep(due - time.perf_counter())
            poster = posters[index % len(posters)]
            event_id = str(uuid.uuid4())
            body = webhook(event_id)
            async with poster.busy:
                sent_at = time.perf_counter()
                self._sent[event_id] = sent_at
                status = await poster.post(body)
                self._times.answers.append(time.perf_counter() - sent_at)
            self._times.refused += status != 200

        await asyncio.gather(*(one(index) for index in range(number)))
        deadline = time.perf_counter() + 30
        while sum(map(len, self._times.deliveries.values())) < number * answering:
            if time.perf_counter() > deadline:
                raise TimeoutError("not everything arrived")
            await asyncio.sleep(0.02)
        for poster in posters:
            poster.close()
        self._sent.clear()
        return self._times
