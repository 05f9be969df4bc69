"""How fast a destination is sent to."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.pace import Rate, parse_rate, take

HINT = (
    "write a rate as a number and s, min or h, such as 5/s, 100/min or 1000/h; with a burst: 100/min burst 10"
)
RATES = st.integers(1, 100_000).flatmap(
    lambda count: st.builds(
        Rate, st.just(count), st.sampled_from([1.0, 60.0, 3600.0]), st.integers(1, min(count, 50))
    )
)
STARTS = st.floats(0, 1e9)
NEVER = -math.inf


def greedy(rate: Rate, start: float, sends: int, pauses: list[float] | None = None) -> list[float]:
    """Return when sends happen that are as early as allowed, after pauses in turn (in intervals)."""
    times, ready_at, now = list[float](), NEVER, start
    for number in range(sends):
        now += (pauses[number % len(pauses)] if pauses else 0) * rate.per_seconds / rate.count
        wait, ready_at = take(rate, ready_at, now)
        if wait:
            now += wait
            wait, ready_at = take(rate, ready_at, now)
            assert wait == 0.0
        times.append(now)
    return times


def most_in_a_span(times: list[float], span: float) -> int:
    """Return the highest number of times in any span, its end not counted; rounding is forgiven."""
    margin = 1e-9 * span + 8 * math.ulp(times[-1]) * len(times)
    return max(bisect_left(times, at + span - margin) - index for index, at in enumerate(times))


# ---- as it is written


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/min", Rate(100, 60)),
        ("5/s", Rate(5, 1)),
        ("1000/h", Rate(1000, 3600)),
        ("1/h", Rate(1, 3600)),
        ("100000/s", Rate(100_000, 1)),
        ("100/min burst 10", Rate(100, 60, 10)),
        ("100/min burst 100", Rate(100, 60, 100)),
    ],
)
def test_rate_is_said_as_it_is_written(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate
    assert str(rate) == text


def test_burst_of_one_is_the_default() -> None:
    assert parse_rate("100/min burst 1") == parse_rate("100/min") == Rate(100, 60, 1)
    assert str(Rate(3, 7)) == "3/7s"


@pytest.mark.parametrize(
    "value",
    [
        *("", "100", "/min", "100/m", "100/sec", "100/d", "100 /min", "100/ min", " 100/min", "100/min\n"),
        *("-1/s", "1.5/s", "1e3/s", "100/MIN", "100/min burst", "100/min burst -1", "100/min  burst 5"),
        *("1000000/s1", "٣/s", "100/min, burst 5", 100, 1.5, True, None, ["100/min"], {"rate": "1/s"}),
    ],
)
def test_anything_else_is_no_rate(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^write a rate") as refused:
        parse_rate(value)
    assert str(refused.value) == HINT


@pytest.mark.parametrize("text", ["0/s", "100001/s", "000000/min", "999999/h burst 5"])
def test_number_has_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the number of a rate must be from 1 to 100000$"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["10/s burst 0", "10/s burst 11"])
def test_burst_is_at_most_the_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the burst of this rate must be from 1 to 10$"):
        parse_rate(text)


def test_parsed_rate_is_taken_as_it_is() -> None:
    assert parse_rate(Rate(3, 7)) == Rate(3, 7)


@given(RATES)
def test_written_rate_reads_as_itself(rate: Rate) -> None:
    assert parse_rate(str(rate)) == rate


# ---- the pace


@pytest.mark.parametrize("ready_at", [NEVER, 0.0])
def test_first_send_happens_at_once(ready_at: float) -> None:
    assert take(Rate(100, 50), ready_at, 7.0) == (0.0, 7.5)


def test_sends_without_a_burst_are_evenly_spaced() -> None:
    assert greedy(Rate(2, 1), 10.0, 5) == [10.0, 10.5, 11.0, 11.5, 12.0]


def test_a_wait_changes_nothing() -> None:
    assert take(Rate(2, 1), 10.5, 10.125) == (0.375, 10.5)


def test_burst_goes_at_once_and_comes_back_one_by_one() -> None:
    rate = Rate(2, 1, burst=3)
    assert greedy(rate, 10.0, 6) == [10.0, 10.0, 10.0, 10.5, 11.0, 11.5]
    # After a pause of two intervals, two may go at once.
    assert greedy(rate, 10.0, 8, [0, 0, 0, 3, 0, 0, 0, 0])[3:] == [11.5, 11.5, 11.5, 12.0, 12.5]


def test_quiet_time_saves_up_no_more_than_a_burst() -> None:
    assert greedy(Rate(2, 1, burst=2), 0.0, 5, [1000, 0, 0, 0, 0]) == [500.0, 500.0, 500.5, 501.0, 501.5]


def test_minute_of_the_documented_examples_has_no_more_than_is_documented() -> None:
    for text, most in [("100/min", 100), ("100/min burst 10", 109), ("91/min burst 10", 100)]:
        assert most_in_a_span(greedy(parse_rate(text), 0.0, 1000), 60.0) == most


@given(RATES, STARTS, st.lists(st.floats(0, 60), min_size=1, max_size=20))
def test_no_span_has_more_than_the_number_and_the_burst_less_one(
    rate: Rate, start: float, pauses: list[float]
) -> None:
    rate = Rate(min(rate.count, 60), rate.per_seconds, min(rate.burst, rate.count, 60))
    times = greedy(rate, start, 300, pauses)
    assert most_in_a_span(times, rate.per_seconds) <= rate.count + rate.burst - 1


@given(RATES, STARTS, st.integers(0, 200))
def test_waiting_as_long_as_said_is_enough(rate: Rate, start: float, sends: int) -> None:
    ready_at = NEVER
    for _ in range(sends):
        _, ready_at = take(rate, ready_at, start)
    wait, unchanged = take(rate, ready_at, start)
    if wait:
        assert unchanged == ready_at
        assert take(rate, ready_at, start + wait)[0] == 0.0


def test_waiting_as_long_as_said_is_enough_where_rounding_would_make_it_too_short() -> None:
    ready_at, now = 1.45, 0.36
    assert now + (ready_at - now) < ready_at
    wait, _ = take(Rate(1, 1), ready_at, now)
    assert take(Rate(1, 1), ready_at, now + wait)[0] == 0.0


@given(st.floats(0, 1e9), RATES, STARTS)
def test_wait_is_never_negative_and_bounded_by_what_was_taken(ahead: float, rate: Rate, start: float) -> None:
    wait, ready_at = take(rate, start + ahead, start)
    assert 0 <= wait <= ahead + math.ulp(start + ahead)
    assert ready_at >= start + ahead
    if wait > 0:
        assert ready_at == start + ahead


@given(RATES, STARTS)
def test_rate_is_reached_in_the_long_run(rate: Rate, start: float) -> None:
    times = greedy(rate, start, rate.burst + 200)
    interval = rate.per_seconds / rate.count
    assert times[-1] - start == pytest.approx(200 * interval, rel=1e-6, abs=1e-3)
