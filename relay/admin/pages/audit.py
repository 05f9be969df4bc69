"""Audit: who did what by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from relay.admin.pages.asked import Asked, query_of
from relay.admin.pages.meant import NAMES
from relay.admin.pages.site import Site
from relay.admin.pages.states import STATE_TEXTS
from relay.admin.pages.words import word
from relay.admin.parameters import StoreCursor
from relay.store.repair import ChangeRecord, Page

LIMIT = 50
_DELIVERED = word("delivered")
_ACTIONS = {
    "replay": word("delivered again"),
    "discard": word("discarded"),
    "skip": word("let go on what waited behind it"),
    "pause": word("paused"),
    "resume": word("resumed"),
    "release-quarantined": word("released from quarantine"),
    "discard-quarantined": word("discarded from quarantine"),
}
# What was asked for, by the names that `details` gives. What isn't here is shown as it is recorded.
_NAMES = {
    **{f"filter.{name}": text for name, text in NAMES.items()},
    "filter.since": word("Received since"),
    "filter.until": word("Received before"),
    "filter.source": word("Source"),
    "filter.state": word("State"),
    "delivery": word("Delivery"),
    "destination": word("Destination"),
    "reason": word("Reason"),
    "to": word("Deliver to"),
    "by_routes": word("Deliver to"),
    "pace": word("Pace"),
    "quarantined": word("No."),
    "source": word("Source"),
    "event_id": word("Event id"),
}
_VALUES = {
    **{("filter.state", state): text for state, text in STATE_TEXTS.items()},
    ("by_routes", "true"): word("where the routes in force say"),
}


class AuditQuery(Asked):
    """Which part of the list."""

    cursor: StoreCursor | None = None


class AuditPage:
    """All changes by hand, the newest first."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.get("/audit", self._get)]

    async def _get(self, request: web.Request) -> web.Response:
        query = query_of(request, AuditQuery)
        found = await self._site.store.find_changes(Page(LIMIT, query.cursor))
        return await self._site.page(
            request,
            "audit.html",
            asked={},
            is_first=query.cursor is None,
            found=found,
            details={change.id: list(details(change.detail)) for change in found.items},
            names=_NAMES,
            values=_VALUES,
            what={change.id: what(change) for change in found.items},
        )


def what(change: ChangeRecord) -> str | None:
    """Return what was done, to be translated; None of an action that the pages don't know.

    A replay to a destination, or by the routes, leaves out what was delivered there: it is no second time.
    """
    if change.action == "replay" and not change.detail.keys().isdisjoint({"to", "by_routes"}):
        return _DELIVERED
    return _ACTIONS.get(change.action)


def details(detail: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield what was asked for as names and texts; what stands inside of another by both names."""
    for name, value in detail.items():
        if isinstance(value, Mapping):
            yield from details(value, f"{above}{name}.")
        elif isinstance(value, list):
            yield f"{above}{name}", ", ".join(map(str, value))
        else:
            yield f"{above}{name}", str(value).lower() if isinstance(value, bool) else str(value)
