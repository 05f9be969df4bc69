"""Routes: the configuration in force, how often each route matched, and where a payload would go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from aiohttp import web
from pydantic import Field

from relay.admin.pages import settings
from relay.admin.pages.asked import Asked, form_of
from relay.admin.pages.site import Site
from relay.admin.pages.states import FINDINGS
from relay.admin.parameters import MAX_BODY_BYTES, QueryTruth, Text
from relay.errors import BadPayloadError
from relay.payload import parse
from relay.routing import Explanation, Route, Router
from relay.samples import DOCUMENTED_SAMPLE, one_of_each, webhook

DAYS = 14
KEPT_DAYS = 30  # of the counts: since when there are any
HEIGHT = 24  # of the chart, in its own units


class TryForm(Asked):
    """The payload to be tried. `take`: the sample instead of it."""

    source: Text | None = None
    take: QueryTruth = False
    sample: Text | None = None
    payload: Annotated[str, Field(max_length=MAX_BODY_BYTES)] | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What was tried. `problem`: why it is no payload; then there are no findings."""

    source: str
    payload: str
    problem: str | None
    findings: Sequence[Explanation] = ()
    destinations: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Used:
    """How often a route matched. `days`: of the last ones, the oldest first, each with its bar's height."""

    route: Route
    total: int
    days: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """How often all routes matched. `since`: the first day with a count, None where there is none yet."""

    routes: tuple[Used, ...]
    since: str | None


class RoutesPage:
    """The routes, and what they say of a payload."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.get("/routes", self._get), web.post("/routes/try", self._try)]

    async def _get(self, request: web.Request) -> web.Response:
        return await self._page(request, None)

    async def _try(self, request: web.Request) -> web.Response:
        form = await form_of(request, TryForm)
        source = form.source or next(iter(self._site.config().sources))
        payload = sample(form.sample) if form.take or form.payload is None else form.payload
        router = self._site.repairs.config.router
        return await self._page(request, await asyncio.to_thread(tried, router, source, payload))

    async def _page(self, request: web.Request, tried_: Tried | None) -> web.Response:
        config, today = self._site.config(), datetime.fromtimestamp(self._site.now(), UTC)
        first_day = f"{today - timedelta(days=KEPT_DAYS):%Y-%m-%d}"
        matches = await self._site.store.read_matches(first_day)
        days = [f"{today - timedelta(days=ago):%Y-%m-%d}" for ago in reversed(range(DAYS))]
        return await self._site.page(
            request,
            "routes.html",
            here="/routes",
            address="/routes",
            tried=tried_,
            findings=FINDINGS,
            samples=samples(),
            sources=settings.sources(config),
            destinations=settings.destinations(config),
            routes=config.routes,
            conditions=settings.conditions,
            usage=usage(config.routes, matches, days),
            days=days,
        )


def tried(router: Router, source: str, text: str) -> Tried:
    """Return what the routes say of a payload, as the command `route` does."""
    try:
        fields = parse(text.encode())
    except BadPayloadError as error:
        return Tried(source, text, str(error))
    return Tried(source, text, None, router.explain(source, fields), router.destinations(source, fields))


def samples() -> list[tuple[str, str]]:
    """Return the names of the samples, each with the text for it."""
    return [(f"{kind} {status}", f"{kind} · {status}") for kind, status in one_of_each()]


def sample(name: str | None) -> str:
    """Return the payload of a sample; the documented one where there is none of this name."""
    found = {f"{kind} {status}": (kind, status) for kind, status in one_of_each()}.get(name or "")
    return DOCUMENTED_SAMPLE.decode() if found is None else webhook(*found).decode()


def usage(routes: Sequence[Route], matches: Mapping[tuple[str, str], int], days: Sequence[str]) -> Usage:
    """Return how often each route matched on some days, of matches by (day, route)."""
    since = min((day for day, _ in matches), default=None)
    return Usage(tuple(_used(route, matches, days) for route in routes), since)


def _used(route: Route, matches: Mapping[tuple[str, str], int], days: Sequence[str]) -> Used:
    numbers = [matches.get((day, route.name), 0) for day in days]
    most = max(numbers)
    heights = [max(1.5, round(HEIGHT * number / most, 2)) if number else 0.0 for number in numbers]
    return Used(route, sum(numbers), tuple(zip(days, numbers, heights, strict=True)))
