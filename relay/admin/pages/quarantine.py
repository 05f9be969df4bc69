"""Quarantine: requests that were refused, and what is to become of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from aiohttp import web
from pydantic import Field

from relay.admin.answers import Code, RefusedError
from relay.admin.pages import shown
from relay.admin.pages.asked import Asked, form_of, query_of
from relay.admin.pages.site import Site
from relay.admin.pages.states import FINDINGS
from relay.admin.pages.words import word
from relay.admin.parameters import OPERATOR, Reason, StoreCursor, Text, id_of
from relay.repair import legible
from relay.routing import Explanation, Router
from relay.store.repair import Page, QuarantineRecord

LIMIT = 50
REASONS = {
    "not-utf-8": word("not UTF-8"),
    "not-json": word("not JSON"),
    "not-an-object": word("no JSON object"),
    "unstorable-text": word("text that can't be stored"),
    "too-deep": word("nested too deep"),
    "duplicate-keys": word("a key given twice"),
    "conflicting-duplicate": word("another body under the same id"),
}


class QuarantineQuery(Asked):
    """Which part of the list."""

    source: Text | None = None
    cursor: StoreCursor | None = None


class ReleaseForm(Asked):
    """Where a released request goes. `to`: for `chosen`."""

    LISTS: ClassVar[frozenset[str]] = frozenset({"to"})

    where: Literal["routes", "chosen"] = "routes"
    to: Annotated[list[Text], Field(default_factory=list, max_length=100)]


class DiscardForm(Asked):
    """Why a request is deleted."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Beginning:
    """What can be read of a body: its beginning, and where the routes would send it."""

    text: shown.Cut
    routes: list[Explanation]
    destinations: tuple[str, ...]


class QuarantinePage:
    """What was refused, and is kept."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [
            web.get("/quarantine", self._get),
            web.get("/quarantine/{id}", self._get_one),
            web.post("/quarantine/{id}/release", self._release),
            web.post("/quarantine/{id}/discard", self._discard),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        query = query_of(request, QuarantineQuery)
        return await self._site.page(
            request,
            "quarantine.html",
            asked={} if query.source is None else {"source": query.source},
            is_first=query.cursor is None,
            counts=await self._site.store.count_quarantined(),
            found=await self._site.store.find_quarantined(query.source, Page(LIMIT, query.cursor)),
            reasons=REASONS,
        )

    async def _get_one(self, request: web.Request) -> web.Response:
        id_ = id_of(request, "quarantined request")
        one = await self._site.store.read_quarantined(id_)
        if one is None:
            raise RefusedError(Code.NOT_FOUND, f"there is no quarantined request {id_}")
        config = self._site.repairs.config
        return await self._site.page(
            request,
            "quarantined.html",
            here="/quarantine",
            one=one,
            beginning=await asyncio.to_thread(_beginning, one, config.router),
            reasons=REASONS,
            findings=FINDINGS,
            destinations=list(config.destinations),
        )

    async def _release(self, request: web.Request) -> web.Response:
        form, id_ = await form_of(request, ReleaseForm), id_of(request, "quarantined request")
        if form.where == "chosen" and not form.to:
            raise RefusedError(Code.BAD_REQUEST, "to: choose at least one destination")
        to = form.to if form.where == "chosen" else None
        released = await self._site.repairs.release(request[OPERATOR], id_, to)
        if released.duplicate or released.event is None:
            return self._site.go_on(request, shown.path("quarantine", id_), "duplicate")
        return self._site.go_on(request, shown.path("events", released.event), "released")

    async def _discard(self, request: web.Request) -> web.Response:
        form, id_ = await form_of(request, DiscardForm), id_of(request, "quarantined request")
        await self._site.repairs.discard_quarantined(request[OPERATOR], id_, form.reason)
        return self._site.go_on(request, "/quarantine", "discarded")


def _beginning(one: QuarantineRecord, router: Router) -> Beginning:
    body = one.body or b""
    given = legible(body)
    # A character takes four bytes at the most.
    text = shown.cut(body[: 4 * shown.MAX_PAYLOAD].decode(errors="replace"), shown.MAX_PAYLOAD)
    return Beginning(text, router.explain(one.source, given), router.destinations(one.source, given))
