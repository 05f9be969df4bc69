"""HTTP/1.1 to one origin: a request's bytes out, a status in, over connections that are kept.

Parsing is aiohttp's (llhttp), and so is reaching a host by several addresses. `ClientSession` is not used:
it costs four times as much a request, for what a delivery must not have anyway (cookies, redirects, proxies,
decompression). What a status means, and how long to wait for one, is left to `delivery`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohappyeyeballs
from aiohttp import StreamReader, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser, RawResponseMessage
from yarl import URL

MAX_ANSWER_BYTES = 64 << 10  # read, so that the connection can be used again; a longer answer costs it
KEPT_ANSWER_BYTES = 2 << 10  # for operators
REST_SECONDS = 5.0  # for the rest of an answer after its head
IDLE_SECONDS = 30.0  # a connection kept longer without use is likely to be closed under the next request
_NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305


_Addresses = Sequence[tuple[int, int, int, str, Any]]  # as getaddrinfo gives them


class ClosedError(OSError):
    """The connection ended before an answer had come."""


class NotHttpError(OSError):
    """What came is not an HTTP answer."""


class UnreachableError(OSError):
    """No connection could be made; the cause says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A receiver's answer, as far as it matters to a delivery. `body`: its first KEPT_ANSWER_BYTES."""

    status: int
    retry_after: str | None
    body: bytes


class _Connection(BaseProtocol):
    """One connection, with at most one request under way."""

    __slots__ = ("_answer", "_closed", "_deadline", "_payload", "_reusable", "_watch", "idle_since")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._answer: asyncio.Future[RawResponseMessage] | None = None
        self._payload: StreamReader | None = None
        self._reusable = True
        self._closed = False
        self._deadline = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    def _new_parser(self) -> HttpResponseParser:
        return HttpResponseParser(
            self,
            self._loop,
            MAX_ANSWER_BYTES,
            payload_exception=NotHttpError,
            read_until_eof=True,
            auto_decompress=False,
        )

    @property
    def usable(self) -> bool:
        """Whether a request may be sent over it."""
        return self._reusable and not self._closed

    async def ask(self, request: bytes, deadline: float) -> RawResponseMessage:
        """Send a request and return the head of its answer.

        Raises:
            TimeoutError: it had not come by the deadline, on the event loop's clock.
        """
        if self.transport is None:
            raise ClosedError
        self._deadline = deadline
        if self._watch is None:
            self._watch = self._loop.call_at(deadline, self._watch_time)
        self._reusable = False  # until the whole answer was read
        self._parser = self._new_parser()  # which has seen nothing that came unasked
        self._answer = self._loop.create_future()
        self.transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None

    async def finish(self, message: RawResponseMessage, kept: bytearray) -> None:
        """Read the rest of an answer; afterwards `usable` tells whether a request may follow.

        Args:
            message: its head.
            kept: gets the beginning of the body as it comes.
        """
        payload = self._payload
        if payload is None or payload.is_eof():  # as nearly all are: they came with their heads
            kept += b"" if payload is None else payload.read_nowait()[:KEPT_ANSWER_BYTES]
        elif not await _read_slowly(payload, kept):
            return
        self._payload = None
        self._reusable = not message.should_close and message.code != 101

    def _watch_time(self) -> None:
        """End a request whose time is up.

        One timer serves all requests that follow one another within a time-out's length: it is set again
        only if one is under way when it rings. Each deadline is later than the one before.
        """
        self._watch = None
        if self._answer is None or self._answer.done():
            return
        if self._loop.time() < self._deadline:
            self._watch = self._loop.call_at(self._deadline, self._watch_time)
        else:
            self._answer.set_exception(TimeoutError())

    def close(self) -> None:
        """Close at once."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._parser is None or (self._answer is None and self._payload is None):
            self._end(NotHttpError("nothing was asked"))
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 (the parser has many)
            self._end(NotHttpError(str(error)))
            return
        for message, payload in messages:
            if 100 <= message.code < 200 and message.code != 101:
                continue  # interim; the answer is still to come
            if self._answer is None or self._answer.done():
                self._end(NotHttpError("nothing was asked"))
                return
            self._payload = payload
            self._answer.set_result(message)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if exc is None and self._payload is not None and self._parser is not None:
            with contextlib.suppress(Exception):  # of the parser, which has many: it wasn't the whole answer
                self._parser.feed_eof()  # the end of an answer without a length
        self._end(ClosedError())

    def _end(self, error: OSError) -> None:
        """Tell who waits, and close."""
        self._closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(error)
        self.close()


async def _read_slowly(payload: StreamReader, kept: bytearray) -> bool:
    """Read a body to its end, and keep the beginning; tell whether there was one before MAX_ANSWER_BYTES."""
    left = MAX_ANSWER_BYTES
    async with asyncio.timeout(REST_SECONDS):
        while not payload.at_eof():
            chunk = await payload.readany()
            kept += chunk[: KEPT_ANSWER_BYTES - len(kept)]
            left -= len(chunk)
            if left < 0:
                return False
    return True


class Connections:
    """The connections to one origin; as many as there are requests at the same time."""

    def __init__(self, url: URL, timeout_seconds: float) -> None:
        """Connect when asked to, on the running event loop.

        The time-out is of each request, until a status has arrived.
        """
        self._loop = asyncio.get_running_loop()
        self._timeout_seconds = timeout_seconds
        self._host = url.raw_host or ""
        self._port = url.port or 80
        self._context = ssl.create_default_context() if url.scheme == "https" else None
        self._idle: list[_Connection] = []
        self._lookup: asyncio.Future[_Addresses] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send the bytes of a request and return the answer.

        Raises:
            TimeoutError: no status had arrived in time.
            UnreachableError: no connection could be made.
            ClosedError: it ended before an answer; the request may have been taken.
            NotHttpError: what came is no answer.
        """
        deadline = self._loop.time() + self._timeout_seconds
        if (connection := self._kept()) is None:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect()
        try:
            message = await connection.ask(request, deadline)
        except BaseException:  # cancelled, too: nobody knows what is still to come over it
            connection.close()
            raise
        body = bytearray()
        try:
            # Once a status has arrived it is the answer, also when the rest of it never does.
            with contextlib.suppress(OSError):
                await connection.finish(message, body)
        finally:
            self._keep(connection)
        return Answer(message.code, message.headers.get(hdrs.RETRY_AFTER), bytes(body))

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _keep(self, connection: _Connection) -> None:
        if connection.usable:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.close()

    def _kept(self) -> _Connection | None:
        """Return the connection that was used last, if it still can be."""
        too_old = self._loop.time() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > too_old:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        loop = self._loop
        try:
            addresses = await self._addresses()
            opened = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, loop=loop
            )
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await loop.create_connection(
                lambda: _Connection(loop),
                sock=opened,
                ssl=self._context,
                server_hostname=self._host if self._context else None,
            )
        except (OSError, UnicodeError) as error:  # the latter: a name that can't be one
            raise UnreachableError from error
        return connection

    async def _addresses(self) -> _Addresses:
        """Return the host's addresses; those who want them at the same time share one lookup.

        It has a thread of its own: a resolver that hangs must not take one that other destinations, or
        webhooks, wait for.
        """
        try:
            return _look_up(self._host, self._port, socket.AI_NUMERICHOST)  # an address needs no resolver
        except socket.gaierror:
            pass
        if self._lookup is None:
            self._lookup = self._loop.create_future()
            self._lookup.add_done_callback(self._looked_up)
            arguments = (self._loop, self._lookup)
            threading.Thread(target=self._look_up, args=arguments, name="resolver", daemon=True).start()
        return await asyncio.shield(self._lookup)

    def _look_up(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[_Addresses]) -> None:
        """Look the host up, in a thread."""
        try:
            tell = functools.partial(done.set_result, _look_up(self._host, self._port, 0))
        except (OSError, UnicodeError) as error:
            tell = functools.partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell)

    def _looked_up(self, done: asyncio.Future[_Addresses]) -> None:
        self._lookup = None
        if not done.cancelled():
            done.exception()  # whoever wanted it may have gone


def _look_up(host: str, port: int, flags: int) -> _Addresses:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
