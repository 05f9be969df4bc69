"""What became of events: of one, at each of its destinations, and of an order, kind by kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from relay.admin.pages.states import Shown
from relay.admin.pages.words import word
from relay.model import DeliveryState
from relay.payload import KNOWN_EVENT_TYPES
from relay.store.changing import replaced_by
from relay.store.repair import DeliveryRecord, EventRecord

KIND_NAMES = {
    "ORDER": word("Purchase order"),
    "ORDERRESPONSE": word("Order response"),
    "DELIVERY": word("Delivery note"),
    "INVOICE": word("Invoice"),
}
NOT_COME: Shown = ("off", word("has not come"))
NOWHERE: Shown = ("warn", word("came, but no route wanted it"))
NOT_DELIVERED: Shown = ("bad", word("came, but was not delivered"))
ON_ITS_WAY: Shown = ("waiting", word("came, and is being delivered"))
DISCARDED: Shown = ("off", word("came, and was discarded"))
ARRIVED: Shown = ("good", word("delivered"))
_SHOWN = {  # the worst first
    DeliveryState.DEAD: NOT_DELIVERED,
    DeliveryState.PENDING: ON_ITS_WAY,
    DeliveryState.IN_FLIGHT: ON_ITS_WAY,
    DeliveryState.DELIVERED: ARRIVED,
    DeliveryState.DISCARDED: DISCARDED,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What an order has of one eventType.

    Attributes:
        name: to be translated; None of a type that ITscope doesn't document.
        state: the worst that became of any of it.
        events: the newest first.
        destinations: each with the worst state there.
    """

    event_type: str | None
    name: str | None
    state: Shown
    events: tuple[EventRecord, ...]
    destinations: tuple[tuple[str, DeliveryState], ...]


def newest_deliveries(event: EventRecord) -> list[DeliveryRecord]:
    """Return the newest delivery of an event to each destination: a replay stands for what it repeats."""
    return list({delivery.destination: delivery for delivery in event.deliveries}.values())


def replayed(event: EventRecord) -> dict[int, int]:
    """Return which deliveries of an event were closed by which newer ones that repeat them."""
    newer = {(one.destination, replaced_by(one.id)): one.id for one in event.deliveries}
    return {
        one.id: by
        for one in event.deliveries
        if one.state is DeliveryState.DISCARDED
        and one.reason is not None
        # An operator may have written anything as the reason.
        and (by := newer.get((one.destination, one.reason), 0)) > one.id
    }


def kinds(events: Sequence[EventRecord]) -> list[Kind]:
    """Return what has come of an order and what hasn't: ITscope's four kinds, and then any others."""
    others = [event.event_type for event in events if event.event_type not in KNOWN_EVENT_TYPES]
    return [
        _kind(event_type, [event for event in events if event.event_type == event_type])
        for event_type in dict.fromkeys([*KNOWN_EVENT_TYPES, *others])
    ]


def order_ids(events: Iterable[EventRecord]) -> list[str]:
    """Return the ids that events give to their orders, ITscope's and our own."""
    return list(
        dict.fromkeys(
            id_
            for event in events
            for id_ in (event.references.order_id, event.references.itscope_order_id)
            if id_
        )
    )


def _kind(event_type: str | None, events: Sequence[EventRecord]) -> Kind:
    newest_first = tuple(sorted(events, key=lambda event: (event.received_at, event.id), reverse=True))
    states: dict[str, set[DeliveryState]] = {}
    for delivery in (one for event in events for one in newest_deliveries(event)):
        states.setdefault(delivery.destination, set()).add(delivery.state)
    return Kind(
        event_type,
        KIND_NAMES.get(event_type or ""),
        _state(events, set().union(*states.values())),
        newest_first,
        tuple((destination, _worst(found)) for destination, found in states.items()),
    )


def _state(events: Sequence[EventRecord], states: AbstractSet[DeliveryState]) -> Shown:
    """Return the worst that became of the events of one kind."""
    if not events:
        return NOT_COME
    if any(not event.deliveries for event in events) and DeliveryState.DEAD not in states:
        return NOWHERE
    return _SHOWN[_worst(states)]


def _worst(states: AbstractSet[DeliveryState]) -> DeliveryState:
    return next(state for state in _SHOWN if state in states)
