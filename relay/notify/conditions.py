"""What is worth a message: state and observation to state and report. Pure: time is an argument.

A condition is told once when it begins and once when it is over. One that comes back within a moment was
never over. Several that change together are one report, and reports come at a bounded rate: what changed
meanwhile is in the next one, and what came and went between two is in none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from relay.config import NotifyWhen
from relay.hold import elapses_at
from relay.model import DeliveryState, LaneState
from relay.pace import Rate, take
from relay.store import Backlog

NOT_READY_SECONDS = 60.0  # longer than a stop takes
OVER_SECONDS = 300.0  # so long a condition must have been absent to be over
MORE_DEAD_SECONDS = 3600.0  # between two messages on a number of dead deliveries that grows
RATE = Rate(count=12, per_seconds=3600.0, burst=4)  # of reports


class Kind(StrEnum):
    """What may be wrong."""

    NOT_READY = "not_ready"
    DEAD = "dead"
    OVERDUE = "overdue"
    BREAKER = "breaker"
    SILENT = "silent"


@dataclass(frozen=True, slots=True, order=True)
class Condition:
    """One thing that is wrong. `name`: the destination or source; empty where it is the relay itself."""

    kind: Kind
    name: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """The relay at one moment.

    Attributes:
        now: UTC, as seconds since 1970.
        clock: of a clock that never goes back, in seconds.
        ready: webhooks are accepted.
        lanes: by destination.
        backlog: by destination, None where the store couldn't say.
        last_events: when each source sent its last one, None where the store couldn't say.
    """

    now: float
    clock: float
    ready: bool
    lanes: Mapping[str, LaneState]
    backlog: Mapping[str, Backlog] | None
    last_events: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a report.

    Attributes:
        seconds: how long the condition has been there, or has been when it was over.
        number: of dead deliveries.
        since: of a silence: when the last event came.
    """

    condition: Condition
    seconds: float = 0.0
    number: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What has begun and what is over since the last one."""

    begun: tuple[Fact, ...]
    ended: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What was said of a condition that isn't over. Times are of `Observed.clock`.

    Attributes:
        begun_at: when it was first seen.
        told_at: when it was told.
        number: as it was told.
        absent_since: when it was first not seen any more, None while it is there.
    """

    begun_at: float
    told_at: float
    number: int
    absent_since: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered from one look to the next.

    Attributes:
        begun_at: when each condition that is there was first seen.
        rested_at: when each destination was last seen resting, UTC.
        told: what was told and isn't over.
        ready_at: see `pace.take`.
    """

    begun_at: Mapping[Condition, float] = field(default_factory=dict)
    rested_at: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[Condition, Told] = field(default_factory=dict)
    ready_at: float = -math.inf


def look(memory: Memory, seen: Observed, when: NotifyWhen) -> tuple[Memory, Report | None]:
    """Return what is remembered after one look, and what is to be told, None for nothing."""
    memory = replace(memory, rested_at=_rested_at(memory.rested_at, seen))
    facts = {fact.condition: fact for fact in _facts(seen, when, memory.rested_at)}
    present = facts.keys() | {known for known in memory.begun_at if _is_unknown(known, seen, when)}
    begun_at = {condition: memory.begun_at.get(condition, seen.clock) for condition in present}
    told = {
        condition: _followed(about, facts.get(condition), seen.clock, present=condition in present)
        for condition, about in memory.told.items()
        if _is_asked_for(condition, seen, when)
    }
    memory = replace(memory, begun_at=begun_at, told=told)
    begun = [fact for fact in facts.values() if _is_news(fact, memory, seen.clock, when)]
    ended = [condition for condition, about in told.items() if _is_over(about, seen.clock)]
    if not begun and not ended:
        return memory, None
    wait, ready_at = take(RATE, memory.ready_at, seen.clock)
    if wait > 0:
        return memory, None
    return _tell(replace(memory, ready_at=ready_at), begun, ended, seen.clock)


def _tell(memory: Memory, begun: list[Fact], ended: list[Condition], clock: float) -> tuple[Memory, Report]:
    report = Report(
        begun=tuple(
            replace(fact, seconds=max(fact.seconds, clock - memory.begun_at[fact.condition]))
            for fact in sorted(begun, key=lambda fact: fact.condition)
        ),
        ended=tuple(
            Fact(
                condition,
                seconds=_first(memory.told[condition].absent_since, clock) - memory.told[condition].begun_at,
            )
            for condition in sorted(ended)
        ),
    )
    told = {condition: about for condition, about in memory.told.items() if condition not in ended}
    for fact in begun:
        known = told.get(fact.condition)
        begun_at = known.begun_at if known else memory.begun_at[fact.condition]
        told[fact.condition] = Told(begun_at, clock, fact.number)
    return replace(memory, told=told), report


def _facts(seen: Observed, when: NotifyWhen, rested_at: Mapping[str, float]) -> list[Fact]:
    """Return all that is wrong at this moment."""
    facts = [] if seen.ready else [Fact(Condition(Kind.NOT_READY))]
    for name, owed in (seen.backlog or {}).items():
        if when.dead and (dead := owed.counts.get(DeliveryState.DEAD, 0)):
            facts.append(Fact(Condition(Kind.DEAD, name), number=dead))
        if when.overdue and owed.oldest_accepted_at is not None:
            waits_since = max(owed.oldest_accepted_at, rested_at.get(name, -math.inf))  # now, while it rests
            if seen.now - waits_since > when.overdue.total_seconds():
                facts.append(Fact(Condition(Kind.OVERDUE, name), seconds=seen.now - owed.oldest_accepted_at))
    if when.breaker:
        open_ones = [name for name, lane in seen.lanes.items() if lane.probe_at is not None]
        facts += [Fact(Condition(Kind.BREAKER, name)) for name in open_ones]
    if when.silent:
        after = when.silent.after.total_seconds()
        for name, last_at in (seen.last_events or {}).items():
            silent_at = elapses_at(when.silent.hours, last_at, after)
            if silent_at is not None and seen.now >= silent_at:
                facts.append(Fact(Condition(Kind.SILENT, name), since=last_at))
    return facts


def _is_news(fact: Fact, memory: Memory, clock: float, when: NotifyWhen) -> bool:
    """Tell whether a condition is to be told: for the first time, or since more deliveries are dead."""
    told = memory.told.get(fact.condition)
    if told is not None:
        return fact.number > told.number and clock - told.told_at >= MORE_DEAD_SECONDS
    wait = 0.0
    if fact.condition.kind is Kind.NOT_READY:
        wait = NOT_READY_SECONDS
    elif fact.condition.kind is Kind.BREAKER and when.breaker:
        wait = when.breaker.total_seconds()
    return clock - memory.begun_at[fact.condition] >= wait


def _followed(told: Told, fact: Fact | None, clock: float, *, present: bool) -> Told:
    """Return what was told with what has become of it; a number that fell may grow again from there."""
    if not present:
        return replace(told, absent_since=_first(told.absent_since, clock))
    number = told.number if fact is None else min(told.number, fact.number)
    return replace(told, number=number, absent_since=None)


def _is_over(told: Told, clock: float) -> bool:
    return told.absent_since is not None and clock - told.absent_since >= OVER_SECONDS


def _is_unknown(condition: Condition, seen: Observed, when: NotifyWhen) -> bool:
    """Tell whether it can't be said now if a condition is still there."""
    match condition.kind:
        case Kind.DEAD:
            return when.dead and seen.backlog is None
        case Kind.OVERDUE:
            return when.overdue is not None and (seen.backlog is None or _rests(condition.name, seen))
        case Kind.SILENT:
            return when.silent is not None and seen.last_events is None
        case _:
            return False


def _is_asked_for(condition: Condition, seen: Observed, when: NotifyWhen) -> bool:
    """Tell whether a condition is one that is to be told; what a reload switches off is forgotten.

    So is a source that it takes away: nothing will come of it again.
    """
    match condition.kind:
        case Kind.NOT_READY:
            return True
        case Kind.DEAD:
            return when.dead
        case Kind.OVERDUE:
            return when.overdue is not None
        case Kind.BREAKER:
            return when.breaker is not None
        case Kind.SILENT:
            sources = seen.last_events
            return when.silent is not None and (sources is None or condition.name in sources)


def _rested_at(before: Mapping[str, float], seen: Observed) -> dict[str, float]:
    kept = {name: at for name, at in before.items() if name in seen.lanes}
    return kept | {name: seen.now for name in seen.lanes if _rests(name, seen)}


def _rests(name: str, seen: Observed) -> bool:
    """Tell whether nothing is to be sent to a destination, so that waiting is as it should be."""
    lane = seen.lanes.get(name)
    return lane is not None and (lane.paused_at is not None or lane.held_until is not None)


def _first(earlier: float | None, now: float) -> float:
    return now if earlier is None else earlier
