"""When a failed delivery is tried again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Outcome
from relay.retry import (
    RETRY_AFTER_CAP_SECONDS,
    DeliveryPolicy,
    RetryPolicy,
    Verdict,
    backoff_bound_seconds,
    pause_seconds,
    verdict,
)

DURATIONS = st.timedeltas(timedelta(microseconds=1), timedelta(days=36500))
POLICIES = st.builds(
    RetryPolicy, initial=DURATIONS, factor=st.floats(1, 100), max=DURATIONS, give_up_after=DURATIONS
)
JITTER = st.floats(0, 1, exclude_max=True)
FAILURES = st.integers(1, 100_000)


def answer(status: int | None, retry_after_seconds: float | None = None) -> Outcome:
    return Outcome(status, None if status else "no answer", 0.1, retry_after_seconds)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, Verdict.DELIVERED) for status in (200, 201, 202, 204, 299)),
        *((status, Verdict.REJECTED) for status in (400, 410, 413, 415, 422)),
        *((status, Verdict.FAILED) for status in (None, 100, 199, 300, 301, 302, 307, 308, 401, 403, 404)),
        *((status, Verdict.FAILED) for status in (405, 408, 409, 425, 429, 500, 501, 502, 503, 504, 599)),
    ],
)
def test_default_policy_reads_each_status(status: int | None, expected: Verdict) -> None:
    assert verdict(answer(status), DeliveryPolicy()) is expected


def test_success_wins_over_reject() -> None:
    policy = DeliveryPolicy(success=frozenset({200, 409}), reject=frozenset({409, 410}))
    assert verdict(answer(409), policy) is Verdict.DELIVERED
    assert verdict(answer(410), policy) is Verdict.REJECTED
    assert verdict(answer(204), policy) is Verdict.FAILED


def test_defaults_are_the_documented_ones() -> None:
    assert RetryPolicy() == RetryPolicy(
        initial=timedelta(seconds=1), factor=2, max=timedelta(minutes=10), give_up_after=timedelta(days=3)
    )
    assert DeliveryPolicy().retry == RetryPolicy()
    assert not DeliveryPolicy().holds_when_dead


@pytest.mark.parametrize(
    ("failures", "bound"), [(1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (12, 600), (10**9, 600)]
)
def test_default_bound_doubles_up_to_ten_minutes(failures: int, bound: float) -> None:
    assert backoff_bound_seconds(failures, RetryPolicy()) == bound


@given(FAILURES, POLICIES)
def test_bound_never_shrinks_and_never_exceeds_max(failures: int, policy: RetryPolicy) -> None:
    bound = backoff_bound_seconds(failures, policy)
    assert 0 < bound <= policy.max.total_seconds()
    assert bound <= backoff_bound_seconds(failures + 1, policy)


@given(POLICIES)
def test_first_bound_is_initial_or_max(policy: RetryPolicy) -> None:
    assert backoff_bound_seconds(1, policy) == min(policy.initial, policy.max).total_seconds()


@given(st.none() | st.integers(100, 599), FAILURES, POLICIES, JITTER)
def test_pause_without_hint_is_the_share_of_the_bound(
    status: int | None, failures: int, policy: RetryPolicy, jitter: float
) -> None:
    pause = pause_seconds(answer(status), failures, policy, jitter)
    assert pause == jitter * backoff_bound_seconds(failures, policy)


@given(st.sampled_from([429, 503]), st.floats(0, 1e9), FAILURES, POLICIES, JITTER)
def test_hint_of_429_and_503_lengthens_a_pause_up_to_an_hour(
    status: int, hint: float, failures: int, policy: RetryPolicy, jitter: float
) -> None:
    without = pause_seconds(answer(status), failures, policy, jitter)
    pause = pause_seconds(answer(status, hint), failures, policy, jitter)
    assert pause == max(without, min(hint, 3600))


@pytest.mark.parametrize("status", [None, 200, 301, 404, 408, 500, 502, 504])
def test_hint_of_any_other_status_is_ignored(status: int | None) -> None:
    assert pause_seconds(answer(status, 1000), 1, RetryPolicy(), 0.5) == 0.5


def test_hint_is_capped_at_an_hour() -> None:
    assert RETRY_AFTER_CAP_SECONDS == 3600
    assert pause_seconds(answer(503, 86400), 1, RetryPolicy(), 0.0) == 3600


def test_long_schedule_is_not_cut_by_the_cap_of_hints() -> None:
    policy = RetryPolicy(initial=timedelta(hours=4), max=timedelta(hours=4))
    assert pause_seconds(answer(429, 86400), 1, policy, 0.5) == 7200


@given(st.none() | st.integers(100, 599), st.none() | st.floats(0, 1e9), FAILURES, POLICIES, JITTER)
def test_pause_is_never_negative_nor_longer_than_the_policy_or_a_hint_allows(
    status: int | None, hint: float | None, failures: int, policy: RetryPolicy, jitter: float
) -> None:
    pause = pause_seconds(answer(status, hint), failures, policy, jitter)
    assert 0 <= pause <= max(policy.max.total_seconds(), RETRY_AFTER_CAP_SECONDS)
