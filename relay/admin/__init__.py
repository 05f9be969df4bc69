"""The listener for operators and Prometheus: metrics, health, readiness, reload, and the API.

Never on the public port. Owns who may use it; what a reload or readiness means is handed in by `app`, and
what may be repaired is `repair`'s. `reading` and `changing` have the API's handlers, `parameters` what they
take, `representation` what they give, `openapi` its description. `pages` are for people.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.exposition import choose_encoder

from relay.admin.answers import Code, errors_as_json, json_response, refusal, refuse
from relay.admin.changing import Changing
from relay.admin.pages import Pages, Site
from relay.admin.parameters import MAX_BODY_BYTES, MAX_LINE_BYTES, OPERATOR, ROLE
from relay.admin.reading import Reading
from relay.auth import CHALLENGE, Authenticator
from relay.config import Config, Role
from relay.errors import ConfigError, StoreError
from relay.history import History
from relay.metrics import Metrics
from relay.repair import Repairs
from relay.store import Store

__all__ = ["ANONYMOUS", "MAX_LINE_BYTES", "Admin", "Process", "refuse"]

ANONYMOUS = "anonymous"  # who did it, where nobody has to log in
_OPEN_PATHS = frozenset({"/-/healthy", "/-/ready"})  # for probes, which carry no credentials
# Probes and Prometheus may use a name of their own, and find nothing there that is worth a trick.
_ANY_HOST_PATHS = _OPEN_PATHS | {"/metrics"}
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")
_BACKLOG_SECONDS = 5.0  # then a scrape goes without
# Of a reason, for whoever has no login. What PostgreSQL's client says after that names hosts and users.
_OWN_WORDS = re.compile(r"the database [^:]*(?:: no connection(?: is free)?)?")
_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
_HARMLESS_PATHS = frozenset({"/routes/try"})  # whatever the method, nothing changes


@dataclass(frozen=True, slots=True)
class Process:
    """What the admin listener asks of the relay itself.

    Attributes:
        not_ready: returns why no webhook can be accepted, None if one can.
        reload: takes the configuration anew, or raises ConfigError.
        config: returns the configuration in force.
        history: what became of the attempts of the last hour.
    """

    not_ready: Callable[[], Awaitable[str | None]]
    reload: Callable[[], Awaitable[None]]
    config: Callable[[], Config]
    history: History


class Admin:
    """The handlers of the admin listener.

    Both attributes may be set at any time, together.

    Attributes:
        authenticator: None lets everybody in, as operators.
        roles: by user name.
    """

    def __init__(
        self,
        repairs: Repairs,
        store: Store,
        metrics: Metrics,
        now: Callable[[], float],
        process: Process,
    ) -> None:
        """Make the handlers.

        Args:
            repairs: what the API changes.
            store: whose backlog is shown, and what the API reads.
            metrics: to be rendered.
            now: the clock.
            process: the relay itself.
        """
        self.authenticator: Authenticator | None = None
        self.roles: Mapping[str, Role] = {}
        self._reading = Reading(store, repairs, now)
        self._site = Site(store, repairs, now, process.config, process.history)
        self._routes = [
            *self._reading.routes(),
            *Changing(repairs, now).routes(),
            *Pages(self._site).routes(),
        ]
        self._store = store
        self._metrics = metrics
        self._now = now
        self._process = process
        self._render = make_aiohttp_handler(metrics.registry)

    def application(self) -> web.Application:
        """Return the application, to be served once."""
        application = web.Application(
            middlewares=[
                self._site.errors_as_pages,
                errors_as_json,
                self._authenticated,
                _same_origin,
            ],
            client_max_size=MAX_BODY_BYTES,
        )
        self._site.set_up(application)
        application.add_routes(
            [
                web.get("/metrics", self._get_metrics),
                web.get("/-/healthy", self._get_healthy),
                web.get("/-/ready", self._get_ready),
                web.post("/-/reload", self._post_reload),
                *self._routes,
            ]
        )
        return application

    @web.middleware
    async def _authenticated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[OPERATOR], request[ROLE] = ANONYMOUS, "operator"
        authenticator, roles = self.authenticator, self.roles  # a reload may come in between
        if authenticator is not None and request.path not in _OPEN_PATHS:
            if not await authenticator.authenticate(request):
                message = "credentials are missing or wrong"
                return refusal(Code.UNAUTHORIZED, message, {hdrs.WWW_AUTHENTICATE: CHALLENGE})
            credentials = authenticator.parse_auth_header(request)
            request[OPERATOR] = credentials.login if credentials else ANONYMOUS
            request[ROLE] = roles.get(request[OPERATOR], "viewer")
            if request[ROLE] == "viewer" and _would_change(request):
                return refusal(Code.FORBIDDEN, "viewers may only look")
        elif request.path not in _ANY_HOST_PATHS and not _is_meant_for_loopback(request):
            return refusal(
                Code.FORBIDDEN, "without admin.auth, only localhost or a loopback address may be the Host"
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
        return await self._render(request if _is_accept_readable(request) else request.clone(headers={}))

    async def _get_healthy(self, _request: web.Request) -> web.StreamResponse:
        return json_response(200, '{"status": "healthy"}')

    async def _get_ready(self, _request: web.Request) -> web.StreamResponse:
        reason = await self._process.not_ready()
        if reason is not None:
            own_words = _OWN_WORDS.match(reason)
            return refusal(Code.UNAVAILABLE, own_words[0] if own_words else reason)
        return json_response(200, '{"status": "ready"}')

    async def _post_reload(self, _request: web.Request) -> web.StreamResponse:
        try:
            await self._process.reload()
        except ConfigError as error:
            return refusal(Code.UNPROCESSABLE, "the configuration is invalid", problems=error.problems)
        return json_response(200, '{"status": "reloaded"}')


def _would_change(request: web.Request) -> bool:
    # As it was sent, which is what a handler is chosen by: decoded, another path might look harmless.
    return request.method not in _SAFE_METHODS and request.rel_url.raw_path not in _HARMLESS_PATHS


def _is_accept_readable(request: web.Request) -> bool:
    """Tell whether prometheus_client can read a request's Accept; on a version such as `abc` it fails."""
    try:
        choose_encoder(",".join(request.headers.getall(hdrs.ACCEPT, [])))
    except (TypeError, ValueError):
        return False
    return True


def _is_meant_for_loopback(request: web.Request) -> bool:
    """Tell whether a request names this machine as its Host, by `localhost` or a loopback address.

    A page can have its own name resolve to loopback (DNS rebinding), and then is of the same origin to its
    browser; but Host is still that name. Without logins, `admin.listen` is a loopback address as well.
    """
    hosts = request.headers.getall(hdrs.HOST, [])
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return False
    host = match[1].removeprefix("[").removesuffix("]").lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
            return refusal(Code.FORBIDDEN, "requests from other sites are refused")
    return await handler(request)
