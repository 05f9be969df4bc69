"""The repairs themselves: find what is meant, have the store change it, and tell the lanes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from relay.config import suggestion
from relay.metrics import Metrics
from relay.model import DeliveryState, LaneState
from relay.repair.plan import OPEN, RepairConfig, needs_bodies, payload_of, place, plan
from relay.repair.progress import (
    MAX_STEP,
    REST_SECONDS,
    Goal,
    Progress,
    Refusal,
    RepairRefusedError,
    Step,
    Sweep,
)
from relay.repair.quarantined import admitted
from relay.store import Store
from relay.store.repair import Change, Changed, DeliveryRecord, EventRecord, Filter, Found, Page, Replay

_log = logging.getLogger(__name__)

_DISCARDABLE = (DeliveryState.PENDING, DeliveryState.DEAD)


class Lanes(Protocol):
    """What repairs need of the dispatcher."""

    def notice(self, destinations: Iterable[str]) -> None:
        """Learn that the store has something for these destinations."""
        ...

    def set_paused(self, destination: str, paused_at: float | None) -> None:
        """Send nothing to a destination from now on; None: send again."""
        ...

    def paused(self) -> dict[str, float]:
        """Return the destinations that nothing is sent to, and since when."""
        ...

    def states(self) -> dict[str, LaneState]:
        """Return what each configured destination's lane waits for."""
        ...


@dataclass(frozen=True, slots=True)
class Released:
    """What became of a quarantined request. `event`: the number of the event that it is, or was before."""

    duplicate: bool
    event: int | None
    deliveries: int


class Repairs:
    """Does what operators ask for. `config` may be set at any time.

    Every method that names `who` leaves a record of the change, and raises RepairRefusedError where what is
    asked for can't be done.
    """

    def __init__(
        self, config: RepairConfig, store: Store, lanes: Lanes, metrics: Metrics, now: Callable[[], float]
    ) -> None:
        self.config = config
        self.lanes = lanes
        self._store = store
        self._metrics = metrics
        self._now = now
        self._pausing = asyncio.Lock()

    # ---- one delivery

    async def find_delivery(self, id_: int) -> tuple[DeliveryRecord, EventRecord]:
        """Return a delivery and its event with the body."""
        cursor, wanted = None, Filter(delivery=id_)
        while True:
            found = await self._store.find_deliveries(wanted, Page(1, cursor))
            event = await self._store.read_event(found.items[0].event) if found.items else None
            if event is not None:
                return found.items[0], event
            if (cursor := found.next) is None:
                raise RepairRefusedError(Refusal.NOT_FOUND, f"there is no delivery {id_}")

    async def replay_one(self, who: str, id_: int) -> None:
        """Deliver again where a delivery went."""
        delivery, event = await self.find_delivery(id_)
        destination = delivery.destination
        self._require_configured([destination])
        for other in event.deliveries:
            if other.destination == destination and other.state in OPEN:
                raise _conflict(
                    f"delivery {other.id} to {destination} is {other.state}: it is delivered by itself;"
                    " resume the destination to have it tried at once"
                )
        payload = await asyncio.to_thread(payload_of, event)
        key = place(payload, self.config, destination, delivery)
        now = self._now()
        change = Change(who, now, "replay", {"delivery": id_})
        changed = await self._store.replay(change, [Replay(event.id, destination, now, key, id_)])
        self._replayed(who, changed, [destination])
        _require_done(changed, id_)

    async def discard_one(self, who: str, id_: int, reason: str) -> None:
        """Give up a delivery that is pending or dead."""
        delivery, _ = await self.find_delivery(id_)
        if delivery.state not in _DISCARDABLE:
            raise _conflict(
                f"delivery {id_} is {delivery.state}; only pending and dead ones can be discarded"
            )
        change = Change(who, self._now(), "discard", {"delivery": id_, "reason": reason})
        changed = await self._store.discard(change, [id_], reason)
        self._discarded(who, changed, [delivery])
        _require_done(changed, id_)

    async def skip_one(self, who: str, id_: int) -> None:
        """Let what waits behind a dead delivery go on."""
        delivery, _ = await self.find_delivery(id_)
        if delivery.state is not DeliveryState.DEAD:
            raise _conflict(f"delivery {id_} is {delivery.state}; only dead ones can be skipped")
        if delivery.order_key is None:
            raise _conflict(f"delivery {id_} holds up nothing: it has no place in an order")
        changed = await self._store.skip(Change(who, self._now(), "skip", {"delivery": id_}), [id_])
        self._skipped(who, changed)
        _require_done(changed, id_)

    # ---- all that a filter finds, a step at a time

    async def replay(self, sweep: Sweep, goal: Goal) -> Step:
        """Make one step of a replay, in order of acceptance."""
        wanted, progress, config = sweep.bounded(), sweep.progress, self.config
        self._require_replayable(wanted, goal)
        page = Page(sweep.limit, progress.after, newest_first=False)
        bodies = needs_bodies(config, goal, wanted)
        found = await self._store.find_events(wanted, page, bodies=bodies)
        now = self._now()
        start = max(now, progress.due_at)
        planning = partial(plan, found.items, config, goal, wanted, start)
        planned = await asyncio.to_thread(planning) if bodies else planning()  # payloads may be large
        destinations = [one.destination for one in planned.replays]
        changed = _as_if(progress, destinations)
        if not sweep.dry_run and planned.replays:
            change = Change(sweep.who, now, "replay", sweep.detail, progress.change)
            changed = await self._store.replay(change, planned.replays)
            self._replayed(sweep.who, changed, destinations)
            await asyncio.sleep(goal.rest_seconds(len(destinations)))
        return _step(
            changed,
            destinations,
            planned.skipped,
            _next(progress, found.next, changed.id, planned.due_at, str(goal.pace)),
            wanted.until,
        )

    async def discard(self, sweep: Sweep, reason: str) -> Step:
        """Make one step of giving up deliveries, first the pending ones and then the dead ones.

        Those in flight are left as they are; in the end they are counted.
        """
        wanted, progress = sweep.bounded(), sweep.progress
        states = _DISCARDABLE if wanted.state is None else (wanted.state,)
        if wanted.unrouted or states[0] not in _DISCARDABLE:
            raise _unprocessable("filter.state: only pending and dead deliveries can be discarded")
        if progress.phase >= len(states):
            raise _bad_request("cursor: it belongs to another filter")
        found = await self._deliveries(wanted, states[progress.phase], sweep.limit, progress)
        if not found.items and found.next is None and progress.phase + 1 < len(states):
            progress = replace(progress, after=None, phase=progress.phase + 1)
            found = await self._deliveries(wanted, states[progress.phase], sweep.limit, progress)
        changed = _as_if(progress, found.items)
        if not sweep.dry_run and found.items:
            change = Change(sweep.who, self._now(), "discard", sweep.detail, progress.change)
            changed = await self._store.discard(change, [delivery.id for delivery in found.items], reason)
            self._discarded(sweep.who, changed, found.items)
            await asyncio.sleep(REST_SECONDS)
        following = _next(progress, found.next, changed.id)
        if following is None and progress.phase + 1 < len(states):
            change_id = changed.id or progress.change
            following = replace(progress, after=None, phase=progress.phase + 1, change=change_id)
        left = following is None and wanted.state is None
        skipped = await self._number_in_flight(wanted) if left else 0
        destinations = [delivery.destination for delivery in found.items]
        return _step(changed, destinations, skipped, following, wanted.until)

    async def skip(self, sweep: Sweep) -> Step:
        """Make one step of letting go on what waits behind dead deliveries."""
        wanted, progress = sweep.bounded(), sweep.progress
        if wanted.unrouted or wanted.state not in {None, DeliveryState.DEAD}:
            raise _unprocessable("filter.state: only dead deliveries can be skipped")
        found = await self._deliveries(wanted, DeliveryState.DEAD, sweep.limit, progress)
        holding = [delivery for delivery in found.items if delivery.order_key is not None]
        changed = _as_if(progress, holding)
        if not sweep.dry_run and holding:
            change = Change(sweep.who, self._now(), "skip", sweep.detail, progress.change)
            changed = await self._store.skip(change, [delivery.id for delivery in holding])
            self._skipped(sweep.who, changed)
            await asyncio.sleep(REST_SECONDS)
        destinations = [delivery.destination for delivery in holding]
        return _step(changed, destinations, 0, _next(progress, found.next, changed.id), wanted.until)

    # ---- destinations

    async def pause(self, who: str, destination: str) -> None:
        """Send nothing to a destination until it is resumed; it may be paused already."""
        self._require_known(destination, self.config.destinations)
        await self._set_paused(Change(who, self._now(), "pause", {"destination": destination}), destination)

    async def resume(self, who: str, destination: str) -> None:
        """Send to a destination again, now, also what would wait for its next attempt.

        It needn't be paused, or configured any more if it is.
        """
        known = [*self.config.destinations, *await self._store.paused()]
        self._require_known(destination, known)
        now = self._now()
        await self._set_paused(Change(who, now, "resume", {"destination": destination}), destination)
        while await self._store.bring_forward(destination, now, now):
            self.lanes.notice([destination])

    async def _set_paused(self, change: Change, destination: str) -> None:
        """Change the store, then the lane; one at a time, so that the lane ends up as the store says."""
        pausing = change.action == "pause"
        async with self._pausing:
            step = self._store.pause if pausing else self._store.resume
            changed = await step(change, destination)
            paused_at = (await self._store.paused()).get(destination)
            self.lanes.set_paused(destination, paused_at)
        if any(changed.done):
            fields = {"who": change.who, "destination": destination}
            _log.warning(f"destination.{change.action}d", extra={"fields": fields})

    async def follow_pauses(self) -> None:
        """Have the lanes do what the store says, where another relay changed it."""
        async with self._pausing:
            stored, known = await self._store.paused(), self.lanes.paused()
            for destination in stored.keys() ^ known.keys():
                self.lanes.set_paused(destination, stored.get(destination))

    # ---- quarantine

    async def release(self, who: str, id_: int, to: Sequence[str] | None) -> Released:
        """Accept a quarantined request as an event, for the destinations given or as the routes say."""
        request = await self._store.read_quarantined(id_)
        if request is None:
            raise _no_quarantined(id_)
        if to is not None:
            self._require_configured(to)
        now = self._now()
        admission = await asyncio.to_thread(admitted, request, self.config, to, now)
        event, owed = admission.event, admission.owed
        detail = {"quarantined": id_, "source": request.source, "event_id": event.event_id}
        change = Change(who, now, "release-quarantined", detail)
        acceptance = await self._store.release_quarantined(change, id_, event, admission.references, owed)
        if acceptance is None:
            raise _no_quarantined(id_)
        if not acceptance.duplicate:
            self.lanes.notice(owed)
            if not owed:
                self._metrics.unrouted.labels(event.source).inc()
            fields = {"who": who, "source": event.source, "event_id": event.event_id, "deliveries": len(owed)}
            _log.info("quarantine.released", extra={"fields": fields})
        number = await self._number_of(event.source, event.event_id)
        return Released(acceptance.duplicate, number, 0 if acceptance.duplicate else len(owed))

    async def discard_quarantined(self, who: str, id_: int, reason: str) -> None:
        """Delete a quarantined request."""
        change = Change(who, self._now(), "discard-quarantined", {"quarantined": id_, "reason": reason})
        if not any((await self._store.discard_quarantined(change, [id_])).done):
            raise _no_quarantined(id_)
        _log.info("quarantine.discarded", extra={"fields": {"who": who, "number": 1}})

    async def _number_of(self, source: str, event_id: str) -> int | None:
        """Return the number of an event that is stored; None if it was deleted meanwhile."""
        wanted, cursor = Filter(any_id=event_id, source=source), None
        while True:
            found = await self._store.find_events(wanted, Page(10, cursor))
            for event in found.items:
                if event.event_id == event_id:
                    return event.id
            if (cursor := found.next) is None:
                return None

    # ---- what is meant and possible

    async def _deliveries(
        self, wanted: Filter, state: DeliveryState, limit: int, progress: Progress
    ) -> Found[DeliveryRecord]:
        page = Page(limit, progress.after, newest_first=False)
        return await self._store.find_deliveries(replace(wanted, state=state), page)

    async def _number_in_flight(self, wanted: Filter) -> int:
        """Return how many deliveries are in flight, which the lanes keep few."""
        wanted, number, cursor = replace(wanted, state=DeliveryState.IN_FLIGHT), 0, None
        while True:
            found = await self._store.find_deliveries(wanted, Page(MAX_STEP, cursor, newest_first=False))
            number += len(found.items)
            if (cursor := found.next) is None:
                return number

    def _require_replayable(self, wanted: Filter, goal: Goal) -> None:
        if goal.to is not None:
            self._require_configured([goal.to])
        if goal.to is not None or goal.by_routes:
            return
        if wanted.unrouted:
            raise _unprocessable("unrouted events have no delivery to repeat; give to or by_routes")
        if wanted.state in OPEN:
            raise _unprocessable(
                f"filter.state: what is {wanted.state} is under way; there is nothing to repeat"
            )
        if wanted.destination is not None:
            self._require_configured([wanted.destination])

    def _require_configured(self, destinations: Iterable[str]) -> None:
        """Refuse to send where no lane goes."""
        for name in destinations:
            if name not in self.config.destinations:
                hint = suggestion(name, self.config.destinations)
                message = f"no destination {_shortened(name)} is configured{hint}"
                raise _unprocessable(message)

    def _require_known(self, destination: str, known: Collection[str]) -> None:
        if destination not in known:
            message = f"there is no destination {_shortened(destination)}{suggestion(destination, known)}"
            raise RepairRefusedError(Refusal.NOT_FOUND, message)

    # ---- after a change

    def _replayed(self, who: str, changed: Changed, destinations: Sequence[str]) -> None:
        self._tell("deliveries.replayed", who, changed, _counted(changed, destinations))

    def _discarded(self, who: str, changed: Changed, deliveries: Sequence[DeliveryRecord]) -> None:
        counted = _counted(changed, [delivery.destination for delivery in deliveries])
        for destination, number in counted.items():
            self._metrics.deliveries.labels(destination, DeliveryState.DISCARDED.value).inc(number)
        self._tell("deliveries.discarded", who, changed, counted)

    def _skipped(self, who: str, changed: Changed) -> None:
        self._tell("deliveries.skipped", who, changed, {})

    def _tell(self, fact: str, who: str, changed: Changed, by_destination: Mapping[str, int]) -> None:
        """Wake the lanes, and log what was done if anything was."""
        self.lanes.notice(changed.destinations)
        if number := sum(changed.done):
            fields: dict[str, Any] = {"who": who, "number": number, "change": changed.id}
            if by_destination:
                fields["by_destination"] = dict(by_destination)
            _log.info(fact, extra={"fields": fields})


def _as_if(progress: Progress, items: Sequence[object]) -> Changed:
    """Return what a change would have done, had it been made."""
    return Changed(progress.change, (True,) * len(items))


def _next(
    progress: Progress, after: str | None, change: int | None, due_at: float = 0.0, pace: str | None = None
) -> Progress | None:
    if after is None:
        return None
    return replace(progress, after=after, change=change or progress.change, due_at=due_at, pace=pace)


def _counted(changed: Changed, destinations: Sequence[str]) -> Counter[str]:
    return Counter(name for name, done in zip(destinations, changed.done, strict=True) if done)


def _step(
    changed: Changed,
    destinations: Sequence[str],
    skipped: int,
    following: Progress | None,
    until: float | None,
) -> Step:
    done = sum(changed.done)
    left = skipped + len(destinations) - done
    return Step(done, left, _counted(changed, destinations), following, until)


def _require_done(changed: Changed, id_: int) -> None:
    if not any(changed.done):
        raise _conflict(f"delivery {id_} has changed meanwhile; look at it again")


def _shortened(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."


def _bad_request(message: str) -> RepairRefusedError:
    return RepairRefusedError(Refusal.BAD_REQUEST, message)


def _unprocessable(message: str) -> RepairRefusedError:
    return RepairRefusedError(Refusal.UNPROCESSABLE, message)


def _conflict(message: str) -> RepairRefusedError:
    return RepairRefusedError(Refusal.CONFLICT, message)


def _no_quarantined(id_: int) -> RepairRefusedError:
    return RepairRefusedError(Refusal.NOT_FOUND, f"there is nothing with the number {id_} in quarantine")
