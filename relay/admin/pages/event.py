"""Event: its payload, why it went where it went, what each destination answered, and the repairs of it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from aiohttp import web

from relay.admin.answers import Code, RefusedError
from relay.admin.pages import shown
from relay.admin.pages.asked import GoBack, form_of, local_path
from relay.admin.pages.course import newest_deliveries, order_ids
from relay.admin.pages.site import Site
from relay.admin.pages.states import DELIVERY_STATES, FINDINGS
from relay.admin.parameters import OPERATOR, Reason, Text, id_of
from relay.model import DeliveryState
from relay.repair import legible
from relay.routing import Explanation, Router
from relay.store.changing import DISCARDABLE, UNDER_WAY
from relay.store.repair import DeliveryRecord, EventRecord


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload as a page shows it, the beginning of a large one. `readable` is None where it is no JSON."""

    raw: shown.Cut
    readable: str | None
    size: int


class ReplayForm(GoBack):
    """The form that delivers again.

    Attributes:
        confirmed: the last delivery that was delivered there, where that was said and agreed to.
    """

    confirmed: Text | None = None


class DiscardForm(GoBack):
    """The form that gives up a delivery."""

    reason: Reason


class EventPage:
    """One event, and what can be done with its deliveries by hand."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [
            web.get("/events/{id:[^/]+}", self._get),
            web.post("/deliveries/{id}/replay", self._replay),
            web.post("/deliveries/{id}/discard", self._discard),
            web.post("/deliveries/{id}/skip", self._skip),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        id_ = id_of(request, "event")
        event = await self._site.store.read_event(id_)
        if event is None:
            raise RefusedError(Code.NOT_FOUND, f"there is no event {id_}")
        config = self._site.repairs.config
        payload, routes = await asyncio.to_thread(_looked_at, event, config.router)
        return await self._site.page(
            request,
            "event.html",
            event=event,
            deliveries=_by_destination(event),
            order=next(iter(order_ids([event])), None),
            payload=payload,
            routes=routes,
            attempts=await self._site.store.read_attempts(event.id),
            can={one.id: _possible(one, event, config.destinations) for one in event.deliveries},
            delivery_states=DELIVERY_STATES,
            findings=FINDINGS,
        )

    async def _replay(self, request: web.Request) -> web.Response:
        form, id_ = await form_of(request, ReplayForm), id_of(request, "delivery")
        delivery, event = await self._site.repairs.find_delivery(id_)
        delivered = _delivered(event, delivery.destination)
        if delivered is not None and form.confirmed != str(delivered.id):
            return await self._ask(request, form, event, delivered)
        await self._site.repairs.replay_one(request[OPERATOR], id_)
        return await self._go_back(request, form, id_, "replayed")

    async def _ask(
        self, request: web.Request, form: ReplayForm, event: EventRecord, delivered: DeliveryRecord
    ) -> web.Response:
        """Ask whether to deliver again what a destination has got already, and may book twice."""
        back = local_path(form.back, shown.path("events", event.id))
        return await self._site.page(
            request, "again.html", address=back, back=back, event=event, delivered=delivered
        )

    async def _discard(self, request: web.Request) -> web.Response:
        form, id_ = await form_of(request, DiscardForm), id_of(request, "delivery")
        await self._site.repairs.discard_one(request[OPERATOR], id_, form.reason)
        return await self._go_back(request, form, id_, "discarded")

    async def _skip(self, request: web.Request) -> web.Response:
        form, id_ = await form_of(request, GoBack), id_of(request, "delivery")
        await self._site.repairs.skip_one(request[OPERATOR], id_)
        return await self._go_back(request, form, id_, "skipped")

    async def _go_back(self, request: web.Request, form: GoBack, id_: int, done: str) -> web.Response:
        delivery, _ = await self._site.repairs.find_delivery(id_)
        to = local_path(form.back, shown.path("events", delivery.event))
        return self._site.go_on(request, to, done)


def _delivered(event: EventRecord, destination: str) -> DeliveryRecord | None:
    """Return the last delivery of an event that a destination took."""
    sent = [one for one in event.deliveries if one.destination == destination]
    return next((one for one in reversed(sent) if one.state is DeliveryState.DELIVERED), None)


def _by_destination(event: EventRecord) -> list[DeliveryRecord]:
    """Return an event's deliveries in the order of its destinations, of each the newest first."""
    places = {one.destination: place for place, one in reversed(list(enumerate(event.deliveries)))}
    return sorted(event.deliveries, key=lambda one: (places[one.destination], -one.id))


def _looked_at(event: EventRecord, router: Router) -> tuple[Payload, list[Explanation]]:
    """Return an event's payload for people, and what the routes say of it now."""
    body = event.body or b""
    raw = shown.cut(body.decode(errors="replace"), shown.MAX_PAYLOAD)
    given = legible(body)
    readable = shown.visible(shown.readable_json(raw.text)) if given else None
    return Payload(raw, readable, len(body)), router.explain(event.source, given)


def _possible(delivery: DeliveryRecord, event: EventRecord, configured: Collection[str]) -> set[str]:
    """Return what may be done with a delivery by hand, as far as can be told beforehand."""
    is_newest = delivery in newest_deliveries(event)
    possible = set()
    if delivery.destination in configured and is_newest and delivery.state not in UNDER_WAY:
        possible.add("replay")
    if delivery.state in DISCARDABLE:
        possible.add("discard")
    if delivery.state is DeliveryState.DEAD and delivery.order_key is not None:
        possible.add("skip")
    return possible
