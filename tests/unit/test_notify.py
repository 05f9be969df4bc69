"""What is worth a message, and what it says."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config import NotifyWhen, Silence
from relay.hold import parse_window
from relay.model import DeliveryState, LaneState
from relay.notify.conditions import (
    MORE_DEAD_SECONDS,
    NOT_READY_SECONDS,
    OVER_SECONDS,
    RATE,
    Condition,
    Fact,
    Kind,
    Memory,
    Observed,
    Report,
    look,
)
from relay.notify.wording import Message, as_json, message, spoken
from relay.store import Backlog

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()  # a Monday
MINUTE, HOUR = 60.0, 3600.0
EVERYTHING = NotifyWhen(silent=Silence())
RELAY = Path(__file__).parents[2] / "relay"

DEAD, OVERDUE, BREAKER = (Condition(kind, "erp") for kind in (Kind.DEAD, Kind.OVERDUE, Kind.BREAKER))
SILENT, NOT_READY = Condition(Kind.SILENT, "itscope"), Condition(Kind.NOT_READY)


def owed(dead: int = 0, oldest_at: float | None = None) -> dict[str, Backlog]:
    return {"erp": Backlog({DeliveryState.DEAD: dead}, oldest_at)}


def said(report: Report | None) -> tuple[list[Condition], list[Condition]]:
    """Return what a report says has begun, and what is over."""
    if report is None:
        return [], []
    return [fact.condition for fact in report.begun], [fact.condition for fact in report.ended]


NOTHING: tuple[list[Condition], list[Condition]] = ([], [])


@dataclass
class Watch:
    """One relay that is looked at again and again."""

    when: NotifyWhen = EVERYTHING
    memory: Memory = field(default_factory=Memory)
    seconds: float = 0.0  # since noon
    report: Report | None = None

    def after(
        self,
        seconds: float,
        *,
        ready: bool = True,
        lane: LaneState | None = None,
        backlog: Mapping[str, Backlog] | None = None,
        store: bool = True,
        last_at: float | None = None,
        source: str = "itscope",
    ) -> tuple[list[Condition], list[Condition]]:
        """Look some time later, and return what is told."""
        self.seconds += seconds
        now = NOON + self.seconds
        seen = Observed(
            now=now,
            clock=self.seconds,
            ready=ready,
            lanes={"erp": lane or LaneState()},
            backlog=(backlog or owed()) if store else None,
            last_events={source: now if last_at is None else last_at} if store else None,
        )
        self.memory, self.report = look(self.memory, seen, self.when)
        return said(self.report)


@pytest.fixture
def watch() -> Watch:
    return Watch()


# ---- dead deliveries


def test_dead_delivery_is_told_at_once_and_only_once(watch: Watch) -> None:
    assert watch.after(10, backlog=owed(dead=2)) == ([DEAD], [])
    assert watch.report
    assert watch.report.begun[0].number == 2
    for _ in range(1000):
        assert watch.after(10, backlog=owed(dead=2)) == NOTHING


def test_end_is_told_when_it_has_lasted(watch: Watch) -> None:
    watch.after(0, backlog=owed(dead=1))
    assert watch.after(10 * MINUTE) == NOTHING
    assert watch.after(OVER_SECONDS - 1) == NOTHING
    assert watch.after(1) == ([], [DEAD])
    assert watch.report
    assert watch.report.ended[0].seconds == 10 * MINUTE
    assert watch.after(HOUR) == NOTHING


def test_condition_that_comes_back_within_a_moment_was_never_over(watch: Watch) -> None:
    watch.after(0, backlog=owed(dead=1))
    for _ in range(20):
        assert watch.after(OVER_SECONDS - 1) == NOTHING
        assert watch.after(1, backlog=owed(dead=1)) == NOTHING
    assert watch.after(1) == NOTHING
    assert watch.after(OVER_SECONDS) == ([], [DEAD])
    assert watch.report
    assert watch.report.ended[0].seconds == pytest.approx(20 * OVER_SECONDS + 1)


def test_more_dead_deliveries_are_told_but_not_more_than_once_an_hour(watch: Watch) -> None:
    watch.after(0, backlog=owed(dead=1))
    assert watch.after(MORE_DEAD_SECONDS - 1, backlog=owed(dead=9)) == NOTHING
    assert watch.after(1, backlog=owed(dead=9)) == ([DEAD], [])
    assert watch.after(MORE_DEAD_SECONDS, backlog=owed(dead=9)) == NOTHING
    assert watch.after(10, backlog=owed(dead=2)) == NOTHING
    assert watch.after(10, backlog=owed(dead=3)) == ([DEAD], [])  # one that is new


def test_what_is_switched_off_is_not_told() -> None:
    watch = Watch(NotifyWhen(dead=False, overdue=None, breaker=None))
    lane = LaneState(probe_at=NOON)
    for _ in range(3):
        assert watch.after(HOUR, backlog=owed(9, NOON - 9 * HOUR), lane=lane, last_at=1.0) == NOTHING


def test_what_a_reload_switches_off_is_forgotten_and_not_told_as_over(watch: Watch) -> None:
    watch.after(0, backlog=owed(dead=1))
    watch.when = NotifyWhen(dead=False)
    assert watch.after(10, backlog=owed(dead=1)) == NOTHING
    assert watch.after(HOUR, backlog=owed(dead=1)) == NOTHING
    watch.when = EVERYTHING
    assert watch.after(10, backlog=owed(dead=1)) == ([DEAD], [])


# ---- events that wait


def test_event_that_waits_too_long_is_told(watch: Watch) -> None:
    assert watch.after(30 * MINUTE, backlog=owed(oldest_at=NOON)) == NOTHING
    assert watch.after(1, backlog=owed(oldest_at=NOON)) == ([OVERDUE], [])
    assert watch.report
    assert watch.report.begun[0].seconds == 30 * MINUTE + 1


@pytest.mark.parametrize("rest", [LaneState(paused_at=NOON), LaneState(held_until=NOON + 9 * HOUR)])
def test_waiting_for_a_destination_at_rest_is_no_fault_nor_right_after(watch: Watch, rest: LaneState) -> None:
    old = owed(oldest_at=NOON)
    for _ in range(12):
        assert watch.after(10 * MINUTE, backlog=old, lane=rest) == NOTHING
    assert watch.after(30 * MINUTE, backlog=old) == NOTHING  # time to work it off
    assert watch.after(1, backlog=old) == ([OVERDUE], [])


def test_pause_does_not_end_what_was_overdue_before(watch: Watch) -> None:
    old = owed(oldest_at=NOON - HOUR)
    watch.after(0, backlog=old)
    for _ in range(12):
        assert watch.after(10 * MINUTE, backlog=old, lane=LaneState(paused_at=NOON)) == NOTHING
    assert watch.after(31 * MINUTE, backlog=old) == NOTHING
    assert watch.after(10) == NOTHING
    assert watch.after(OVER_SECONDS) == ([], [OVERDUE])


# ---- the breaker


def test_open_breaker_is_told_when_it_stays_open(watch: Watch) -> None:
    is_open = LaneState(probe_at=NOON)
    assert watch.after(0, lane=is_open) == NOTHING
    assert watch.after(15 * MINUTE - 1, lane=is_open) == NOTHING
    assert watch.after(1, lane=is_open) == ([BREAKER], [])
    assert watch.report
    assert watch.report.begun[0].seconds == 15 * MINUTE


def test_breaker_that_closes_in_between_begins_anew(watch: Watch) -> None:
    is_open = LaneState(probe_at=NOON)
    watch.after(0, lane=is_open)
    watch.after(14 * MINUTE, lane=is_open)
    watch.after(10)
    watch.after(10, lane=is_open)
    assert watch.after(14 * MINUTE, lane=is_open) == NOTHING
    assert watch.after(1 * MINUTE, lane=is_open) == ([BREAKER], [])


# ---- silence


def test_silence_is_told_after_its_time(watch: Watch) -> None:
    assert watch.after(4 * HOUR - 1, last_at=NOON) == NOTHING
    assert watch.after(1, last_at=NOON) == ([SILENT], [])
    assert watch.report
    assert watch.report.begun[0].since == NOON


def test_silence_counts_in_its_hours_only() -> None:
    hours = (parse_window("Mon-Fri 08:00-18:00 Europe/Berlin"),)
    watch = Watch(NotifyWhen(silent=Silence(after=timedelta(hours=4), hours=hours)))
    friday = NOON - 3 * 86400 + 4 * HOUR  # 17:00 in Berlin, so one hour is left
    watch.seconds = friday - NOON
    assert watch.after(0, last_at=friday) == NOTHING
    assert watch.after(2 * 86400 + 18 * HOUR - 1, last_at=friday) == NOTHING  # Monday, just before 11:00
    assert watch.after(1, last_at=friday) == ([SILENT], [])


def test_source_that_a_reload_takes_away_is_forgotten_and_not_told_as_over(watch: Watch) -> None:
    assert watch.after(4 * HOUR, last_at=NOON) == ([SILENT], [])
    assert watch.after(1, source="other") == NOTHING
    assert watch.after(OVER_SECONDS, source="other") == NOTHING


# ---- readiness, and a store that is away


def test_relay_that_accepts_nothing_is_told_but_not_a_short_stop(watch: Watch) -> None:
    assert watch.after(0, ready=False) == NOTHING
    assert watch.after(NOT_READY_SECONDS, ready=False) == ([NOT_READY], [])
    assert watch.after(10) == NOTHING
    assert watch.after(OVER_SECONDS) == ([], [NOT_READY])


def test_store_that_is_away_ends_nothing_and_begins_nothing(watch: Watch) -> None:
    watch.after(0, backlog=owed(dead=1), last_at=NOON - 9 * HOUR)
    for _ in range(3):
        assert watch.after(HOUR, store=False) == NOTHING
    assert watch.after(10, backlog=owed(dead=1), last_at=NOON - 9 * HOUR) == NOTHING


# ---- many at once


def test_what_changes_together_is_one_report(watch: Watch) -> None:
    first = watch.after(0, backlog=owed(3, NOON - HOUR), last_at=NOON - 9 * HOUR)
    assert first == ([DEAD, OVERDUE, SILENT], [])
    watch.after(10)
    assert watch.after(OVER_SECONDS) == ([], [DEAD, OVERDUE, SILENT])


LANES = st.sampled_from(
    [LaneState(), LaneState(probe_at=1.0), LaneState(paused_at=1.0), LaneState(held_until=1.0)]
)
STEPS = st.lists(
    st.tuples(
        st.floats(1, 2000),
        st.booleans(),
        LANES,
        st.none() | st.tuples(st.integers(0, 3), st.sampled_from([None, 0.0, 2000.0, 1e6])),
        st.sampled_from([0.0, 1e6]),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(STEPS)
def test_each_condition_begins_once_before_it_ends_and_reports_are_few(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    watch = Watch()
    present: set[Condition] = set()
    reported_at: list[float] = []
    for seconds, ready, lane, backlog, silent in steps:
        now = NOON + watch.seconds + seconds
        dead, age = backlog or (0, None)
        begun, ended = watch.after(
            seconds,
            ready=ready,
            lane=lane,
            backlog=owed(dead, None if age is None else now - age),
            store=backlog is not None,
            last_at=now - silent,
        )
        assert set(ended) <= present
        assert {condition for condition in begun if condition.kind is not Kind.DEAD}.isdisjoint(present)
        assert not set(begun) & set(ended)
        assert max(Counter(begun + ended).values(), default=1) == 1
        present = (present | set(begun)) - set(ended)
        assert watch.memory.told.keys() == present
        if begun or ended:
            reported_at.append(watch.seconds)
    for at in reported_at:
        within = [other for other in reported_at if at <= other < at + RATE.per_seconds]
        assert len(within) <= RATE.count + RATE.burst - 1


@given(STEPS)
def test_what_stays_is_told_whatever_was_before(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    watch = Watch()
    for seconds, ready, lane, _, _ in steps:
        watch.after(seconds, ready=ready, lane=lane)
    told = [watch.after(MINUTE, backlog=owed(dead=1)) for _ in range(60)]
    assert sum(DEAD in begun for begun, _ in told) == 1
    told = [watch.after(MINUTE) for _ in range(60)]
    assert sum(DEAD in ended for _, ended in told) == 1


# ---- words


def worded(report: Report, link: str | None = None) -> Message:
    return message(report, "itscope-relay", link, NOON)


def test_message_says_what_is_wrong_and_where_to_look() -> None:
    report = Report((Fact(DEAD, number=1), Fact(OVERDUE, seconds=2700.0)), (Fact(BREAKER, seconds=3600.0),))
    made = worded(report, "https://relay.example/")
    assert made.subject == (
        "itscope-relay: erp: 1 delivery is dead, and waits to be replayed or discarded (and 2 more)"
    )
    assert made.lines == (
        "itscope-relay, 2026-11-23 12:00 UTC",
        "erp: 1 delivery is dead, and waits to be replayed or discarded",
        "erp: an event has been waiting for 45m",
        "recovered: erp: its breaker isn't open any more (it lasted 1h)",
        "https://relay.example/",
    )


@pytest.mark.parametrize("condition", [DEAD, OVERDUE, BREAKER, SILENT, NOT_READY])
def test_every_condition_has_its_words(condition: Condition) -> None:
    fact = Fact(condition, seconds=60.0, number=2, since=NOON)
    for report in (Report((fact,), ()), Report((), (fact,))):
        made = worded(report)
        assert condition.name in made.lines[1]
        assert "1m" in made.lines[1] or condition.kind in {Kind.DEAD, Kind.SILENT}
        assert made.subject == f"itscope-relay: {made.lines[1]}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (3600, "1h"), (3660, "1h 1m"), (86400, "1d"), (90000, "1d 1h")],
)
def test_durations_are_spoken(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_slack_and_mattermost_take_a_text() -> None:
    made = Message("s", ("a", "https://relay.example/?a=1&b=<2>"))
    assert as_json(made, "slack") == {"text": "a\nhttps://relay.example/?a=1&amp;b=&lt;2&gt;"}
    assert as_json(made, "mattermost") == {"text": "a\nhttps://relay.example/?a=1&b=<2>"}


def test_teams_takes_a_card_of_plain_text() -> None:
    sent = as_json(Message("s", ("head", "a_b_c: *not bold*")), "teams")
    json.dumps(sent)
    (attachment,) = sent["attachments"]
    assert (sent["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    runs = [run["text"] for block in attachment["content"]["body"] for run in block["inlines"]]
    assert runs == ["head", "a_b_c: *not bold*"]


# ---- rooms


@pytest.mark.parametrize("module", ["conditions", "wording"])
def test_decisions_and_words_know_no_clock_and_no_io(module: str) -> None:
    tree = ast.parse((RELAY / "notify" / f"{module}.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names.isdisjoint({"asyncio", "time", "logging", "random", "aiohttp", "aiosmtplib"})
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
