"""Order: where is our delivery note? All events of one order, and what every destination answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from aiohttp import web

from relay.admin.answers import Code, RefusedError
from relay.admin.pages.course import kinds, order_ids
from relay.admin.pages.site import Site
from relay.admin.pages.states import DELIVERY_STATES
from relay.admin.parameters import MAX_TEXT, UNSTORABLE
from relay.store.repair import AttemptRecord, EventRecord, Filter, Page

MAX_EVENTS = 100
MAX_IDS = 4  # of an order, ITscope's and our own
MAX_PAGES = 10  # of a search


class OrderPage:
    """The course of one order, in order of acceptance."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.get("/orders/{id:[^/]+}", self._get)]

    async def _get(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        events, more = await self._order(id_) if _is_storable(id_) else ([], False)
        if not events:
            raise RefusedError(Code.NOT_FOUND, "no event has this id; it may not have come, or be deleted")
        return await self._site.page(
            request,
            "order.html",
            id=id_,
            ids=order_ids(events),
            events=events,
            more=more,
            kinds=kinds(events),
            attempts=await self._attempts(events),
            delivery_states=DELIVERY_STATES,
        )

    async def _order(self, id_: str) -> tuple[list[EventRecord], bool]:
        """Return the events of the order that an id belongs to, the first first; whether there are more."""
        found, more = await self._having([id_])
        rest = [other for other in order_ids(found.values()) if other != id_]
        others, more_others = await self._having(rest[:MAX_IDS])
        events = sorted((found | others).values(), key=lambda event: (event.received_at, event.id))
        # What came last says where things stand.
        return events[-MAX_EVENTS:], more or more_others or len(events) > MAX_EVENTS

    async def _having(self, ids: Iterable[str]) -> tuple[dict[int, EventRecord], bool]:
        """Return the newest events with any of some ids, by their numbers; whether there are more."""
        found: dict[int, EventRecord] = {}
        more = False
        for id_ in ids:
            cursor, left = None, MAX_EVENTS
            for _ in range(MAX_PAGES):
                page = await self._site.store.find_events(Filter(any_id=id_), Page(left, cursor))
                found |= {event.id: event for event in page.items}
                left -= len(page.items)
                cursor = page.next
                if cursor is None or left <= 0:
                    break
            more = more or cursor is not None
        return found, more

    async def _attempts(self, events: Iterable[EventRecord]) -> Mapping[int, tuple[AttemptRecord, ...]]:
        """Return the attempts of all deliveries of some events."""
        read = await asyncio.gather(*(self._site.store.read_attempts(event.id) for event in events))
        return {delivery: attempts for one in read for delivery, attempts in one.items()}


def _is_storable(id_: str) -> bool:
    """Tell whether any event could have an id; the stores take no other text."""
    return len(id_) <= MAX_TEXT and not UNSTORABLE.search(id_)
