"""When a destination is left alone, and when it is tried again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.breaker import (
    Breaker,
    BreakerPolicy,
    abandon,
    begin,
    cooldown_seconds,
    counts_as_failure,
    end,
    may_send,
)
from relay.model import Outcome

POLICY = BreakerPolicy(
    failures=3, cooldown=timedelta(seconds=10), max_cooldown=timedelta(seconds=35)
)  # pauses: 10, 20, 35, 35
DURATIONS = st.timedeltas(timedelta(microseconds=1), timedelta(days=36500))
POLICIES = st.builds(
    lambda failures, one, other: BreakerPolicy(failures, min(one, other), max(one, other)),
    st.integers(1, 5),
    DURATIONS,
    DURATIONS,
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "abandon"]),
        st.integers(0, 5),  # which of the attempts under way
        st.booleans(),  # whether it failed
        st.floats(0, 100),  # seconds since the step before
    ),
    max_size=60,
)


def outcome(status: int | None) -> Outcome:
    return Outcome(status, None if status else "no answer", 0.1)


def after(*failed: bool, breaker: Breaker = Breaker(), policy: BreakerPolicy = POLICY) -> Breaker:  # noqa: B008 (frozen)
    """Return a breaker after attempts one after the other, all at 0 seconds."""
    for one in failed:
        breaker = begin(breaker, 0)
        breaker = end(breaker, breaker.generation, one, policy, 0)
    return breaker


def probed(breaker: Breaker, *, failed: bool, policy: BreakerPolicy = POLICY) -> Breaker:
    """Return a breaker after its probe, begun and ended when the cool-down was over."""
    assert breaker.open_until is not None
    started = begin(breaker, breaker.open_until)
    return end(started, started.generation, failed, policy, breaker.open_until)


def walk(policy: BreakerPolicy, steps: list[tuple[str, int, bool, float]]) -> list[tuple[Breaker, float]]:
    """Return every breaker, and its time, that a lane may come to that asks `may_send` first."""
    breaker, now, under_way = Breaker(), 0.0, list[int]()
    reached = [(breaker, now)]
    for step, which, failed, pause in steps:
        now += pause
        if step == "begin" and may_send(breaker, now):
            breaker = begin(breaker, now)
            under_way.append(breaker.generation)
        elif step != "begin" and under_way:
            generation = under_way.pop(which % len(under_way))
            ended = end(breaker, generation, failed, policy, now)
            breaker = ended if step == "end" else abandon(breaker, generation)
        reached.append((breaker, now))
    for generation in under_way:  # each attempt has an end
        breaker = abandon(breaker, generation)
    return [*reached, (breaker, now)]


# ---- what counts


@pytest.mark.parametrize("status", [None, 429, 500, 502, 503, 504, 599])
def test_no_answer_too_many_requests_and_server_errors_count(status: int | None) -> None:
    assert counts_as_failure(outcome(status))


@pytest.mark.parametrize(
    "status", [100, 200, 204, 301, 400, 401, 403, 404, 408, 409, 410, 413, 422, 428, 499]
)
def test_any_other_answer_does_not_count(status: int) -> None:
    assert not counts_as_failure(outcome(status))


@given(st.lists(st.sampled_from([200, 204, 400, 404, 409, 410, 413, 415, 422]), max_size=50), POLICIES)
def test_verdicts_never_open_it(statuses: list[int], policy: BreakerPolicy) -> None:
    breaker = after(*(counts_as_failure(outcome(status)) for status in statuses), policy=policy)
    assert breaker == Breaker()


# ---- opening


def test_new_one_is_closed() -> None:
    assert may_send(Breaker(), 0)
    assert begin(Breaker(), 0) == Breaker()


def test_failures_in_a_row_open_it_for_the_cooldown() -> None:
    assert after(True, True) == Breaker(failures=2)
    opened = after(True, True, True)
    assert opened == Breaker(trips=1, open_until=10.0, generation=1)
    assert not may_send(opened, 9.999)
    assert may_send(opened, 10)


def test_success_between_failures_begins_a_new_row() -> None:
    assert after(True, True, False, True, True) == Breaker(failures=2)


def test_defaults_are_the_documented_ones() -> None:
    assert BreakerPolicy() == BreakerPolicy(5, timedelta(seconds=30), timedelta(minutes=10))
    assert after(*[True] * 4, policy=BreakerPolicy()).open_until is None
    assert after(*[True] * 5, policy=BreakerPolicy()).open_until == 30


def test_single_failure_opens_it_where_the_policy_says_so() -> None:
    assert after(True, policy=replace(POLICY, failures=1)).open_until == 10


def test_longest_cooldown_is_not_shorter_than_the_first() -> None:
    with pytest.raises(ValueError, match=r"^max_cooldown \(10m\) must not be shorter than cooldown \(20m\)$"):
        BreakerPolicy(cooldown=timedelta(minutes=20))
    assert BreakerPolicy(cooldown=timedelta(minutes=10)).max_cooldown == timedelta(minutes=10)


# ---- probing


def test_one_probe_at_a_time_is_sent_after_the_cooldown() -> None:
    probing = begin(after(True, True, True), 10)
    assert probing == Breaker(trips=1, open_until=10.0, probing=True, generation=2)
    assert not may_send(probing, 10)
    assert not may_send(probing, 1e9)


def test_probe_that_succeeds_closes_it() -> None:
    closed = probed(after(True, True, True), failed=False)
    assert closed == Breaker(generation=3)
    assert after(True, True, breaker=closed).open_until is None


def test_probe_that_fails_opens_it_for_twice_as_long_up_to_the_longest() -> None:
    breaker, pauses = after(True, True, True), [10.0]
    for _ in range(4):
        assert breaker.open_until is not None
        before, breaker = breaker.open_until, probed(breaker, failed=True)
        assert breaker.open_until is not None
        pauses.append(breaker.open_until - before)
    assert pauses == [10, 20, 35, 35, 35]
    assert breaker.trips == 5


def test_cooldown_begins_at_its_shortest_again_after_it_was_closed() -> None:
    closed = probed(probed(after(True, True, True), failed=True), failed=False)
    assert closed.trips == 0
    assert after(True, True, True, breaker=closed).open_until == 10


def test_probe_without_outcome_gives_way_to_another_at_once() -> None:
    opened = after(True, True, True)
    probing = begin(opened, 12)
    given_up = abandon(probing, probing.generation)
    assert may_send(given_up, 13)
    assert given_up.open_until == opened.open_until
    assert given_up.trips == 1
    second = begin(given_up, 13)
    assert second.generation != probing.generation
    assert end(second, probing.generation, True, POLICY, 14) == second
    assert end(second, second.generation, False, POLICY, 14).open_until is None


def test_abandoned_attempt_of_a_closed_breaker_changes_nothing() -> None:
    assert abandon(Breaker(failures=2), 0) == Breaker(failures=2)


def test_attempt_that_was_not_allowed_changes_nothing() -> None:
    opened = after(True, True, True)
    assert begin(opened, 9) == opened
    assert end(opened, opened.generation, False, POLICY, 9) == opened
    probing = begin(opened, 10)
    assert begin(probing, 10) == probing


def test_attempt_from_before_it_opened_changes_nothing() -> None:
    opened = after(True, True, True)
    assert end(opened, 0, False, POLICY, 5) == opened
    assert end(opened, 0, True, POLICY, 5) == opened
    probing = begin(opened, 10)
    assert end(probing, 0, False, POLICY, 11) == probing
    assert abandon(probing, 0) == probing
    closed = end(probing, probing.generation, False, POLICY, 12)
    assert end(closed, 0, True, POLICY, 13) == closed


# ---- whatever happens


@given(POLICIES, STEPS, st.integers(1, 100))
def test_older_generation_never_changes_anything(
    policy: BreakerPolicy, steps: list[tuple[str, int, bool, float]], back: int
) -> None:
    for breaker, now in walk(policy, steps):
        assert end(breaker, breaker.generation - back, True, policy, now) == breaker
        assert end(breaker, breaker.generation - back, False, policy, now) == breaker
        assert abandon(breaker, breaker.generation - back) == breaker


@given(POLICIES, STEPS)
def test_it_is_always_probed_again(policy: BreakerPolicy, steps: list[tuple[str, int, bool, float]]) -> None:
    longest = policy.max_cooldown.total_seconds()
    for breaker, now in walk(policy, steps):
        ended = abandon(breaker, breaker.generation)
        assert may_send(ended, now + longest)


@given(POLICIES, STEPS)
def test_generation_changes_with_every_opening_closing_and_probe(
    policy: BreakerPolicy, steps: list[tuple[str, int, bool, float]]
) -> None:
    reached = [breaker for breaker, _ in walk(policy, steps)]
    for before, following in pairwise(reached):
        turned = before.open_until != following.open_until or (following.probing and not before.probing)
        assert following.generation == before.generation + turned
        assert following.open_until is None or following.failures == 0
        assert following.failures < policy.failures
        assert (following.open_until is None) == (following.trips == 0)


@given(POLICIES, st.integers(1, 10_000))
def test_cooldowns_never_shrink_and_stay_within_the_bounds(policy: BreakerPolicy, trips: int) -> None:
    pause = cooldown_seconds(trips, policy)
    assert policy.cooldown.total_seconds() <= pause <= policy.max_cooldown.total_seconds()
    assert pause <= cooldown_seconds(trips + 1, policy) <= 2 * pause
    assert cooldown_seconds(1, policy) == policy.cooldown.total_seconds()


def test_an_hour_of_outage_costs_few_attempts_and_ends_within_a_cooldown() -> None:
    """With the defaults: five failures, then probes after 30 s, 1, 2, 4, 8 min and every 10 min."""
    policy = BreakerPolicy()
    breaker, attempts, now = Breaker(), 0, 0.0
    while now < 3600:
        if may_send(breaker, now):
            breaker = begin(breaker, now)
            breaker = end(breaker, breaker.generation, True, policy, now + 1)
            attempts += 1
        now += 1
    assert attempts == 14
    assert breaker.open_until is not None
    assert breaker.open_until - 3600 <= policy.max_cooldown.total_seconds()
