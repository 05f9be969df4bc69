"""Unrouted: events that no route wanted, by kind and status, and their delivery after all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from relay.admin.changing import DEFAULT_PACE, replay_of
from relay.admin.pages.asked import query_of
from relay.admin.pages.meant import MeantQuery, choices, given
from relay.admin.pages.site import Site
from relay.admin.pages.sweeping import Action, ReplayForm, Sweeping, body_of
from relay.admin.pages.words import word
from relay.admin.parameters import UNROUTED, ReplayBody
from relay.payload import KNOWN_EVENT_TYPES
from relay.repair import Step
from relay.store.repair import Page

LIMIT = 50


class UnroutedPage:
    """What came, and was owed to nobody."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._sweep = Sweeping(
            site,
            Action("deliver", "/unrouted", word("Deliver"), ReplayForm, ("to", "pace"), self._deliver),
        )

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.get("/unrouted", self._get), *self._sweep.routes()]

    async def _get(self, request: web.Request) -> web.Response:
        query, now = query_of(request, MeantQuery), self._site.now()
        wanted = query.filter(UNROUTED, now)
        asked = given(request.query)
        return await self._site.page(
            request,
            "unrouted.html",
            asked=asked,
            is_first=query.cursor is None,
            counts=await self._site.store.count_unrouted(),
            found=await self._site.store.find_events(wanted, Page(LIMIT, query.cursor)),
            choices=choices(asked),
            known=KNOWN_EVENT_TYPES,
            destinations=list(self._site.config().destinations),
            pace=DEFAULT_PACE,
        )

    async def _deliver(self, who: str, fields: Mapping[str, Any], form: ReplayForm) -> Step:
        """Make one step, to the destination that was chosen, else to where the routes in force say."""
        body = body_of(ReplayBody, fields, UNROUTED, to=form.to, by_routes=form.to is None, pace=form.pace)
        return await self._site.repairs.replay(*replay_of(who, body, self._site.now()))
