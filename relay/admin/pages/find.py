"""Find: one box for any id or how it begins, filters, and a list of events with the newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from aiohttp import web

from relay.admin.pages.asked import Asked, query_of
from relay.admin.pages.site import Site
from relay.admin.pages.states import DELIVERY_STATES, STATE_TEXTS
from relay.admin.pages.words import word
from relay.admin.parameters import STATES, QueryTruth, StoreCursor, Text, Wanted
from relay.payload import KNOWN_EVENT_TYPES
from relay.store import cursor as cursors
from relay.store.repair import EventRecord, Filter, Found, Page

LIMIT = 50
SEARCH_SECONDS = 0.05  # then what was found so far is shown, with a button to go on
SINCE = (
    ("1h", word("the last hour")),
    ("24h", word("the last 24 hours")),
    ("7d", word("the last 7 days")),
    ("30d", word("the last 30 days")),
    ("90d", word("the last 90 days")),
)
UNTIL = (
    ("1h", word("older than an hour")),
    ("24h", word("older than 24 hours")),
    ("7d", word("older than 7 days")),
    ("30d", word("older than 30 days")),
)
MAX_ORDERS = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """One list of the form: its values, each with its text, which are translated where they can be."""

    name: str
    label: str
    options: tuple[tuple[str, str], ...]
    chosen: str | None


class FindQuery(Asked, Wanted):
    """The parameters. `begins`: ids that begin with `q` as well, and not only those that are it."""

    q: Text | None = None
    begins: QueryTruth = False
    cursor: StoreCursor | None = None


class FindPage:
    """The search."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.get("/find", self._get)]

    async def _get(self, request: web.Request) -> web.Response:
        query = query_of(request, FindQuery)
        wanted = query.filter(self._site.now())
        begins, found = await self._find(query, wanted)
        asked = {
            name: text for name, text in request.query.items() if name in FindQuery.model_fields and text
        }
        config = self._site.config()
        return await self._site.page(
            request,
            "find.html",
            asked={**asked, "begins": "true"} if begins else asked,
            query_text=query.q,
            begins=begins,
            found=found,
            searched_until=None if found.next is None else cursors.decode(found.next).at,
            filtered=not asked.keys() <= {"q", "begins", "cursor"},
            orders=() if begins or query.q is None else _orders(found.items),
            choices=_choices(asked, tuple(config.sources), tuple(config.destinations)),
            delivery_states=DELIVERY_STATES,
        )

    async def _find(self, query: FindQuery, wanted: Filter) -> tuple[bool, Found[EventRecord]]:
        """Return the events whose id is the one given; without any, those with one that begins so."""
        if query.q is None:
            return False, await self._search(wanted, query.cursor)
        if not query.begins:
            found = await self._search(replace(wanted, any_id=query.q), query.cursor)
            if found.items or query.cursor is not None:
                return False, found
        return True, await self._search(replace(wanted, prefix=query.q), query.cursor)

    async def _search(self, wanted: Filter, cursor: str | None) -> Found[EventRecord]:
        """Return a page of events, or what was found of it in the time that a page may take."""
        clock = asyncio.get_running_loop().time
        begun_at = clock()
        items: list[EventRecord] = []
        while True:
            found = await self._site.store.find_events(wanted, Page(LIMIT - len(items), cursor))
            items += found.items
            cursor = found.next
            if cursor is None or len(items) >= LIMIT or clock() - begun_at > SEARCH_SECONDS:
                return Found(tuple(items), cursor)


def _orders(events: Sequence[EventRecord]) -> tuple[str, ...]:
    """Return the orders that some events belong to, by the ids that people use, a few at the most."""
    ids = (event.references.order_id or event.references.itscope_order_id for event in events)
    return tuple(dict.fromkeys(id_ for id_ in ids if id_))[:MAX_ORDERS]


def _choices(
    asked: Mapping[str, str], sources: Iterable[str], destinations: Iterable[str]
) -> tuple[Choice, ...]:
    """Return the lists of the form; what was asked for is among them, whatever it is."""
    lists = (
        ("type", word("Kind"), [(name, name) for name in KNOWN_EVENT_TYPES]),
        ("source", word("Source"), [(name, name) for name in sources]),
        ("destination", word("Destination"), [(name, name) for name in destinations]),
        ("state", word("Delivery"), [(state, STATE_TEXTS[state]) for state in STATES]),
        ("since", word("Received in"), SINCE),
        ("until", word("Age"), UNTIL),
    )
    return tuple(choice(name, label, asked.get(name), options) for name, label, options in lists)


def choice(name: str, label: str, chosen: str | None, options: Sequence[tuple[str, str]]) -> Choice:
    """Return a list with what was chosen among its values, whatever that is."""
    known = [value for value, _ in options]
    more = [] if chosen is None or chosen in known else [(chosen, chosen)]
    return Choice(name, label, (*options, *more), chosen)
