"""Dead letters: by destination and reason, one by one, and the repairs of all that a filter finds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from relay.admin.changing import DEFAULT_PACE, replay_of, sweep_of
from relay.admin.pages.asked import query_of
from relay.admin.pages.meant import MeantQuery, choices, given
from relay.admin.pages.site import Site
from relay.admin.pages.sweeping import Action, DiscardForm, ReplayForm, Sweeping, body_of
from relay.admin.pages.words import word
from relay.admin.parameters import DiscardBody, ReplayBody
from relay.model import DeliveryState
from relay.repair import Step
from relay.store.repair import AttemptRecord, DeliveryRecord, Page

LIMIT = 25
_DEAD = DeliveryState.DEAD.value


class DeadPage:
    """What couldn't be delivered, and is kept until somebody says what is to become of it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._sweeps = (
            Sweeping(
                site,
                Action("replay", "/dead", word("Deliver again"), ReplayForm, ("pace",), self._replay),
            ),
            Sweeping(
                site, Action("discard", "/dead", word("Discard"), DiscardForm, ("reason",), self._discard)
            ),
        )

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [
            web.get("/dead", self._get),
            *(route for sweep in self._sweeps for route in sweep.routes()),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        query, now = query_of(request, MeantQuery), self._site.now()
        wanted = query.filter(_DEAD, now)
        counts = await self._site.store.count_dead()
        found = await self._site.store.find_deliveries(wanted, Page(LIMIT, query.cursor))
        asked = given(request.query)
        names = {*self._site.config().destinations, *(group.key[0] or "" for group in counts.groups)}
        return await self._site.page(
            request,
            "dead.html",
            asked=asked,
            is_first=query.cursor is None,
            counts=counts,
            found=found,
            last=await self._last_attempts(found.items),
            choices=choices(asked, sorted(names)),
            pace=DEFAULT_PACE,
        )

    async def _last_attempts(self, deliveries: Iterable[DeliveryRecord]) -> dict[int, AttemptRecord]:
        """Return the last attempt of each of some deliveries that was tried at all."""
        events = {delivery.event for delivery in deliveries}
        read = await asyncio.gather(*(self._site.store.read_attempts(event) for event in events))
        return {delivery: tries[-1] for one in read for delivery, tries in one.items() if tries}

    async def _replay(self, who: str, fields: Mapping[str, Any], form: ReplayForm) -> Step:
        body = body_of(ReplayBody, fields, _DEAD, pace=form.pace)
        return await self._site.repairs.replay(*replay_of(who, body, self._site.now()))

    async def _discard(self, who: str, fields: Mapping[str, Any], form: DiscardForm) -> Step:
        body = body_of(DiscardBody, fields, _DEAD, reason=form.reason)
        sweep = sweep_of(who, "discard", body, self._site.now())
        return await self._site.repairs.discard(sweep, body.reason)
