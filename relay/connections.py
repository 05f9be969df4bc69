"""HTTP/1.1 to one origin: a request's bytes out, an answer in, over connections that are kept.

Parsing is httptools' (llhttp), and reaching a host by several addresses aiohappyeyeballs'. `ClientSession` is
not used: it costs many times as much a request, for what a delivery must not have anyway (cookies, redirects,
proxies, decompression). What a status means, and how long to wait for one, is left to `delivery`.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import aiohappyeyeballs
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
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


class Answer(NamedTuple):
    """A receiver's answer, as far as it matters to a delivery. `body`: its first KEPT_ANSWER_BYTES."""

    status: int
    retry_after: str | None
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way.

    Attributes:
        idle_since: when its last answer was complete, on the event loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.idle_since = 0.0
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reusable = True
        self._done: asyncio.Future[Answer] | None = None  # of the request under way
        self._deadline = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._parser: HttpResponseParser | None = None
        self._status = 0  # of the answer that is coming; 0: not known yet
        self._retry_after: bytes | None = None
        self._body = b""
        self._received = 0  # bytes of the answer

    @property
    def usable(self) -> bool:
        """Whether a request may be sent over it."""
        return self._reusable and self._transport is not None

    def ask(self, request: bytes, deadline: float) -> asyncio.Future[Answer]:
        """Send a request; the future gets the answer, as much of it as came.

        Raises (through the future):
            TimeoutError: no status had come by the deadline, on the event loop's clock.
            ClosedError: the connection ended before a status.
            NotHttpError: what came is no answer.
        """
        done = self._done = self._loop.create_future()
        self._reusable = False  # until the whole answer was read
        self._status, self._retry_after, self._body, self._received = 0, None, b"", 0
        self._parser = HttpResponseParser(self)  # which has seen nothing that came unasked
        self._parser.set_dangerous_leniencies(  # what old software writes, and browsers understand
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._deadline = deadline
        if self._watch is None:
            self._watch = self._loop.call_at(deadline, self._watch_time)
        if self._transport is None:
            self._end(ClosedError())
        else:
            self._transport.write(request)
        return done

    def _watch_time(self) -> None:
        """End a request whose time is up.

        One timer serves all requests that follow one another within a time-out's length: it is set again
        only if one is under way when it rings. Each deadline is later than the one before.
        """
        self._watch = None
        if self._done is None or self._status:
            return
        if self._loop.time() < self._deadline:
            self._watch = self._loop.call_at(self._deadline, self._watch_time)
        else:
            self._end(TimeoutError())

    def close(self) -> None:
        """Close at once."""
        self._reusable = False
        self._parser = None  # which knows this connection
        for timer in (self._watch, self._rest):
            if timer is not None:
                timer.cancel()
        self._watch = self._rest = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _end(self, error: OSError) -> None:
        """Close; whoever waits gets the answer, if there is a status, and else the error."""
        self.close()
        if self._status:
            self._tell()
        elif (done := self._taken()) is not None:
            done.set_exception(error)

    def _tell(self) -> None:
        """Give whoever waits the answer."""
        if (done := self._taken()) is not None:
            retry_after = None if self._retry_after is None else self._retry_after.decode("latin-1")
            done.set_result(Answer(self._status, retry_after, self._body))

    def _taken(self) -> asyncio.Future[Answer] | None:
        """Return the future of whoever waits, and forget it: what it raises knows this connection."""
        done, self._done = self._done, None
        return done if done is not None and not done.done() else None

    # ---- asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._done is None:
            self._end(NotHttpError("nothing was asked"))
            return
        status, room = self._status, MAX_ANSWER_BYTES - self._received
        self._received += len(data)
        try:
            self._parser.feed_data(data if len(data) <= room else data[:room])
        except (HttpParserError, HttpParserUpgrade) as error:
            self._end(NotHttpError(str(error)))
            return
        if self._received > MAX_ANSWER_BYTES:
            self._end(NotHttpError("it is too long"))
        elif self._status and not status and self._done is not None:
            self._rest = self._loop.call_later(REST_SECONDS, self._end, ClosedError())

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 (asyncio's)
        self._end(ClosedError())

    # ---- the parser's

    def on_message_begin(self) -> None:
        if self._done is None:
            raise NotHttpError("nothing was asked")

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 11 and name.lower() == b"retry-after" and not (self._status or self._retry_after):
            self._retry_after = value

    def on_headers_complete(self) -> None:
        status = cast("HttpResponseParser", self._parser).get_status_code()  # it is calling
        if status < 100:
            raise NotHttpError("it has no status")
        if status >= 200 or status == 101:
            self._status = status
        else:  # interim: the answer is still to come
            self._retry_after = None

    def on_body(self, body: bytes) -> None:
        self._body += body[: KEPT_ANSWER_BYTES - len(self._body)]

    def on_message_complete(self) -> None:
        if not self._status:
            return
        self._reusable = cast("HttpResponseParser", self._parser).should_keep_alive()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._tell()


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
        now = self._loop.time()
        deadline = now + self._timeout_seconds
        if (connection := self._kept(now)) is None:
            async with asyncio.timeout_at(deadline):
                connection = await self._connect()
        try:
            return await connection.ask(request, deadline)
        finally:  # cancelled, too, and then it isn't usable: nobody knows what is still to come over it
            self._keep(connection)

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

    def _kept(self, now: float) -> _Connection | None:
        """Return the connection that was used last, if it still can be."""
        too_old = now - IDLE_SECONDS
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
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell)

    def _looked_up(self, done: asyncio.Future[_Addresses]) -> None:
        self._lookup = None
        if not done.cancelled():
            done.exception()  # whoever wanted it may have gone


def _look_up(host: str, port: int, flags: int) -> _Addresses:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
