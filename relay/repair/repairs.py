"""The repairs themselves: find what is meant, have the store change it, and tell the lanes.

Those of all that a filter finds are left to `sweeps`; what follows a change of deliveries, to `aftermath`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from relay.metrics import Metrics
from relay.model import DeliveryState
from relay.repair.aftermath import Aftermath, Lanes
from relay.repair.plan import RepairConfig, payload_of, place
from relay.repair.progress import Goal, Step, Sweep
from relay.repair.quarantined import admitted
from relay.repair.refusal import RepairRefusedError, conflict, not_found, require_configured, require_known
from relay.repair.sweeps import Sweeps
from relay.store import Store
from relay.store.changing import DISCARDABLE, UNDER_WAY
from relay.store.repair import Change, Changed, DeliveryRecord, EventRecord, Filter, Page, Replay

_log = logging.getLogger(__name__)


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
        self._aftermath = Aftermath(lanes, metrics)
        self._sweeps = Sweeps(store, self._aftermath, now)
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
                raise not_found(f"there is no delivery {id_}")

    async def replay_one(self, who: str, id_: int) -> None:
        """Deliver again where a delivery went."""
        delivery, event = await self.find_delivery(id_)
        destination = delivery.destination
        require_configured([destination], self.config.destinations)
        for other in event.deliveries:
            if other.destination == destination and other.state in UNDER_WAY:
                raise conflict(
                    f"delivery {other.id} to {destination} is {other.state}: it is delivered by itself;"
                    " resume the destination to have it tried at once"
                )
        payload = await asyncio.to_thread(payload_of, event)
        key = place(payload, self.config, destination, delivery)
        now = self._now()
        change = Change(who, now, "replay", {"delivery": id_})
        changed = await self._store.replay(change, [Replay(event.id, destination, now, key, id_)])
        self._aftermath.replayed(who, changed, [destination])
        _require_done(changed, id_)

    async def discard_one(self, who: str, id_: int, reason: str) -> None:
        """Give up a delivery that is pending or dead."""
        delivery, _ = await self.find_delivery(id_)
        if delivery.state not in DISCARDABLE:
            raise conflict(f"delivery {id_} is {delivery.state}; only pending and dead ones can be discarded")
        change = Change(who, self._now(), "discard", {"delivery": id_, "reason": reason})
        changed = await self._store.discard(change, [id_], reason)
        self._aftermath.discarded(who, changed, [delivery])
        _require_done(changed, id_)

    async def skip_one(self, who: str, id_: int) -> None:
        """Let what waits behind a dead delivery go on."""
        delivery, _ = await self.find_delivery(id_)
        if delivery.state is not DeliveryState.DEAD:
            raise conflict(f"delivery {id_} is {delivery.state}; only dead ones can be skipped")
        if delivery.order_key is None:
            raise conflict(f"delivery {id_} holds up nothing: it has no place in an order")
        changed = await self._store.skip(Change(who, self._now(), "skip", {"delivery": id_}), [id_])
        self._aftermath.skipped(who, changed)
        _require_done(changed, id_)

    # ---- all that a filter finds, a step at a time

    async def replay(self, sweep: Sweep, goal: Goal) -> Step:
        """Make one step of a replay, in order of acceptance."""
        return await self._sweeps.replay(self.config, sweep, goal)

    async def discard(self, sweep: Sweep, reason: str) -> Step:
        """Make one step of giving up deliveries, first the pending ones and then the dead ones."""
        return await self._sweeps.discard(sweep, reason)

    async def skip(self, sweep: Sweep) -> Step:
        """Make one step of letting go on what waits behind dead deliveries."""
        return await self._sweeps.skip(sweep)

    # ---- destinations

    async def pause(self, who: str, destination: str) -> None:
        """Send nothing to a destination until it is resumed; it may be paused already."""
        require_known(destination, self.config.destinations)
        await self._set_paused(Change(who, self._now(), "pause", {"destination": destination}), destination)

    async def resume(self, who: str, destination: str) -> None:
        """Send to a destination again, now, also what would wait for its next attempt.

        It needn't be paused, or configured any more if it is.
        """
        known = [*self.config.destinations, *await self._store.paused()]
        require_known(destination, known)
        now = self._now()
        await self._set_paused(Change(who, now, "resume", {"destination": destination}), destination)
        while await self._store.bring_forward(destination, now, now):
            self.lanes.notice([destination], fresh=False)

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
            require_configured(to, self.config.destinations)
        now = self._now()
        admission = await asyncio.to_thread(admitted, request, self.config, to, now)
        event, owed = admission.event, admission.owed
        detail: dict[str, Any] = {"quarantined": id_, "source": request.source, "event_id": event.event_id}
        if to is not None:
            detail["to"] = list(to)
        change = Change(who, now, "release-quarantined", detail)
        acceptance = await self._store.release_quarantined(change, id_, event, admission.references, owed)
        if acceptance is None:
            raise _no_quarantined(id_)
        if not acceptance.duplicate:
            self.lanes.notice(owed, fresh=True)
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


def _require_done(changed: Changed, id_: int) -> None:
    if not any(changed.done):
        raise conflict(f"delivery {id_} has changed meanwhile; look at it again")


def _no_quarantined(id_: int) -> RepairRefusedError:
    return not_found(f"there is nothing with the number {id_} in quarantine")
