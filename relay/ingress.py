"""Where ITscope posts to: authenticate, read, parse, route, store, and only then answer.

Owns the answers of the public listener and the bounds on what a client may send. The dispatcher is known
only as `lanes`: whether a delivery can start at once, and what to do once it is stored.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from aiohttp import hdrs, web

from relay import payload as payloads
from relay.answer import Answer
from relay.auth import CHALLENGE, Authenticator
from relay.errors import BadPayloadError, StoreError, TooManyLoginsError
from relay.listener import JSON
from relay.metrics import NO_SOURCE, Metrics, Tally, event_type_label
from relay.model import Acceptance, Delivery, Event, Owed, Quarantined, References
from relay.routing import Route, Router
from relay.store import Store
from relay.wire import header_text

_log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = "5"
_PARSED_ASIDE_FROM_BYTES = 64 << 10
_quoted = json.JSONEncoder().encode
_UNORDERED = {claim: Owed(claim) for claim in (False, True)}
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Reservation(Protocol):
    """Room kept for the deliveries of one event, until it is known whether it was stored."""

    @property
    def claims(self) -> Collection[str]:
        """The destinations whose delivery is to be claimed at once."""
        ...

    def settle(self, claimed: Iterable[Delivery]) -> None:
        """Start what was stored and claimed, and give back what room is left."""
        ...


class Lanes(Protocol):
    """What the ingress needs of the dispatcher."""

    def reserve(self, destinations: Iterable[str], size: int) -> Reservation:
        """Keep room for an event's deliveries where there is some."""
        ...

    def notice(self, destinations: Iterable[str], *, fresh: bool) -> None:
        """Learn that the store has first attempts, or others, for these destinations."""
        ...


@dataclass(frozen=True, slots=True)
class IngressConfig:
    """All of one configuration that the ingress needs, made ready once.

    Attributes:
        order_by: the field of the payload by which a destination is delivered in order, where it has one.
    """

    paths: Mapping[str, str]
    authenticators: Mapping[str, Authenticator]
    router: Router
    order_by: Mapping[str, str]
    max_body: int
    body_timeout_seconds: float


class _RefusedError(Exception):
    """A request ends with this answer."""

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, *, closes: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers
        self.closes = closes  # the connection, as nobody knows where the next request begins


class Ingress:
    """The public listener's handler. `config` and `draining` may be set at any time."""

    def __init__(
        self, config: IngressConfig, store: Store, lanes: Lanes, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self.config = config
        self.draining = False
        self.idle = asyncio.Event()
        """Set while no request is under way."""
        self.idle.set()
        self._under_way = 0
        self._store = store
        self._lanes = lanes
        self._now = now
        self._tally = Tally(asyncio.get_running_loop())
        # Looking a child up costs more than counting. There are few: labels are of closed sets.
        self._requests = cache(metrics.requests.labels)
        self._events = cache(metrics.events.labels)
        self._matches = cache(metrics.route_matches.labels)
        self._unrouted = metrics.unrouted
        self._last_event_at = metrics.last_event_at

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        config = self.config
        source = config.paths.get(request.path, NO_SOURCE)
        self._under_way += 1
        self.idle.clear()
        try:
            response = await self._accept(request, config, source)
        except _RefusedError as refused:
            response = _refusal(refused.status, refused.message, refused.headers)
            if refused.closes:
                response.force_close()
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.idle.set()
        if self.draining:
            response.force_close()
        self._tally.add(self._requests(source, response.status))
        return response

    def refuse(self, status: int, message: str) -> Answer:
        """Return the answer to what isn't HTTP, or where `handle` failed."""
        self._requests(NO_SOURCE, status).inc()
        return _refusal(status, message)

    async def _accept(self, request: web.BaseRequest, config: IngressConfig, source: str) -> Answer:
        self._admit(request, source)
        authenticator = config.authenticators[source]
        if not authenticator.remembers(request):  # or else without a coroutine, since nearly all are
            await _authenticate(request, authenticator)
        try:
            body = await _read(request, config)
        except _RefusedError as refused:  # what carried right credentials isn't lost without a word
            fields = {"source": source, "status": refused.status, "error": str(refused)}
            _log.warning("request.refused", extra={"fields": fields})
            raise
        content_type = header_text(request.headers.get(hdrs.CONTENT_TYPE, JSON))
        now = self._now()
        try:
            if len(body) < _PARSED_ASIDE_FROM_BYTES:
                payload = payloads.parse(body)
            else:  # beside the event loop, so that nobody waits for it
                payload = await asyncio.to_thread(payloads.parse, body)
        except BadPayloadError as error:
            await self._quarantine(
                Quarantined(source, now, error.reason, str(error), content_type, body), event_type=None
            )
            raise _RefusedError(400, str(error)) from error
        event = Event(
            source,
            payloads.event_id(payload, body),
            now,
            content_type,
            payloads.kept_text(payload, "eventType"),
            payloads.kept_text(payload, "transactionStatus"),
            _trace_id(request),
            body,
        )
        routes, destinations = config.router.matching(source, payload)
        order_by = config.order_by
        keys = {
            name: payloads.order_key(payload, order_by[name]) if name in order_by else None
            for name in destinations
        }
        return await self._store_event(event, payloads.references(payload), keys, routes)

    def _admit(self, request: web.BaseRequest, source: str) -> None:
        """Refuse what needs no look at credentials or body."""
        if source == NO_SOURCE:
            raise _RefusedError(404, "there is nothing at this path")
        if request.method != hdrs.METH_POST:
            raise _RefusedError(405, "only POST is allowed", {hdrs.ALLOW: hdrs.METH_POST})
        if self.draining:
            raise _unavailable("the relay is stopping; try again")

    async def _store_event(
        self,
        event: Event,
        references: References,
        order_keys: Mapping[str, str | None],
        routes: Sequence[Route],
    ) -> Answer:
        """Store an event for the destinations that have an order key, or None, and answer.

        Args:
            event: to be stored.
            references: what else it can be found by.
            order_keys: by destination.
            routes: that match the event.
        """
        room = self._lanes.reserve(order_keys, len(event.body))
        claims = room.claims
        owed = {
            name: _UNORDERED[name in claims] if key is None else Owed(name in claims, key)
            for name, key in order_keys.items()
        }
        claimed: Sequence[Delivery] = ()
        try:
            acceptance = await self._store.accept(event, references, owed)
            claimed = acceptance.claimed
        except StoreError as error:
            _log.warning("event.not_stored", extra={"fields": {"source": event.source, "error": str(error)}})
            raise _unavailable("the relay can't store this now; try again") from error
        finally:
            room.settle(claimed)
        if acceptance.duplicate:
            # What came with it may have been about to wait for it, and doesn't.
            self._lanes.notice([name for name, one in owed.items() if one.order_key is not None], fresh=True)
            return await self._answer_duplicate(event, acceptance)
        self._lanes.notice([name for name, one in owed.items() if not one.claim], fresh=True)
        for route in routes:
            self._tally.add(self._matches(route.name))
        return self._answer_accepted(event, owed)

    def _answer_accepted(self, event: Event, destinations: Collection[str]) -> Answer:
        self._count(event.source, event.event_type, "accepted")
        self._last_event_at[event.source] = event.received_at
        if not destinations:
            self._unrouted.labels(event.source).inc()
            _log.warning("event.unrouted", extra={"fields": _fields(event)})
        elif _log.isEnabledFor(logging.DEBUG):
            fields = {**_fields(event), "destinations": [*destinations]}
            _log.debug("event.accepted", extra={"fields": fields})
        return Answer(
            200,
            f'{{"status": "accepted", "eventId": {_quoted(event.event_id)},'
            f' "deliveries": {len(destinations)}}}',
        )

    async def _answer_duplicate(self, event: Event, acceptance: Acceptance) -> Answer:
        if acceptance.conflicting:
            detail = f"another body came before with the eventId {event.event_id}"
            await self._quarantine(
                Quarantined(
                    event.source,
                    event.received_at,
                    "conflicting-duplicate",
                    detail,
                    event.content_type,
                    event.body,
                ),
                event_type=event.event_type,
            )
        self._count(event.source, event.event_type, "duplicate")
        _log.info("event.duplicate", extra={"fields": _fields(event)})
        return Answer(200, f'{{"status": "duplicate", "eventId": {_quoted(event.event_id)}}}')

    async def _quarantine(self, request: Quarantined, event_type: str | None) -> None:
        try:
            await self._store.quarantine(request)
        except StoreError as error:
            raise _unavailable("the relay can't store this now; try again") from error
        self._count(request.source, event_type, "quarantined")
        _log.warning(
            "request.quarantined",
            extra={
                "fields": {"source": request.source, "reason": request.reason, "bytes": len(request.body)}
            },
        )

    def _count(self, source: str, event_type: str | None, outcome: str) -> None:
        self._tally.add(self._events(source, event_type_label(event_type), outcome))


async def _authenticate(request: web.BaseRequest, authenticator: Authenticator) -> None:
    """Refuse a request without right credentials."""
    try:
        right = await authenticator.authenticate(request)
    except TooManyLoginsError as error:
        raise _unavailable(str(error)) from error
    if not right:
        raise _RefusedError(401, "credentials are missing or wrong", {hdrs.WWW_AUTHENTICATE: CHALLENGE})


async def _read(request: web.BaseRequest, config: IngressConfig) -> bytes:
    """Return the whole body, bounded in size and time."""
    for encoding in request.headers.getall(hdrs.CONTENT_ENCODING, ()):
        if encoding.lower() != "identity":
            raise _RefusedError(415, "a Content-Encoding is not supported")
    content = request.content
    try:
        if content.is_eof():
            body: bytes = content.read_nowait()  # came with the head, as small bodies do
        else:
            body = await _read_slowly(request, config)
    except TimeoutError as error:
        raise _RefusedError(408, "the body took too long", closes=True) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise _RefusedError(400, "the body is not valid HTTP", closes=True) from error
    if len(body) > config.max_body:
        raise _too_large(config.max_body)
    return body


async def _read_slowly(request: web.BaseRequest, config: IngressConfig) -> bytes:
    """Return the body as it arrives, at most a chunk more of it than is allowed."""
    if (request.content_length or 0) > config.max_body:
        raise _too_large(config.max_body)
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer; the real one is still to come
    body = bytearray()
    async with asyncio.timeout(config.body_timeout_seconds):
        while len(body) <= config.max_body and (chunk := await request.content.readany()):
            body += chunk
    return bytes(body)


def _trace_id(request: web.BaseRequest) -> str:
    """Return the trace that the sender is in, or a new one."""
    given = request.headers.get("traceparent")
    if given is not None and (trace := _TRACEPARENT.fullmatch(given)):
        return trace[1]
    return f"{random.getrandbits(128) or 1:032x}"


def _fields(event: Event) -> dict[str, Any]:
    return {
        "source": event.source,
        "event_id": event.event_id,
        "event_type": event.event_type,
        "status": event.transaction_status,
    }


def _refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error answer: one sentence, and nothing about the inside."""
    return Answer(status, json.dumps({"error": message}), headers)


def _unavailable(message: str) -> _RefusedError:
    return _RefusedError(503, message, {hdrs.RETRY_AFTER: RETRY_AFTER_SECONDS})


def _too_large(max_body: int) -> _RefusedError:
    return _RefusedError(413, f"the body is larger than {max_body} bytes", closes=True)
