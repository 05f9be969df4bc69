"""A listening socket with aiohttp's server behind it.

Owns binding, TLS with a certificate that may be renewed, and what a client hears that doesn't speak HTTP.
What a request means is the handler's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from relay.config import Tls, split_address
from relay.errors import RelayError

_log = logging.getLogger(__name__)

JSON = "application/json"
SERVER = "itscope-relay"  # and no version
MAX_CONNECTIONS_WAITING = 1024
MAX_LINE_BYTES = 8190  # of a request, as aiohttp has it
_LINGERING_SECONDS = 1.0
_OPERATORS_IDLE_SECONDS = 3630.0  # somebody may read a page for a while, and then ask for the next
_NOT_HTTP = "the request is not valid HTTP"
_FAILED = "the relay failed to handle this request"

Refuse = Callable[[int, str], web.StreamResponse]  # status, sentence
RequestFactory = Callable[..., web.BaseRequest]  # aiohttp's


class _Connection(web.RequestHandler):
    """aiohttp's connection, whose own errors are answered like all others and tell nothing."""

    __slots__ = ("_refuse",)

    def __init__(self, server: Server, refuse: Refuse, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 (quotes what the client sent)
    ) -> web.StreamResponse:
        if status >= 500:
            _log.error("request.failed", exc_info=exc)
            response = self._refuse(status, _FAILED)
        else:
            _log.debug("request.malformed", extra={"fields": {"client": request.remote}})
            response = self._refuse(status, _NOT_HTTP)
        response.force_close()
        return response


class Server(web.Server):
    """aiohttp's low-level server with this project's bounds. `idle_seconds` may be set at any time."""

    idle_seconds = 60.0
    max_line_bytes = MAX_LINE_BYTES

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        refuse: Refuse,
        request_factory: RequestFactory | None = None,
    ) -> None:
        """Make a server.

        Args:
            handler: answers the requests.
            refuse: makes the answer to what isn't HTTP, or where the handler fails.
            request_factory: aiohttp's; None for its own.
        """
        super().__init__(handler, request_factory=request_factory)
        self._refuse = refuse

    def __call__(self) -> web.RequestHandler:  # noqa: D102 (aiohttp's)
        return _Connection(
            self,
            self._refuse,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self.idle_seconds,
            lingering_time=_LINGERING_SECONDS,
            max_line_size=self.max_line_bytes,
            auto_decompress=False,
            access_log=None,  # aiohttp documents None as `off`
        )


class ApplicationRunner(web.AppRunner):
    """Serves an application as `Server` serves a handler: aiohttp's own errors get its form of answer."""

    __slots__ = ("_max_line_bytes", "_refuse")

    def __init__(
        self, application: web.Application, refuse: Refuse, *, max_line_bytes: int, shutdown_timeout: float
    ) -> None:
        super().__init__(application, shutdown_timeout=shutdown_timeout)
        self._refuse = refuse
        self._max_line_bytes = max_line_bytes

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await made.request_handler(request)
            except web.HTTPException as error:  # an unknown Expect, which no middleware sees
                return self._refuse(error.status, error.reason.lower())

        server = Server(handle, self._refuse, made.request_factory)
        server.idle_seconds = _OPERATORS_IDLE_SECONDS
        server.max_line_bytes = self._max_line_bytes
        return server


class Listener:
    """One address that a runner answers on; the address and TLS can change without losing a connection."""

    def __init__(self, runner: web.BaseRunner) -> None:
        self._runner = runner
        self._site: web.TCPSite | None = None
        self._bound: tuple[str, Tls | None] | None = None
        self._context: ssl.SSLContext | None = None
        self._certificate: tuple[float, ...] = ()
        self.certificate_expires_at: float | None = None
        """Of the certificate in use, None without one; it may also be one whose time can't be read."""

    async def bind(self, address: str, tls: Tls | None = None) -> None:
        """Listen on an address, and then no longer on the one before; connections stay.

        Raises:
            RelayError: the address can't be listened on; the one before stays, unless only TLS changed.
        """
        if self._bound == (address, tls):
            return
        if self._runner.server is None:
            await self._runner.setup()
        try:
            context = tls.context() if tls else None
        except ValueError as error:
            raise RelayError(str(error)) from error
        host, port = split_address(address)
        previous = self._site
        if previous is not None and self._bound is not None and self._bound[0] == address:
            await self.stop_listening()  # only TLS changes: the address must be free first
            previous = None
        site = web.TCPSite(self._runner, host, port, ssl_context=context, backlog=MAX_CONNECTIONS_WAITING)
        try:
            await site.start()
        except OSError as error:
            known = error.errno is not None and error.errno > 0  # a resolver's errors are below
            reason = os.strerror(error.errno or 0).lower() if known else "no such address on this machine"
            raise RelayError(f"can't listen on {address}: {reason}") from error
        self._site, self._bound, self._context = site, (address, tls), context
        self._certificate, self.certificate_expires_at = _modified(tls), _expires_at(tls)
        if previous is not None:
            await previous.stop()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each listening socket."""
        return [(address[0], address[1]) for address in self._runner.addresses]

    async def stop_listening(self) -> None:
        """Take no new connections; those there are stay."""
        if self._site is not None:
            await self._site.stop()
            self._site = self._bound = None

    async def close(self) -> None:
        """Let requests under way finish for a moment and close all connections."""
        await self._runner.cleanup()

    def refresh_certificate(self) -> None:
        """Load the certificate again if its files have changed; new connections get the new one."""
        tls = self._bound[1] if self._bound else None
        if tls is None or self._context is None or (modified := _modified(tls)) == self._certificate:
            return
        try:
            tls.context()  # a half-written pair must not replace a good one
            self._context.load_cert_chain(tls.cert_file, tls.key_file)
        except (OSError, ValueError) as error:
            _log.warning("certificate.not_reloaded", extra={"fields": {"error": str(error)}})
            return
        self._certificate, self.certificate_expires_at = modified, _expires_at(tls)
        _log.info("certificate.reloaded", extra={"fields": {"file": str(tls.cert_file)}})


def _modified(tls: Tls | None) -> tuple[float, ...]:
    """Return when the files of a certificate were last changed; empty while they can't be seen."""
    if tls is None:
        return ()
    try:
        return tuple(file.stat().st_mtime_ns for file in (tls.cert_file, tls.key_file))
    except OSError:
        return ()


def _expires_at(tls: Tls | None) -> float | None:
    """Return when a certificate expires, None where that can't be told."""
    if tls is None:
        return None
    from cryptography import x509  # noqa: PLC0415 (where there is TLS; it takes a while)

    try:
        return x509.load_pem_x509_certificate(tls.cert_file.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None
