"""One HTTP request in, one `Outcome` out. A failure is an outcome, not an exception.

Owns the connections to one destination and how an event looks on the wire (contract: the received bytes and
their Content-Type, ids as headers, the destination's own headers and credentials). What follows from an
outcome is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import aiohttp
from aiohttp import hdrs
from yarl import URL

from relay import __version__
from relay.config import BasicCredentials, BearerCredentials, Destination, HeaderCredentials
from relay.connections import ClosedError, Connections, NotHttpError, UnreachableError
from relay.model import Delivery, Outcome
from relay.units import format_duration
from relay.wire import event_lines, parse_retry_after

_log = logging.getLogger(__name__)

_LOCAL_WANT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class NotTriedError(Exception):
    """Nothing was sent, for lack of something on this machine such as file descriptors."""


class Sender:
    """Sends deliveries to one destination over connections of its own."""

    def __init__(self, destination: Destination, now: Callable[[], float]) -> None:
        """Make a sender; call it on the event loop, and close it there."""
        url = URL(destination.url)
        self._head = _head(destination, url)
        self._timeout = destination.timeout.total_seconds()
        self._now = now
        self._connections = Connections(url, self._timeout)

    async def send(self, delivery: Delivery) -> Outcome:
        """Make one attempt and return its outcome, whatever happens; only cancellation is raised.

        Raises:
            NotTriedError: no attempt was made; it is worth another try soon.
        """
        started = time.perf_counter()
        status: int | None = None
        body = b""
        error: str | None = None
        hint: float | None = None
        try:
            answer = await self._connections.ask(self._request(delivery))
            status, body = answer.status, answer.body
            if answer.retry_after is not None:
                hint = parse_retry_after(answer.retry_after, self._now())
        except UnreachableError as caught:
            if isinstance(why := caught.__cause__, OSError) and why.errno in _LOCAL_WANT:
                raise NotTriedError(f"can't connect: {os.strerror(why.errno).lower()}") from caught
            error = self._describe(caught)
        except Exception as caught:  # noqa: BLE001 (a failure is an outcome; one event must not stop a lane)
            error = self._describe(caught)
        return Outcome(status, error, time.perf_counter() - started, hint, body)

    async def close(self) -> None:
        """Close the connections."""
        self._connections.close()
        await asyncio.sleep(0)  # for the transports to notice

    def _request(self, delivery: Delivery) -> bytes:
        """Return a delivery's request as it goes over the wire."""
        body = delivery.event.body
        span_id = random.getrandbits(64)
        lines = event_lines(delivery, span_id)
        return f"{self._head}{lines}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body

    def _describe(self, error: Exception) -> str:
        """Return a sentence for operators, without the URL, which may carry a secret."""
        match error:
            case TimeoutError():
                return f"no answer within {format_duration(self._timeout)}"
            case UnreachableError(__cause__=why):
                return _describe_unreachable(why)
            case ClosedError():
                return "the connection was closed before an answer"
            case NotHttpError():
                return "the answer is not valid HTTP"
            case _:
                _log.error("delivery.failed_unexpectedly", exc_info=error)
                return f"an unexpected error in the relay ({type(error).__name__})"


def _describe_unreachable(why: BaseException | None) -> str:
    match why:
        case ssl.SSLCertVerificationError(verify_message=str() as message):
            return f"the certificate isn't trusted: {message}"
        case ssl.SSLError(reason=str() as reason):
            return f"TLS failed: {reason.replace('_', ' ').lower()}"
        case ssl.SSLError():
            return "TLS failed"
        case socket.gaierror() | UnicodeError():
            return "the host name can't be resolved"
        case OSError(errno=int() as number):
            return f"can't connect: {os.strerror(number).lower()}"
        case _:
            return "can't connect to any of the host's addresses"


def _head(destination: Destination, url: URL) -> str:
    """Return what every request to a destination begins with: the request line and its own headers."""
    lines = [
        f"{destination.method} {url.raw_path_qs} HTTP/1.1",
        f"{hdrs.HOST}: {url.host_port_subcomponent}",
        *(f"{name}: {value}" for name, value in _own_headers(destination)),
    ]
    return "".join([f"{line}\r\n" for line in lines])


def _own_headers(destination: Destination) -> Iterator[tuple[str, str]]:
    yield hdrs.USER_AGENT, f"itscope-relay/{__version__}"
    yield from destination.headers.items()
    match destination.auth:
        case BasicCredentials(username=username, secret=secret):
            yield hdrs.AUTHORIZATION, aiohttp.encode_basic_auth(username, secret)
        case BearerCredentials(secret=secret):
            yield hdrs.AUTHORIZATION, f"Bearer {secret}"
        case HeaderCredentials(name=name, secret=secret):
            yield name, secret
