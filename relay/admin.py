"""The listener for operators and Prometheus: metrics, health, readiness, reload.

Never on the public port. Owns who may use it; what a reload or readiness means is handed in by `app`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client.aiohttp import make_aiohttp_handler

from relay.auth import CHALLENGE, Authenticator
from relay.errors import ConfigError, StoreError
from relay.listener import SERVER, error_response, json_response
from relay.metrics import Metrics
from relay.store import Store

_OPEN_PATHS = frozenset({"/-/healthy", "/-/ready"})  # for probes, which carry no credentials
_BACKLOG_SECONDS = 5.0  # then a scrape goes without
_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})


class Admin:
    """The handlers of the admin listener. `authenticator` may be set at any time; None lets everybody in."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        now: Callable[[], float],
        not_ready: Callable[[], Awaitable[str | None]],
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        """Make the handlers.

        Args:
            store: whose backlog is shown.
            metrics: to be rendered.
            now: the clock.
            not_ready: returns why no webhook can be accepted, None if one can.
            reload: takes the configuration anew, or raises ConfigError.
        """
        self.authenticator: Authenticator | None = None
        self._store = store
        self._metrics = metrics
        self._now = now
        self._not_ready = not_ready
        self._reload = reload
        self._render = make_aiohttp_handler(metrics.registry)

    def application(self) -> web.Application:
        """Return the application, to be served once."""
        application = web.Application(
            middlewares=[_errors_as_json, self._authenticated, _same_origin], client_max_size=64 << 10
        )
        application.add_routes(
            [
                web.get("/metrics", self._get_metrics),
                web.get("/-/healthy", self._get_healthy),
                web.get("/-/ready", self._get_ready),
                web.post("/-/reload", self._post_reload),
            ]
        )
        return application

    @web.middleware
    async def _authenticated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.authenticator is not None and request.path not in _OPEN_PATHS:  # noqa: SIM102
            if not await self.authenticator.authenticate(request):
                return error_response(
                    401, "credentials are missing or wrong", {hdrs.WWW_AUTHENTICATE: CHALLENGE}
                )
        return await handler(request)

    async def _get_metrics(self, request: web.Request) -> web.StreamResponse:
        try:
            backlog = await asyncio.wait_for(self._store.backlog(), _BACKLOG_SECONDS)
        except (StoreError, TimeoutError):
            backlog = {}  # the counters are worth having even then; readiness tells the rest
        now = self._now()
        for destination, owed in backlog.items():
            for state, number in owed.counts.items():
                self._metrics.backlog.labels(destination, state.value).set(number)
            age = 0.0 if owed.oldest_accepted_at is None else max(0.0, now - owed.oldest_accepted_at)
            self._metrics.oldest_age.labels(destination).set(age)
        return await self._render(request)

    async def _get_healthy(self, _request: web.Request) -> web.StreamResponse:
        return json_response(200, '{"status": "healthy"}')

    async def _get_ready(self, _request: web.Request) -> web.StreamResponse:
        reason = await self._not_ready()
        return json_response(200, '{"status": "ready"}') if reason is None else error_response(503, reason)

    async def _post_reload(self, _request: web.Request) -> web.StreamResponse:
        try:
            await self._reload()
        except ConfigError as error:
            return json_response(
                422, json.dumps({"error": "the configuration is invalid", "problems": error.problems})
            )
        return json_response(200, '{"status": "reloaded"}')


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPMethodNotAllowed as error:
        return error_response(405, "this method is not allowed here", {hdrs.ALLOW: error.headers[hdrs.ALLOW]})
    except web.HTTPException as error:
        return error_response(error.status, error.reason.lower())
    response.headers[hdrs.SERVER] = SERVER
    return response


@web.middleware
async def _same_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a page of another site makes a browser send (Sec-Fetch-Site, else Origin against Host)."""
    if request.method not in _SAFE_METHODS:
        site = request.headers.get("Sec-Fetch-Site")
        origin = request.headers.get(hdrs.ORIGIN)
        foreign = (
            site not in {"same-origin", "none"}
            if site is not None
            else origin is not None and origin.partition("//")[2] != request.host
        )
        if foreign:
            return error_response(403, "requests from other sites are refused")
    return await handler(request)
