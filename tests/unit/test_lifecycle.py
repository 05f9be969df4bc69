"""What becomes of a delivery after a try."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.lifecycle import LEGAL, decide
from relay.model import Delivery, DeliveryState, Event, Outcome, Transition
from relay.retry import DeliveryPolicy, RetryPolicy

ACCEPTED_AT = 1_700_000_000.0
DURATIONS = st.timedeltas(timedelta(milliseconds=1), timedelta(days=36500))
POLICIES = st.builds(
    DeliveryPolicy,
    retry=st.builds(
        RetryPolicy, initial=DURATIONS, factor=st.floats(1, 100), max=DURATIONS, give_up_after=DURATIONS
    ),
    holds_when_dead=st.booleans(),
)
OUTCOMES = st.builds(
    Outcome,
    status=st.none() | st.integers(100, 599),
    error=st.none(),
    duration_seconds=st.just(0.1),
    retry_after_seconds=st.none() | st.floats(0, 1e9),
)
ELAPSED = st.floats(0, 4e9)
ATTEMPTS = st.integers(0, 10_000)
JITTER = st.floats(0, 1, exclude_max=True)
FAILED = Outcome(status=500, error=None, duration_seconds=0.1)


def delivery(attempts: int = 0) -> Delivery:
    event = Event("itscope", "1", ACCEPTED_AT, "application/json", None, None, "0" * 31 + "1", b"{}")
    return Delivery(1, "erp", ACCEPTED_AT, attempts, 1, event)


@given(ATTEMPTS, OUTCOMES, POLICIES, ELAPSED, JITTER)
def test_decision_is_always_a_legal_transition(
    attempts: int, outcome: Outcome, policy: DeliveryPolicy, elapsed: float, jitter: float
) -> None:
    transition = decide(delivery(attempts), outcome, policy, ACCEPTED_AT + elapsed, jitter)
    assert transition.state in LEGAL[DeliveryState.IN_FLIGHT]


@given(ATTEMPTS, OUTCOMES, POLICIES, ELAPSED, JITTER)
def test_retry_is_due_from_now_until_the_moment_of_giving_up(
    attempts: int, outcome: Outcome, policy: DeliveryPolicy, elapsed: float, jitter: float
) -> None:
    now = ACCEPTED_AT + elapsed
    transition = decide(delivery(attempts), outcome, policy, now, jitter)
    if transition.state is DeliveryState.PENDING:
        assert now <= transition.due_at <= ACCEPTED_AT + policy.retry.give_up_after.total_seconds()
    else:
        assert transition.due_at == now


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (200, DeliveryState.DELIVERED),
        (422, DeliveryState.DEAD),
        (500, DeliveryState.PENDING),
        (302, DeliveryState.PENDING),
        (None, DeliveryState.PENDING),
    ],
)
def test_outcome_decides_the_state(status: int | None, state: DeliveryState) -> None:
    outcome = Outcome(status, None, 0.1)
    assert decide(delivery(), outcome, DeliveryPolicy(), ACCEPTED_AT + 1, 0.5).state is state


def test_failure_at_the_moment_of_giving_up_is_final() -> None:
    give_up_at = ACCEPTED_AT + 3 * 86400
    before = decide(delivery(), FAILED, DeliveryPolicy(), give_up_at - 0.001, 0.5)
    at = decide(delivery(), FAILED, DeliveryPolicy(), give_up_at, 0.5)
    assert before.state is DeliveryState.PENDING
    assert before.due_at == give_up_at
    assert at.state is DeliveryState.DEAD


def test_success_and_rejection_count_also_after_the_moment_of_giving_up() -> None:
    late = ACCEPTED_AT + 10 * 86400
    delivered = decide(delivery(), Outcome(204, None, 0.1), DeliveryPolicy(), late, 0.5)
    rejected = decide(delivery(), Outcome(410, None, 0.1), DeliveryPolicy(), late, 0.5)
    assert (delivered.state, rejected.state) == (DeliveryState.DELIVERED, DeliveryState.DEAD)


def test_pause_grows_with_the_attempts_already_made() -> None:
    due = [decide(delivery(n), FAILED, DeliveryPolicy(), ACCEPTED_AT, 0.5).due_at for n in range(4)]
    assert [at - ACCEPTED_AT for at in due] == [0.5, 1.0, 2.0, 4.0]


@given(st.floats(0.1, 1, exclude_max=True), st.floats(0, 60))
def test_delivery_that_always_fails_is_tried_a_last_time_when_it_gives_up(
    jitter: float, duration: float
) -> None:
    policy = DeliveryPolicy(retry=RetryPolicy(max=timedelta(minutes=10), give_up_after=timedelta(hours=6)))
    give_up_at = ACCEPTED_AT + 6 * 3600
    began, tries = ACCEPTED_AT, 0
    while True:
        transition = decide(delivery(tries), FAILED, policy, began + duration, jitter)
        tries += 1
        if transition.state is DeliveryState.DEAD:
            break
        began = transition.due_at
    assert give_up_at - duration <= began <= give_up_at
    assert tries < 6 * 3600


@pytest.mark.parametrize(
    ("status", "elapsed", "without", "with_holding"),
    [
        (200, 0, False, False),
        (500, 0, True, True),
        (500, 3 * 86400, False, True),
        (422, 0, False, True),
    ],
)
def test_what_is_retried_keeps_its_place_and_what_is_dead_where_the_policy_says_so(
    status: int, elapsed: float, without: object, with_holding: object
) -> None:
    for policy, keeps_place in (
        (DeliveryPolicy(), without),
        (DeliveryPolicy(holds_when_dead=True), with_holding),
    ):
        transition = decide(delivery(), Outcome(status, None, 0.1), policy, ACCEPTED_AT + elapsed, 0.5)
        assert transition.keeps_place is keeps_place


@given(ATTEMPTS, OUTCOMES, POLICIES, ELAPSED, JITTER)
def test_place_follows_from_state_and_policy(
    attempts: int, outcome: Outcome, policy: DeliveryPolicy, elapsed: float, jitter: float
) -> None:
    transition = decide(delivery(attempts), outcome, policy, ACCEPTED_AT + elapsed, jitter)
    expected = {
        DeliveryState.PENDING: True,
        DeliveryState.DEAD: policy.holds_when_dead,
        DeliveryState.DELIVERED: False,
    }
    assert transition.keeps_place is expected[transition.state]


def test_transition_keeps_no_place_unless_it_says_so() -> None:
    assert not Transition(DeliveryState.DISCARDED, 0.0).keeps_place


def test_every_state_is_in_the_table_and_only_known_exits_exist() -> None:
    assert LEGAL.keys() == set(DeliveryState)
    assert not LEGAL[DeliveryState.DELIVERED]
    assert not LEGAL[DeliveryState.DISCARDED]
    into_flight = {state for state, following in LEGAL.items() if DeliveryState.IN_FLIGHT in following}
    assert into_flight == {DeliveryState.PENDING}
