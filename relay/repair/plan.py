"""What follows from a replay for the events that it found: which deliveries, in which order, due when. Pure.

Of several deliveries of an event to one destination the newest counts: what replaced the others is newer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay import payload as payloads
from relay.model import DeliveryState
from relay.repair.legible import legible
from relay.repair.progress import Goal
from relay.routing import Router
from relay.store.changing import REPEATABLE, UNDER_WAY
from relay.store.repair import DeliveryRecord, EventRecord, Filter, Replay


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
    for event in events:
        payload = payload_of(event)
        skipped += _number_superseded(event, goal, wanted)
        for destination, found in _targets(event, payload, config, goal, wanted):
            if not _is_possible(event, destination, config, goal):
                skipped += 1
                continue
            key = place(payload, config, destination, found)
            of = None if found is None else found.id
            replays.append(
                Replay(event.id, destination, due_at + len(replays) * goal.interval_seconds, key, of)
            )
    return Plan(tuple(replays), skipped, due_at + len(replays) * goal.interval_seconds)


def place(
    payload: Mapping[str, Any], config: RepairConfig, destination: str, repeated: DeliveryRecord | None
) -> str | None:
    """Return the order that a replay has a place in: that of a dead delivery, or of one that is new there.

    One that repeats what was delivered or discarded has none: what follows it went on long ago, and must not
    wait for it now.
    """
    if repeated is not None and repeated.state is not DeliveryState.DEAD:
        return None
    return payloads.order_key(payload, config.order_by.get(destination))


def payload_of(event: EventRecord) -> Mapping[str, Any]:
    """Return what can be read of an event's payload; nothing where its body wasn't fetched."""
    return {} if event.body is None else legible(event.body)


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
        for name, delivery in _newest(event).items():
            if delivery.state in REPEATABLE and _is_wanted(delivery, wanted):
                yield name, delivery
        return
    for name in names:
        yield name, None


def _newest(event: EventRecord) -> dict[str, DeliveryRecord]:
    return {delivery.destination: delivery for delivery in event.deliveries}


def _is_wanted(delivery: DeliveryRecord, wanted: Filter) -> bool:
    return wanted.destination in {None, delivery.destination} and wanted.state in {None, delivery.state}


def _number_superseded(event: EventRecord, goal: Goal, wanted: Filter) -> int:
    """Return to how many destinations an event was found, but has a newer delivery that isn't repeated."""
    if goal.by_routes or goal.to is not None:
        return 0
    found = {delivery.destination for delivery in event.deliveries if _is_wanted(delivery, wanted)}
    newest = _newest(event)
    return sum(not (_is_wanted(newest[name], wanted) and newest[name].state in REPEATABLE) for name in found)


def _is_possible(event: EventRecord, destination: str, config: RepairConfig, goal: Goal) -> bool:
    """Tell whether an event may be sent to a destination: one that is there, and hasn't or won't get it."""
    has = {delivery.state for delivery in event.deliveries if delivery.destination == destination}
    if not has.isdisjoint(UNDER_WAY) or destination not in config.destinations:
        return False
    repeats = goal.to is None and not goal.by_routes
    return repeats or DeliveryState.DELIVERED not in has
