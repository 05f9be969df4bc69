"""Repairs of all that a filter finds, one bounded step at a time.

Owns what a step looks at and where the next one goes on. What a replay makes of what was found is `plan`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from relay.model import DeliveryState
from relay.repair.aftermath import Aftermath, counted
from relay.repair.plan import RepairConfig, needs_bodies, plan
from relay.repair.progress import MAX_STEP, REST_SECONDS, Goal, Progress, Step, Sweep
from relay.repair.refusal import bad_request, require_configured, unprocessable
from relay.store import Store
from relay.store.changing import DISCARDABLE, UNDER_WAY
from relay.store.repair import Change, Changed, DeliveryRecord, Filter, Found, Page

_DISCARD_PHASES = (DeliveryState.PENDING, DeliveryState.DEAD)  # all of DISCARDABLE, in this order


class Sweeps:
    """Makes steps, one a call.

    Each leaves a record of the change, and raises RepairRefusedError where what is asked for can't be done.
    """

    def __init__(self, store: Store, aftermath: Aftermath, now: Callable[[], float]) -> None:
        self._store = store
        self._aftermath = aftermath
        self._now = now

    async def replay(self, config: RepairConfig, sweep: Sweep, goal: Goal) -> Step:
        """Make one step of a replay, in order of acceptance."""
        wanted, progress = sweep.bounded(), sweep.progress
        _require_replayable(wanted, goal, config)
        limit = sweep.limit if sweep.dry_run else min(sweep.limit, goal.step)
        page = Page(limit, progress.after, newest_first=False)
        bodies = needs_bodies(config, goal, wanted)
        to = None if goal.by_routes else goal.to or wanted.destination
        found = await self._store.find_events(wanted, page, bodies=bodies, to=to)
        now = self._now()
        start = max(now, progress.due_at)
        planning = partial(plan, found.items, config, goal, wanted, start)
        planned = await asyncio.to_thread(planning) if bodies else planning()  # payloads may be large
        destinations = [one.destination for one in planned.replays]
        changed = _as_if(progress, destinations)
        if not sweep.dry_run and planned.replays:
            change = Change(sweep.who, now, "replay", sweep.detail, progress.change)
            changed = await self._store.replay(change, planned.replays)
            self._aftermath.replayed(sweep.who, changed, destinations)
            await asyncio.sleep(goal.rest_seconds(len(destinations)))
        following = _next(progress, found.next, changed.id, planned.due_at, str(goal.pace))
        return _step(changed, destinations, planned.skipped, following, wanted.until)

    async def discard(self, sweep: Sweep, reason: str) -> Step:
        """Make one step of giving up deliveries, first the pending ones and then the dead ones.

        Those in flight are left as they are; in the end they are counted.
        """
        wanted, progress = sweep.bounded(), sweep.progress
        states = _DISCARD_PHASES if wanted.state is None else (wanted.state,)
        if wanted.unrouted or states[0] not in DISCARDABLE:
            raise unprocessable("filter.state: only pending and dead deliveries can be discarded")
        if progress.phase >= len(states):
            raise bad_request("cursor: it belongs to another filter")
        found = await self._deliveries(wanted, states[progress.phase], sweep.limit, progress)
        if not found.items and found.next is None and progress.phase + 1 < len(states):
            progress = replace(progress, after=None, phase=progress.phase + 1)
            found = await self._deliveries(wanted, states[progress.phase], sweep.limit, progress)
        changed = _as_if(progress, found.items)
        if not sweep.dry_run and found.items:
            change = Change(sweep.who, self._now(), "discard", sweep.detail, progress.change)
            changed = await self._store.discard(change, [delivery.id for delivery in found.items], reason)
            self._aftermath.discarded(sweep.who, changed, found.items)
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
            raise unprocessable("filter.state: only dead deliveries can be skipped")
        found = await self._deliveries(wanted, DeliveryState.DEAD, sweep.limit, progress)
        holding = [delivery for delivery in found.items if delivery.order_key is not None]
        changed = _as_if(progress, holding)
        if not sweep.dry_run and holding:
            change = Change(sweep.who, self._now(), "skip", sweep.detail, progress.change)
            changed = await self._store.skip(change, [delivery.id for delivery in holding])
            self._aftermath.skipped(sweep.who, changed)
            await asyncio.sleep(REST_SECONDS)
        destinations = [delivery.destination for delivery in holding]
        return _step(changed, destinations, 0, _next(progress, found.next, changed.id), wanted.until)

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


def _require_replayable(wanted: Filter, goal: Goal, config: RepairConfig) -> None:
    if goal.to is not None:
        require_configured([goal.to], config.destinations)
    if goal.to is not None or goal.by_routes:
        return
    if wanted.unrouted:
        raise unprocessable("unrouted events have no delivery to repeat; give to or by_routes")
    if wanted.state in UNDER_WAY:
        raise unprocessable(f"filter.state: what is {wanted.state} is under way; there is nothing to repeat")
    if wanted.destination is not None:
        require_configured([wanted.destination], config.destinations)


def _as_if(progress: Progress, items: Sequence[object]) -> Changed:
    """Return what a change would have done, had it been made."""
    return Changed(progress.change, (True,) * len(items))


def _next(
    progress: Progress, after: str | None, change: int | None, due_at: float = 0.0, pace: str | None = None
) -> Progress | None:
    if after is None:
        return None
    return replace(progress, after=after, change=change or progress.change, due_at=due_at, pace=pace)


def _step(
    changed: Changed,
    destinations: Sequence[str],
    skipped: int,
    following: Progress | None,
    until: float | None,
) -> Step:
    done = sum(changed.done)
    left = skipped + len(destinations) - done
    return Step(done, left, counted(changed, destinations), following, until)
