"""What a change by hand does to deliveries, as far as it is the same in every store: rules on what was read.

Which transitions are legal is `lifecycle`'s. Reading, locking and writing are left to each store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from relay.lifecycle import LEGAL
from relay.model import DeliveryState
from relay.store.repair import Replay

DISCARDABLE = frozenset(state for state, following in LEGAL.items() if DeliveryState.DISCARDED in following)
# An event needn't go there for the first time any more, if a delivery is in one of these states.
GOES_THERE = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT, DeliveryState.DELIVERED)
REPEATABLE = (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DISCARDED)
UNDER_WAY = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A delivery that is to leave its order."""

    id: int
    destination: str
    state: DeliveryState
    order_key: str | None


def leaving(row: Sequence[Any]) -> Leaving:
    """Return a delivery of (id, destination, state, order_key)."""
    id_, destination, state, order_key = row
    return Leaving(id_, destination, DeliveryState(state), order_key)


def first_of_each(ids: Sequence[int], done: Iterable[int]) -> list[bool]:
    """Tell for each id whether it was done; named twice, it was done once."""
    left = set(done)
    told = []
    for id_ in ids:
        told.append(id_ in left)
        left.discard(id_)
    return told


def first_possible(replays: Sequence[Replay], possible: Iterable[int]) -> list[int]:
    """Return the places of the replays that are made: of one event to one destination, the first possible."""
    chosen: dict[tuple[int, str], int] = {}
    for place in possible:
        chosen.setdefault((replays[place].event, replays[place].destination), place)
    return list(chosen.values())


def keys_of(touched: Iterable[Leaving | Replay]) -> set[tuple[str, str]]:
    """Return the orders, as (destination, key), that something joins or leaves."""
    return {(each.destination, each.order_key) for each in touched if each.order_key is not None}


def leaves_order(replaced: Iterable[Leaving], made: Iterable[Replay]) -> bool:
    """Tell whether a place in an order was given up that nothing made takes: its order_by has changed."""
    return not keys_of(replaced) <= keys_of(made)


def replaced_by(delivery: int) -> str:
    """Return why a dead delivery is discarded when another one is made in its place."""
    return f"replayed as {delivery}"
