"""What follows from a replay for the events that it found: which deliveries, in which order, due when. Pure.

Of several deliveries of an event to one destination the newest counts: what replaced the others is newer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay import payload as payloads
from relay.errors import BadPayloadError
from relay.model import DeliveryState
from relay.repair.progress import Goal
from relay.routing import Router
from relay.store.repair import DeliveryRecord, EventRecord, Filter, Replay

REPEATABLE = (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DISCARDED)
OPEN = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class RepairConfig:
    """All of one configuration that repairs need.

    Attributes:
        order_by: the field of the payload by which a destination is delivered in order, where it has one.
    """

    router: Router
    destinations: Collection[str]
    order_by: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a step is to do. `skipped`: how many deliveries aren't to be made; `due_at`: of the next one."""

    replays: tuple[Replay, ...]
    skipped: int
    due_at: float


def needs_bodies(config: RepairConfig, goal: Goal, wanted: Filter) -> bool:
    """Tell whether a replay can't be planned without the payloads."""
    if goal.by_routes:
        return True
    target = goal.to if goal.to is not None else wanted.destination
    return bool(config.order_by) if target is None else target in config.order_by


def plan(
    events: Sequence[EventRecord], config: RepairConfig, goal: Goal, wanted: Filter, due_at: float
) -> Plan:
    """Return the deliveries to make, the first due at `due_at` and the others one after the other."""
    replays: list[Replay] = []
    skipped = 0
    interval = goal.pace.per_seconds / goal.pace.count
    for event in events:
        payload = payload_of(event)
        for destination, found in _targets(event, payload, config, goal, wanted):
            if not _is_possible(event, destination, config, goal):
                skipped += 1
                continue
            key = payloads.order_key(payload, config.order_by.get(destination))
            of = None if found is None else found.id
            replays.append(Replay(event.id, destination, due_at + len(replays) * interval, key, of))
    return Plan(tuple(replays), skipped, due_at + len(replays) * interval)


def payload_of(event: EventRecord) -> Mapping[str, Any]:
    """Return an event's payload, empty where it has none or its body wasn't read."""
    try:
        return payloads.parse(event.body) if event.body is not None else {}
    except BadPayloadError:  # released from quarantine
        return {}


def _targets(
    event: EventRecord, payload: Mapping[str, Any], config: RepairConfig, goal: Goal, wanted: Filter
) -> Iterator[tuple[str, DeliveryRecord | None]]:
    """Yield where an event is wanted, each with the delivery that is to be repeated.

    None: with whatever went there before, which the store looks at again.
    """
    if goal.by_routes:
        routed = config.router.destinations(event.source, payload)
        names = routed if goal.to is None else tuple({goal.to} & {*routed})
    elif goal.to is not None:
        names = (goal.to,)
    else:
        newest = {delivery.destination: delivery for delivery in event.deliveries}
        for name, delivery in newest.items():
            states = REPEATABLE if wanted.state is None else (wanted.state,)
            if wanted.destination in {None, name} and delivery.state in states:
                yield name, delivery
        return
    for name in names:
        yield name, None


def _is_possible(event: EventRecord, destination: str, config: RepairConfig, goal: Goal) -> bool:
    """Tell whether an event may be sent to a destination: one that is there, and hasn't or won't get it."""
    has = {delivery.state for delivery in event.deliveries if delivery.destination == destination}
    if not has.isdisjoint(OPEN) or destination not in config.destinations:
        return False
    repeats = goal.to is None and not goal.by_routes
    return repeats or DeliveryState.DELIVERED not in has
