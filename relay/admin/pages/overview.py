"""The overview: is everything flowing? Its live part asks for itself again and again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from relay.admin.pages.asked import GoBack, form_of, is_htmx, local_path
from relay.admin.pages.chart import Chart, chart
from relay.admin.pages.site import Site
from relay.admin.pages.states import WAITING, Shown, lane_state
from relay.admin.parameters import OPERATOR
from relay.model import DeliveryState, LaneState
from relay.store import Backlog
from relay.store.repair import Counts

COUNTS_SECONDS = 3.0  # however many browsers look


@dataclass(frozen=True, slots=True)
class Lane:
    """One destination on the overview. Instants are seconds since 1970."""

    name: str
    state: Shown
    paused_at: float | None
    held_until: float | None
    probe_at: float | None
    waiting: int
    dead: int
    oldest_at: float | None
    chart: Chart

    @property
    def rest_at(self) -> float | None:
        """When it began to rest, or will go on; None if it doesn't rest."""
        return next((at for at in (self.paused_at, self.probe_at, self.held_until) if at is not None), None)

    @property
    def rests(self) -> bool:
        """Whether somebody should look: nothing is sent to it, it takes nothing, or something is dead."""
        return self.dead > 0 or self.state is WAITING or self.state[0] in {"bad", "warn"}


@dataclass(frozen=True, slots=True)
class Number:
    """How many there are; `more`: at least so many."""

    number: int
    more: bool


class OverviewPage:
    """Each destination's lane, each source's last event, and what waits for an operator."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._counting = asyncio.Lock()
        self._counted: tuple[float, Number, Number] = (float("-inf"), Number(0, False), Number(0, False))

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [
            web.get("/", self._get),
            web.post("/destinations/{name}/pause", self._pause),
            web.post("/destinations/{name}/resume", self._resume),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        lanes = await self._lanes()
        unrouted, quarantined = await self._counts()
        return await self._site.page(
            request,
            "_overview.html" if is_htmx(request) else "overview.html",
            lanes=lanes,
            sources=await self._sources(),
            dead=sum(lane.dead for lane in lanes),
            unrouted=unrouted,
            quarantined=quarantined,
            resting=sum(lane.rests for lane in lanes),
        )

    async def _pause(self, request: web.Request) -> web.Response:
        form = await form_of(request, GoBack)
        await self._site.repairs.pause(request[OPERATOR], request.match_info["name"])
        return self._site.go_on(request, local_path(form.back), "paused")

    async def _resume(self, request: web.Request) -> web.Response:
        form = await form_of(request, GoBack)
        await self._site.repairs.resume(request[OPERATOR], request.match_info["name"])
        return self._site.go_on(request, local_path(form.back), "resumed")

    async def _lanes(self) -> list[Lane]:
        """Return what is configured, and what is paused or owed something all the same."""
        store = self._site.store
        backlog, paused = await store.backlog(), await store.paused()
        states = self._site.repairs.lanes.states()
        owed = [name for name, one in backlog.items() if any(one.counts.values())]
        names = dict.fromkeys([*states, *sorted({*owed, *paused})])
        return [self._lane(name, states.get(name), paused.get(name), backlog.get(name)) for name in names]

    def _lane(self, name: str, lane: LaneState | None, paused_at: float | None, owed: Backlog | None) -> Lane:
        counts = owed.counts if owed else {}
        pending = counts.get(DeliveryState.PENDING, 0)
        in_flight = counts.get(DeliveryState.IN_FLIGHT, 0)
        return Lane(
            name=name,
            state=lane_state(lane, paused_at, in_flight=in_flight, pending=pending),
            paused_at=paused_at,
            held_until=lane.held_until if lane else None,
            probe_at=lane.probe_at if lane else None,
            waiting=pending + in_flight,
            dead=counts.get(DeliveryState.DEAD, 0),
            oldest_at=owed.oldest_accepted_at if owed else None,
            chart=chart(self._site.history.of(name), self._site.now()),
        )

    async def _sources(self) -> dict[str, float | None]:
        """Return when the newest event of each source came; None where there is none, or none lately."""
        last = await self._site.store.last_events()
        return dict.fromkeys(self._site.config().sources) | dict(sorted(last.items()))

    async def _counts(self) -> tuple[Number, Number]:
        """Return how much is unrouted and in quarantine, as it was a moment ago."""
        async with self._counting:
            at, *_ = self._counted
            loop_time = asyncio.get_running_loop().time()
            if loop_time - at > COUNTS_SECONDS:
                unrouted = _number(await self._site.store.count_unrouted())
                quarantined = _number(await self._site.store.count_quarantined())
                self._counted = loop_time, unrouted, quarantined
            return self._counted[1:]


def _number(counts: Counts) -> Number:
    return Number(sum(group.number for group in counts.groups), counts.more)
