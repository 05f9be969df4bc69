"""One HTTP request in, one `Outcome` out. A failure is an outcome, not an exception.

Owns the connections to one destination and how an event looks on the wire (contract: the received bytes and
their Content-Type, ids as headers, the destination's own headers and credentials). What follows from an
outcome is decided elsewhere.
"""

from __future__ import annotations

import io
import logging
import os
import random
import ssl
import time
from collections.abc import Callable

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from relay import __version__
from relay.config import BasicCredentials, BearerCredentials, Destination, HeaderCredentials
from relay.model import Delivery, Outcome
from relay.units import format_duration
from relay.wire import event_headers, parse_retry_after

_log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 << 10  # read, so that the connection can be used again; a longer answer costs it
_STREAMED_FROM_BYTES = 1 << 19  # larger bodies are written in pieces, not in one go
_IDLE_SECONDS = 30.0  # a kept connection; shorter than what most servers allow


class Sender:
    """Sends deliveries to one destination over connections of its own."""

    def __init__(self, destination: Destination, now: Callable[[], float]) -> None:
        """Make a sender; call it on the event loop, and close it there."""
        self._url = URL(destination.url)
        self._method = destination.method
        self._timeout = destination.timeout.total_seconds()
        self._headers = _fixed_headers(destination)
        self._now = now
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=destination.concurrency, keepalive_timeout=_IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
            auto_decompress=False,
            trust_env=False,
        )

    async def send(self, delivery: Delivery) -> Outcome:
        """Make one attempt and return its outcome, whatever happens; only cancellation is raised."""
        started = time.perf_counter()
        status: int | None = None
        error: str | None = None
        hint: float | None = None
        body = delivery.event.body
        headers = self._headers.copy()
        headers.update(event_headers(delivery, random.getrandbits(64)))
        try:
            async with self._session.request(
                self._method,
                self._url,
                data=body if len(body) < _STREAMED_FROM_BYTES else io.BytesIO(body),
                headers=headers,
                allow_redirects=False,
            ) as response:
                status = response.status
                if retry_after := response.headers.get(hdrs.RETRY_AFTER):
                    hint = parse_retry_after(retry_after, self._now())
                await _drain(response)
        except Exception as caught:  # noqa: BLE001 (a failure is an outcome; one event must not stop a lane)
            # Once a status has arrived it is the answer, also when the rest of it never does.
            error = None if status is not None else self._describe(caught)
        return Outcome(status, error, time.perf_counter() - started, hint)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _describe(self, error: Exception) -> str:
        """Return a sentence for operators, without the URL, which may carry a secret."""
        match error:
            case TimeoutError():
                return f"no answer within {format_duration(self._timeout)}"
            case aiohttp.ClientConnectorDNSError():
                return "the host name can't be resolved"
            case aiohttp.ClientConnectorCertificateError(
                certificate_error=ssl.SSLCertVerificationError() as why
            ):
                return f"the certificate isn't trusted: {why.verify_message}"
            case aiohttp.ClientSSLError():
                return "TLS failed"
            case aiohttp.ClientConnectorError(os_error=OSError(errno=int() as number)):
                return f"can't connect: {os.strerror(number).lower()}"
            case aiohttp.ClientConnectorError():
                return "can't connect to any of the host's addresses"
            case aiohttp.ServerDisconnectedError():
                return "the connection was closed before an answer"
            case OSError(strerror=str() as why):
                return f"the connection failed: {why.lower()}"
            case aiohttp.ClientError():
                return f"the answer can't be read ({type(error).__name__})"
            case _:
                _log.error("delivery.failed_unexpectedly", exc_info=error)
                return f"an unexpected error in the relay ({type(error).__name__})"


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read an answer's body away up to a bound; leave it, and the connection with it, beyond."""
    left = MAX_ANSWER_BYTES
    while left > 0 and (chunk := await response.content.readany()):
        left -= len(chunk)
    if left <= 0:
        response.close()


def _fixed_headers(destination: Destination) -> CIMultiDict[str]:
    headers = CIMultiDict({hdrs.USER_AGENT: f"itscope-relay/{__version__}"})
    headers.update(destination.headers)
    match destination.auth:
        case BasicCredentials(username=username, secret=secret):
            headers[hdrs.AUTHORIZATION] = aiohttp.encode_basic_auth(username, secret)
        case BearerCredentials(secret=secret):
            headers[hdrs.AUTHORIZATION] = f"Bearer {secret}"
        case HeaderCredentials(name=name, secret=secret):
            headers[name] = secret
    return headers
