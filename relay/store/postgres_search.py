"""Where a page of a search looks, as parts of SQL for PostgreSQL.

As in `sqlite_search`: what is rare is gathered from an index that holds nothing else, anything else is walked
in order of acceptance, so many events a page. PostgreSQL can't be told which index to take, and what it knows
of its tables may be old; so a search forbids it to read whole tables, and fences what it could turn around.
"""

from __future__ import annotations

from typing import Any

from relay.model import DeliveryState
from relay.store import pages
from relay.store.cursor import Position
from relay.store.pages import ID_COLUMNS, IDS, MAX_LOOKED_AT, SOURCES, Rare, Search, behind, by_acceptance
from relay.store.postgres_order import Connection
from relay.store.repair import Filter, Page


def each(table: str, condition: str, name: str) -> str:
    """Return the FROM item that looks up rows for each of those to its left.

    OFFSET 0 is the fence: no other condition gets inside, and the whole table isn't joined at once instead.
    """
    return f"LATERAL (SELECT * FROM {table} WHERE {condition} OFFSET 0) AS {name}"  # noqa: S608


_OWED = each("deliveries", "event = e.id", "d")
_BY_STATE = {
    DeliveryState.PENDING: "SELECT event FROM deliveries WHERE state = 'pending'{to}",
    # Whatever the destination, with which the index of all that is open would look better.
    DeliveryState.IN_FLIGHT: "SELECT event FROM deliveries WHERE state = 'in_flight'",
    DeliveryState.DEAD: "SELECT event FROM deliveries WHERE state = 'dead'{to}",
}
_BY_ID = (
    f"SELECT e.id FROM ({SOURCES}) AS s"  # noqa: S608
    f" CROSS JOIN {each('events', 'source = s.source AND event_id = %(any_id)s', 'e')}"
    " UNION ALL SELECT id FROM events WHERE order_id = %(any_id)s"
    " UNION ALL SELECT id FROM events WHERE itscope_order_id = %(any_id)s"
    " UNION ALL SELECT id FROM events WHERE document_id = %(any_id)s"
    " UNION ALL SELECT id FROM events WHERE transaction_id = %(any_id)s"
)
_BEGINS = "{0} >= %(prefix)s AND {0} < %(prefix_end)s"
_EVENT_ID_BEGINS = each("events", f"source = s.source AND {_BEGINS.format('event_id')}", "e")
_BY_PREFIX = f"SELECT e.id FROM ({SOURCES}) AS s CROSS JOIN {_EVENT_ID_BEGINS}"  # noqa: S608
for _column in ID_COLUMNS[1:]:
    _BY_PREFIX += f" UNION ALL SELECT id FROM events WHERE {_BEGINS.format(_column)}"  # noqa: S608
_BEGINS_ANY = " OR ".join(_BEGINS.format(f"e.{column}") for column in ID_COLUMNS)
_RARE = Rare(
    delivery="SELECT event FROM deliveries WHERE id = %(wanted_delivery)s",
    any_id=_BY_ID,
    prefix=_BY_PREFIX,
    states=_BY_STATE,
    to=" AND destination = %(destination)s",
    unrouted="SELECT id FROM events WHERE unrouted",
)
# Until the transaction's end.
_BY_INDEX = "SELECT set_config('enable_seqscan', 'off', TRUE), set_config('enable_bitmapscan', 'off', TRUE)"
_IN_RANGE = (
    "(e.received_at, e.id) BETWEEN (%(low)s::double precision, %(low_id)s::bigint)"
    " AND (%(high)s::double precision, %(high_id)s::bigint)"
)


async def by_index(connection: Connection) -> None:
    """Have the rest of a transaction read what it looks for in an index's order."""
    await connection.execute(_BY_INDEX)


async def search_for(connection: Connection, wanted: Filter, page: Page) -> Search:
    """Return where a page looks for events, whatever is wanted of their deliveries."""
    bindings = _bindings(wanted, page)
    order = by_acceptance(page)
    where = " AND ".join([_IN_RANGE, *_about_event(wanted)])
    await by_index(connection)
    rare = await _rare(connection, wanted, bindings)
    if rare is not None:
        bindings["rare"] = sorted(set(rare))
        events = f"unnest(%(rare)s::bigint[]) AS r (id) CROSS JOIN {each('events', 'id = r.id', 'e')}"
        return Search(events, where, order, bindings, None)
    walked = f"SELECT * FROM events AS e WHERE {_IN_RANGE} ORDER BY {order} LIMIT {MAX_LOOKED_AT}"  # noqa: S608
    end = await _end(connection, page, order, bindings)
    return Search(f"({walked}) AS e", where, order, bindings, end)


def with_deliveries(search: Search) -> str:
    """Return what stands after FROM for the events with each of their deliveries, called `d`."""
    return f"{search.events} CROSS JOIN {_OWED}"


def about_delivery(wanted: Filter) -> str:
    """Return what a delivery, called `d`, must fulfil."""
    return " AND ".join(_equal(pages.about_delivery(wanted)) or ["TRUE"])


def has_delivery(wanted: Filter) -> str:
    """Return what an event must fulfil to have a delivery that is wanted."""
    if (condition := about_delivery(wanted)) == "TRUE":
        return "TRUE"
    return f"EXISTS (SELECT 1 FROM {_OWED} WHERE {condition})"  # noqa: S608


def _equal(given: list[tuple[str, str]]) -> list[str]:
    return [f"{column} = %({binding})s" for column, binding in given]


def _about_event(wanted: Filter) -> list[str]:
    conditions = _equal(pages.about_event(wanted))
    if wanted.any_id is not None:
        conditions.append(f"%(any_id)s IN ({IDS})")
    if wanted.prefix is not None:
        conditions.append(f"({_BEGINS_ANY})")
    return conditions


def _bindings(wanted: Filter, page: Page) -> dict[str, Any]:
    """Return the bindings of a search; between its lowest and its highest place lies all of its page."""
    bindings = pages.bindings(wanted, page)
    after = (bindings["at"], bindings["id"])
    low, high = (bindings["since"], 0), (bindings["until"], -1)  # ids begin at 1: before and after them
    if page.newest_first:
        high = min(high, after)
    else:
        low = max(low, after)
    return {**bindings, "low": low[0], "low_id": low[1], "high": high[0], "high_id": high[1]}


async def _rare(connection: Connection, wanted: Filter, bindings: dict[str, Any]) -> list[int] | None:
    """Return the events that can be meant, where something rare is asked for; None if they are many."""
    for rare in _RARE.meant(wanted):
        cursor = await connection.execute(f"{rare} LIMIT {MAX_LOOKED_AT + 1}", bindings)
        found = [event for (event,) in await cursor.fetchall()]
        if len(found) <= MAX_LOOKED_AT:
            return found
    return None


async def _end(connection: Connection, page: Page, order: str, bindings: dict[str, Any]) -> Position | None:
    """Return the last event that a walk looks at, from the index by acceptance alone."""
    cursor = await connection.execute(
        f"SELECT e.received_at, e.id FROM events AS e WHERE {_IN_RANGE}"  # noqa: S608
        f" ORDER BY {order} LIMIT 1 OFFSET {MAX_LOOKED_AT - 1}",
        bindings,
    )
    found = await cursor.fetchone()
    if found is None:
        return None
    at, id_ = found
    return Position(at, id_, behind(page))
