"""The handlers of the API that only look."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

from relay.admin import representation
from relay.admin.answers import Code, RefusedError, json_response
from relay.admin.openapi import DOCUMENT
from relay.admin.parameters import (
    DeliveriesQuery,
    EventsQuery,
    Nothing,
    Paged,
    QuarantineQuery,
    id_of,
    query_of,
)
from relay.repair import Repairs
from relay.store import Store
from relay.store.repair import EventRecord, Filter, Page, QuarantineRecord

MAX_PAYLOAD_PAGES = 2  # under way at once, each of some megabytes
WRITE_SECONDS = 30.0  # then who doesn't read such a page loses the connection
_HEADERS = {hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"}


class Reading:
    """Events, deliveries, destinations, quarantine and changes, as they stand."""

    def __init__(self, store: Store, repairs: Repairs, now: Callable[[], float]) -> None:
        self._store = store
        self._repairs = repairs
        self._now = now
        self._payload_pages = asyncio.Semaphore(MAX_PAYLOAD_PAGES)

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [
            web.get("/api/v1/openapi.json", self._get_document),
            web.get("/api/v1/events", self._get_events),
            web.get("/api/v1/events/{id}", self._get_event),
            web.get("/api/v1/events/{id}/body", self._get_event_body),
            web.get("/api/v1/deliveries", self._get_deliveries),
            web.get("/api/v1/deliveries/{id}", self._get_delivery),
            web.get("/api/v1/destinations", self._get_destinations),
            web.get("/api/v1/quarantine", self._get_quarantine),
            web.get("/api/v1/quarantine/{id}", self._get_quarantined),
            web.get("/api/v1/quarantine/{id}/body", self._get_quarantined_body),
            web.get("/api/v1/changes", self._get_changes),
        ]

    async def _get_document(self, request: web.Request) -> web.Response:
        query_of(request, Nothing)
        return json_response(200, DOCUMENT, _HEADERS)

    async def _get_events(self, request: web.Request) -> web.Response:
        query = query_of(request, EventsQuery)
        wanted = query.filter(self._now())
        page = query.page(newest_first=query.order == "newest")
        if query.payload:
            return await self._send_payloads(request, wanted, page)
        found = await self._store.find_events(wanted, page)
        return answer({"events": list(map(representation.event_json, found.items)), "next": found.next})

    async def _send_payloads(self, request: web.Request, wanted: Filter, page: Page) -> web.Response:
        """Answer with a page of payloads; it counts as under way until the client has taken it."""
        async with self._payload_pages:
            found = await self._store.find_events(wanted, page, bodies=True)
            text = await asyncio.to_thread(representation.events_with_payload, found.items, found.next)
            response = json_response(200, text, _HEADERS)
            await _send(request, response)
            return response

    async def _get_event(self, request: web.Request) -> web.Response:
        event = await self._event(request)
        attempts = await self._store.read_attempts(event.id)
        router = self._repairs.config.router
        text = await asyncio.to_thread(representation.event_details, event, attempts, router)
        return json_response(200, text, _HEADERS)

    async def _get_event_body(self, request: web.Request) -> web.Response:
        event = await self._event(request)
        return _download(event.body, f"event-{event.id}")

    async def _event(self, request: web.Request) -> EventRecord:
        query_of(request, Nothing)
        id_ = id_of(request, "event")
        event = await self._store.read_event(id_)
        if event is None:
            raise RefusedError(Code.NOT_FOUND, f"there is no event {id_}")
        return event

    async def _get_deliveries(self, request: web.Request) -> web.Response:
        query = query_of(request, DeliveriesQuery)
        found = await self._store.find_deliveries(query.filter(self._now()), query.page())
        return answer(
            {"deliveries": list(map(representation.delivery_json, found.items)), "next": found.next}
        )

    async def _get_delivery(self, request: web.Request) -> web.Response:
        query_of(request, Nothing)
        delivery, _ = await self._repairs.find_delivery(id_of(request, "delivery"))
        attempts = await self._store.read_attempts(delivery.event)
        return answer(representation.delivery_json(delivery, attempts.get(delivery.id, ())))

    async def _get_destinations(self, request: web.Request) -> web.Response:
        """Answer with what is configured, and with what is paused or owed something all the same."""
        query_of(request, Nothing)
        backlog, paused = await self._store.backlog(), await self._store.paused()
        lanes = self._repairs.lanes.states()
        owed = [name for name, one in backlog.items() if any(one.counts.values())]
        names = dict.fromkeys([*lanes, *sorted({*owed, *paused})])
        found = [
            representation.destination_json(name, lanes.get(name), paused.get(name), backlog.get(name))
            for name in names
        ]
        return answer({"destinations": found})

    async def _get_quarantine(self, request: web.Request) -> web.Response:
        query = query_of(request, QuarantineQuery)
        found = await self._store.find_quarantined(query.source, query.page())
        return answer(
            {"quarantine": list(map(representation.quarantined_json, found.items)), "next": found.next}
        )

    async def _get_quarantined(self, request: web.Request) -> web.Response:
        return answer(representation.quarantined_json(await self._quarantined(request)))

    async def _get_quarantined_body(self, request: web.Request) -> web.Response:
        quarantined = await self._quarantined(request)
        return _download(quarantined.body, f"quarantined-{quarantined.id}")

    async def _quarantined(self, request: web.Request) -> QuarantineRecord:
        query_of(request, Nothing)
        id_ = id_of(request, "quarantined request")
        quarantined = await self._store.read_quarantined(id_)
        if quarantined is None:
            raise RefusedError(Code.NOT_FOUND, f"there is no quarantined request {id_}")
        return quarantined

    async def _get_changes(self, request: web.Request) -> web.Response:
        found = await self._store.find_changes(query_of(request, Paged).page())
        return answer({"changes": list(map(representation.change_json, found.items)), "next": found.next})


def answer(fields: dict[str, Any]) -> web.Response:
    """Return an answer of the API, which nobody is to keep."""
    return json_response(200, json.dumps(fields), _HEADERS)


async def _send(request: web.Request, response: web.Response) -> None:
    """Write an answer; a client that has gone, or doesn't read it in time, loses its connection."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.prepare(request)
            await response.write_eof()
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()


def _download(body: bytes | None, name: str) -> web.Response:
    """Return bytes that a stranger sent in a form that no browser shows or runs."""
    headers = {
        **_HEADERS,
        hdrs.CONTENT_TYPE: "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return web.Response(body=body or b"", headers=headers)
