"""Where a page of a search looks, as parts of SQL.

What one page costs doesn't depend on how much is stored. What is rare (an id, an open state, unrouted events)
is gathered from an index that holds nothing else; anything else, and what is rare no longer, is found by
walking the events in order of acceptance, so many a page. Both give the same order, so a search may change
from one to the other between its pages, and what is repaired between them moves nothing else.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import apsw

from relay.model import DeliveryState
from relay.store import pages
from relay.store.cursor import Position
from relay.store.pages import (
    ID_COLUMNS,
    IDS,
    MAX_LOOKED_AT,
    SOURCES,
    Rare,
    Search,
    begins_after,
    behind,
    beyond,
    by_acceptance,
)
from relay.store.repair import Filter, Page
from relay.store.sqlite_json import gathered

_BY_STATE = {
    DeliveryState.PENDING: (
        "SELECT event FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND blocked = 0{to}"
        " UNION ALL SELECT event FROM deliveries INDEXED BY deliveries_blocked WHERE blocked = 1{to}"
    ),
    DeliveryState.IN_FLIGHT: (
        "SELECT event FROM deliveries INDEXED BY deliveries_in_flight WHERE state = 'in_flight'{to}"
    ),
    DeliveryState.DEAD: "SELECT event FROM deliveries INDEXED BY deliveries_dead WHERE state = 'dead'{to}",
}
_BY_ID = (
    f"SELECT e.id FROM ({SOURCES}) AS s"  # noqa: S608
    " CROSS JOIN events AS e ON e.source = s.source AND e.event_id = :any_id"
    " UNION ALL SELECT id FROM events INDEXED BY events_order_id WHERE order_id = :any_id"
    " UNION ALL SELECT id FROM events INDEXED BY events_itscope_order_id WHERE itscope_order_id = :any_id"
    " UNION ALL SELECT id FROM events INDEXED BY events_document_id WHERE document_id = :any_id"
    " UNION ALL SELECT id FROM events INDEXED BY events_transaction_id WHERE transaction_id = :any_id"
)
_BEGINS = "{0} >= :prefix AND {0} < :prefix_end"
_BY_PREFIX = (
    f"SELECT e.id FROM ({SOURCES}) AS s"  # noqa: S608
    f" CROSS JOIN events AS e ON e.source = s.source AND {_BEGINS.format('e.event_id')}"
)
for _column in ID_COLUMNS[1:]:
    _BY_PREFIX += (
        f" UNION ALL SELECT id FROM events INDEXED BY events_{_column} WHERE {_BEGINS.format(_column)}"  # noqa: S608
    )
_BEGINS_ANY = " OR ".join(_BEGINS.format(f"e.{column}") for column in ID_COLUMNS)
_RARE = Rare(
    delivery="SELECT event FROM deliveries WHERE id = :wanted_delivery",
    any_id=_BY_ID,
    prefix=_BY_PREFIX,
    states=_BY_STATE,
    to=" AND destination = :destination",
    unrouted="SELECT id FROM events INDEXED BY events_unrouted WHERE unrouted = 1",
)


def search_for(connection: apsw.Connection, wanted: Filter, page: Page) -> Search:
    """Return where a page looks for events, whatever is wanted of their deliveries."""
    bindings = _bindings(wanted, page)
    order = by_acceptance(page)
    where = [_in_range(page), *_about_event(wanted)]
    rare = _rare(connection, wanted, bindings)
    if rare is not None:
        bindings["rare"] = json.dumps(sorted(set(rare)))
        # The index of unrouted events has all that they are sorted by, so their rows aren't looked at.
        by = " INDEXED BY events_unrouted" if wanted.unrouted else ""
        events = f"json_each(:rare) AS r CROSS JOIN events AS e{by} ON e.id = r.value"
        return Search(events, " AND ".join(where), order, bindings, None)
    end = _end(connection, page, order, bindings)
    if end is not None:
        until = ">=" if page.newest_first else "<="
        where.append(f"(+e.received_at, e.id) {until} (:end_at, :end_id)")
        edge = "low" if page.newest_first else "high"
        bindings |= {"end_at": end.at, "end_id": end.id, edge: end.at}
    return Search("events AS e INDEXED BY events_received", " AND ".join(where), order, bindings, end)


def about_delivery(wanted: Filter) -> str:
    """Return what a delivery, called `d`, must fulfil."""
    return " AND ".join(_equal(pages.about_delivery(wanted)) or ["1"])


def has_delivery(wanted: Filter) -> str:
    """Return what an event must fulfil to have a delivery that is wanted."""
    if (condition := about_delivery(wanted)) == "1":
        return "1"
    return (
        "EXISTS (SELECT 1 FROM deliveries AS d INDEXED BY deliveries_event"  # noqa: S608
        f" WHERE d.event = e.id AND {condition})"
    )


def _equal(given: list[tuple[str, str]]) -> list[str]:
    return [f"+{column} = :{binding}" for column, binding in given]


def _in_range(page: Page) -> str:
    """Return what events must fulfil to lie on a page.

    The first conditions alone are for the index; a plus keeps SQLite from using it with another.
    """
    return (
        "e.received_at >= :low AND e.received_at <= :high AND +e.received_at < :until"
        f" AND (+e.received_at, e.id) {beyond(page)}= (:at, :id)"
    )


def _about_event(wanted: Filter) -> list[str]:
    conditions = _equal(pages.about_event(replace(wanted, unrouted=False)))
    if wanted.unrouted:
        conditions.append("e.unrouted = 1")  # in the words of its index
    if wanted.any_id is not None:
        conditions.append(f":any_id IN ({IDS})")
    if wanted.prefix is not None:
        conditions.append(f"({_BEGINS_ANY})")
    return conditions


def _bindings(wanted: Filter, page: Page) -> dict[str, Any]:
    bindings, after = pages.bindings(wanted, page), begins_after(page)
    since, until = bindings["since"], bindings["until"]
    low = since if page.newest_first else max(since, after.at)
    high = min(until, after.at) if page.newest_first else until
    return {**bindings, "low": low, "high": high}


def _rare(connection: apsw.Connection, wanted: Filter, bindings: dict[str, Any]) -> list[int] | None:
    """Return the events that can be meant, where something rare is asked for; None if they are many.

    They are counted first, since that takes the index alone: SQLite doesn't look at a row that nothing is
    asked of.
    """
    for rare in _RARE.meant(wanted):
        meant = f"(SELECT NULL AS event WHERE 0 UNION ALL {rare} LIMIT {MAX_LOOKED_AT + 1})"
        number = connection.execute(f"SELECT count(*) FROM {meant}", bindings).get  # noqa: S608
        if number <= MAX_LOOKED_AT:
            found: list[int] = gathered(
                connection,
                f"SELECT json_group_array(event) FROM {meant}",  # noqa: S608
                bindings,
            )
            return found
    return None


def _end(connection: apsw.Connection, page: Page, order: str, bindings: dict[str, Any]) -> Position | None:
    """Return the last event that a walk looks at, from the index by acceptance alone."""
    found = connection.execute(
        "SELECT json_array(e.received_at, e.id) FROM events AS e INDEXED BY events_received"  # noqa: S608
        f" WHERE {_in_range(page)} ORDER BY {order} LIMIT 1 OFFSET {MAX_LOOKED_AT - 1}",
        bindings,
    ).get
    if found is None:
        return None
    at, id_ = json.loads(found)
    return Position(at, id_, behind(page))
