"""Conformance: claims, leases, what attempts lead to, and what a destination is owed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from relay.errors import StoreError, StoreUnavailableError
from relay.model import DeliveryState
from relay.store import Store, upkeep
from relay.store.steps import LEASE_SECONDS
from tests.store.opened import (
    START,
    Opened,
    accept,
    attempt,
    backlog,
    claim,
    claim_again,
    claim_all,
    claim_one,
    comes_to,
    event,
    finish,
    ids,
    offer,
    owed,
)

FAR = START + 1e6  # beyond every lease and every due date of these tests
DELIVERED, DEAD, PENDING = DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.PENDING


async def test_nothing_to_claim_from_an_empty_store(store: Store) -> None:
    claimed = await claim(store, "erp", 10, 1 << 20, START)
    assert (claimed.deliveries, claimed.more, claimed.next_due_at) == ((), False, None)


async def test_longest_due_is_claimed_first(store: Store) -> None:
    for event_id, at in (("third", 30.0), ("first", 10.0), ("second", 20.0)):
        await accept(store, event_id, at=START + at)
    assert ids(await claim_all(store)) == ["first", "second", "third"]


async def test_of_equally_due_the_first_accepted_is_claimed_first(store: Store) -> None:
    for event_id in ("b", "a", "c"):
        await accept(store, event_id)
    assert ids(await claim_all(store)) == ["b", "a", "c"]


async def test_claim_is_limited_in_number_and_says_that_more_is_due(store: Store) -> None:
    await accept(store, "e1", "e2", "e3")
    first = await claim(store, "erp", 2, 1 << 20, START + 10)
    assert (ids(first.deliveries), first.more, first.next_due_at) == (["e1", "e2"], True, None)
    second = await claim(store, "erp", 2, 1 << 20, START + 10)
    assert (ids(second.deliveries), second.more, second.next_due_at) == (["e3"], False, None)


async def test_claim_of_exactly_all_says_that_nothing_is_left(store: Store) -> None:
    await accept(store, "e1", "e2")
    claimed = await claim(store, "erp", 2, 1 << 20, START + 10)
    assert (len(claimed.deliveries), claimed.more, claimed.next_due_at) == (2, False, None)


async def test_claim_is_limited_in_bytes_and_says_that_more_is_due(store: Store) -> None:
    for number in range(3):
        await offer(store, event(f"e{number}", body=b"x" * 100), {"erp": False})
    claimed = await claim(store, "erp", 10, 250, START)
    assert (ids(claimed.deliveries), claimed.more, claimed.next_due_at) == (["e0", "e1"], True, None)
    claimed = await claim(store, "erp", 10, 250, START)
    assert (ids(claimed.deliveries), claimed.more) == (["e2"], False)


async def test_body_above_the_limit_is_claimed_alone(store: Store) -> None:
    await offer(store, event("large", body=b"x" * 1000), {"erp": False})
    await offer(store, event("small", body=b"x"), {"erp": False})
    claimed = await claim(store, "erp", 10, 250, START)
    assert (ids(claimed.deliveries), claimed.more) == (["large"], True)


async def test_what_was_never_tried_is_due_whatever_the_clock_says(store: Store) -> None:
    await accept(store, "now", "later")
    claimed = await claim(store, "erp", 10, 1 << 20, START - 1000)
    assert (ids(claimed.deliveries), claimed.more, claimed.next_due_at) == (["now", "later"], False, None)
    await accept(store, "one", "another")
    assert (await claim(store, "erp", 1, 1 << 20, START - 1000)).more


async def test_claimed_is_not_claimed_again(store: Store) -> None:
    await accept(store, "e1")
    assert ids(await claim_all(store)) == ["e1"]
    assert await claim_all(store) == []


async def test_claims_at_once_never_get_the_same_delivery(store: Store) -> None:
    await accept(store, *(f"e{number}" for number in range(20)))
    claims = await asyncio.gather(*(claim(store, "erp", 3, 1 << 20, START + 100) for _ in range(10)))
    claimed = [delivery.id for claim in claims for delivery in claim.deliveries]
    assert len(claimed) == len(set(claimed)) == 20


async def test_destinations_have_backlogs_of_their_own(store: Store) -> None:
    await accept(store, "e1", to=("erp", "crm"))
    assert ids(await claim_all(store, "erp")) == ["e1"]
    assert ids(await claim_all(store, "crm")) == ["e1"]
    assert await claim_all(store, "er_") == []


async def test_retry_is_not_claimed_before_it_is_due(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1")
    failed = attempt(await claim_one(store), PENDING, due_at=START + 60)
    assert await store.record([failed]) == [True]
    early = await claim_again(store, START + 59.9)
    store = await open_store()
    assert await claim_again(store, START + 59.9) == early
    assert (early.deliveries, early.more, early.next_due_at) == ((), False, START + 60)
    (again,) = await claim_all(store, now=START + 60)
    assert (again.attempts, again.accepted_at, again.id) == (1, START, failed.delivery.id)


async def test_attempts_count_up_over_retries(store: Store) -> None:
    await accept(store, "e1")
    for number in range(4):
        delivery = await claim_one(store)
        assert delivery.attempts == number
        assert await store.record([attempt(delivery, PENDING)]) == [True]


async def test_attempts_are_kept_in_full(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1")
    failed = attempt(await claim_one(store), PENDING, at=START + 1)
    refused = failed.outcome._replace(status=None, error="can't connect")
    await store.record([failed._replace(outcome=refused)])
    await store.record([attempt(await claim_one(store), DELIVERED, at=START + 2)])
    rows = open_store.read(
        "SELECT number, started_at, status, error, next_state FROM attempts ORDER BY number"
    )
    assert rows == [
        (1, START + 1, None, "can't connect", "pending"),
        (2, START + 2, 200, None, "delivered"),
    ]


@pytest.mark.parametrize("state", [DELIVERED, DEAD])
async def test_finished_delivery_is_never_claimed_again(open_store: Opened, state: DeliveryState) -> None:
    store = await open_store()
    await accept(store, "e1")
    await finish(store, state)
    assert await store.expire(FAR) == 0
    assert await claim_all(store, now=FAR) == []
    store = await open_store()
    assert await claim_all(store, now=FAR) == []


async def test_result_of_a_lost_claim_changes_nothing(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1")
    lost = await claim_one(store)
    assert await store.expire(FAR) == 1
    held = await claim_one(store, now=FAR)
    assert held.token != lost.token
    assert await store.record([attempt(lost, DELIVERED)]) == [False]
    assert await backlog(store) == owed(in_flight=1, oldest=START)
    assert open_store.read("SELECT count(*) FROM attempts") == [(0,)]
    assert await store.record([attempt(held, PENDING)]) == [True]
    assert (await claim_one(store, now=FAR)).attempts == 1


async def test_second_result_of_one_claim_changes_nothing(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1")
    delivery = await claim_one(store)
    assert await store.record([attempt(delivery, DELIVERED)]) == [True]
    assert await store.record([attempt(delivery, PENDING, at=START + 1)]) == [False]
    assert await backlog(store) == owed()
    assert open_store.read("SELECT next_state FROM attempts") == [("delivered",)]


async def test_both_results_of_one_claim_at_once_count_as_one(store: Store) -> None:
    await accept(store, "e1")
    delivery = await claim_one(store)
    recorded = await asyncio.gather(
        *(store.record([attempt(delivery, DELIVERED, at=START + number)]) for number in range(2))
    )
    assert sorted(recorded) == [[False], [True]]
    assert await backlog(store) == owed()


async def test_of_results_together_the_held_claims_count(store: Store) -> None:
    await accept(store, "e1", "e2", "e3")
    deliveries = await claim_all(store)
    stale = deliveries[1]._replace(token=deliveries[1].token + 1)
    attempts = [attempt(delivery, DELIVERED) for delivery in (deliveries[0], stale, deliveries[2])]
    assert await store.record(attempts) == [True, False, True]
    assert await backlog(store) == owed(in_flight=1, oldest=START + 1)


async def test_many_results_together_reach_each_its_own_delivery(store: Store) -> None:
    await accept(store, *(f"e{number}" for number in range(150)))
    deliveries = await claim_all(store)
    attempts = [attempt(delivery, PENDING, due_at=START + 5000 - delivery.id) for delivery in deliveries]
    assert all(await store.record(attempts))
    assert ids(await claim_all(store, now=FAR)) == [f"e{number}" for number in reversed(range(150))]


async def test_nothing_to_record_is_nothing(store: Store) -> None:
    assert await store.record([]) == []
    await store.release([])
    assert await store.renew([], START) == []


async def test_released_is_as_due_as_before_and_has_spent_no_attempt(store: Store) -> None:
    await accept(store, "e1", "e2")
    first, second = await claim_all(store)
    await store.release([first])
    (again,) = await claim_all(store)
    assert (again.id, again.attempts, again.event) == (first.id, 0, first.event)
    assert await store.record([attempt(first, DELIVERED)]) == [False]
    assert await store.record([attempt(again, DELIVERED), attempt(second, DELIVERED)]) == [True, True]


async def test_released_goes_back_to_its_place(store: Store) -> None:
    await accept(store, "e1", "e2")
    first = await claim_one(store)
    await store.release([first])
    assert ids(await claim_all(store)) == ["e1", "e2"]


async def test_release_of_a_lost_claim_changes_nothing(store: Store) -> None:
    await accept(store, "e1")
    lost = await claim_one(store)
    await store.expire(FAR)
    held = await claim_one(store, now=FAR)
    await store.release([lost])
    assert await backlog(store) == owed(in_flight=1, oldest=START)
    assert await store.record([attempt(held, DELIVERED)]) == [True]


async def test_expired_lease_is_claimed_again(store: Store) -> None:
    await accept(store, "e1")
    await claim_one(store, now=START)
    assert await store.expire(START + 1) == 0
    assert await claim_all(store) == []
    assert await store.expire(FAR) == 1
    assert ids(await claim_all(store, now=FAR)) == ["e1"]


async def test_expired_lease_of_a_claim_on_acceptance_is_claimed_again(store: Store) -> None:
    await offer(store, event(), {"erp": True})
    assert await store.expire(START + 1) == 0
    assert await store.expire(FAR) == 1
    assert ids(await claim_all(store, now=FAR)) == ["e1"]


async def test_renewed_lease_does_not_expire(store: Store) -> None:
    await accept(store, "e1", "e2")
    renewed, _forgotten = await claim_all(store)
    assert await store.renew([renewed], FAR) == [renewed._replace(lease_until=FAR + LEASE_SECONDS)]
    assert await store.expire(FAR) == 1
    assert ids(await claim_all(store, now=FAR)) == ["e2"]
    assert await store.record([attempt(renewed, DELIVERED)]) == [True]


async def test_renewal_of_a_lost_claim_changes_nothing(store: Store) -> None:
    await accept(store, "e1")
    lost = await claim_one(store, now=START)
    await store.expire(START + 1000)
    await claim_one(store, now=START + 1000)
    assert await store.renew([lost], FAR) == []
    assert await store.expire(FAR) == 1
    held = await claim_one(store, now=START + 1000)
    assert [one.claim for one in await store.renew([lost, held], FAR)] == [held.claim]


async def test_crash_frees_what_was_in_flight(open_store: Opened) -> None:
    store = await open_store()
    await offer(store, event("on-acceptance"), {"erp": True})
    await accept(store, "later", at=START + 1)
    (claimed,) = await claim_all(store)
    store = await open_store.after_a_crash()
    assert await backlog(store) == owed(pending=2, oldest=START)
    again = await claim_all(store)
    assert ids(again) == ["on-acceptance", "later"]
    assert [delivery.attempts for delivery in again] == [0, 0]
    assert await store.record([attempt(claimed, DELIVERED)]) == [False]


# ---- what a destination is owed


async def both(open_store: Opened, store: Store) -> list[object]:
    """Return the backlog as it is counted while the store runs, and as it is found when it is opened."""
    return [await backlog(store), await backlog(await open_store())]


async def test_backlog_of_a_fresh_store_is_empty(open_store: Opened) -> None:
    assert await both(open_store, await open_store()) == [owed(), owed()]


async def test_backlog_counts_fresh_deliveries(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1", "e2", "e3")
    assert await both(open_store, store) == [owed(pending=3, oldest=START)] * 2


async def test_backlog_counts_a_retry_from_its_acceptance(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "old", "young")
    await store.record([attempt(await claim_one(store), PENDING, due_at=START + 5000)])
    assert await both(open_store, store) == [owed(pending=2, oldest=START)] * 2


async def test_backlog_counts_a_lone_retry_from_its_acceptance(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1")
    await store.record([attempt(await claim_one(store), PENDING, due_at=START + 5000)])
    assert await both(open_store, store) == [owed(pending=1, oldest=START)] * 2


async def test_backlog_counts_what_is_in_flight(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1", "e2")
    await claim_one(store)
    assert await backlog(store) == owed(pending=1, in_flight=1, oldest=START)
    await claim_one(store)
    assert await backlog(store) == owed(in_flight=2, oldest=START)


async def test_backlog_counts_a_retry_in_flight_from_its_acceptance(store: Store) -> None:
    await accept(store, "old", "young")
    await store.record([attempt(await claim_one(store), PENDING, due_at=START)])
    assert ids((await claim_again(store, START + 1000)).deliveries) == ["old"]
    assert await backlog(store) == owed(pending=1, in_flight=1, oldest=START)


async def test_backlog_counts_what_was_released_or_expired(store: Store) -> None:
    await accept(store, "e1", "e2")
    first, _second = await claim_all(store)
    await store.release([first])
    assert await backlog(store) == owed(pending=1, in_flight=1, oldest=START)
    await store.expire(FAR)
    assert await backlog(store) == owed(pending=2, oldest=START)


async def test_backlog_counts_the_dead_but_not_their_age(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "dead")
    await finish(store, DEAD)
    assert await backlog(store) == owed(dead=1)
    await accept(store, "young", at=START + 50)
    assert await both(open_store, store) == [owed(pending=1, dead=1, oldest=START + 50)] * 2


async def test_backlog_forgets_what_was_delivered(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1", "e2")
    await finish(store, DELIVERED)
    assert await both(open_store, store) == [owed(), owed()]


async def test_backlogs_of_destinations_are_apart(store: Store) -> None:
    await accept(store, "e1", to=("erp", "crm"))
    await accept(store, "e2", to=("crm",), at=START + 7)
    await finish(store, DEAD, "erp")
    assert await backlog(store, "erp") == owed(dead=1)
    assert await backlog(store, "crm") == owed(pending=2, oldest=START)


# ---- whoever waits may go


async def abandoned(work: Coroutine[Any, Any, Any]) -> None:
    """Have a step begun, and cancel whoever waits for it."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)  # let it be queued
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("state", [DELIVERED, DEAD, PENDING])
async def test_backlog_counts_what_was_recorded_though_nobody_waited(
    open_store: Opened, state: DeliveryState
) -> None:
    store = await open_store()
    await accept(store, "e1", "e2")
    first, _second = await claim_all(store)
    await abandoned(store.record([attempt(first, state, due_at=FAR)]))
    expected = owed(
        pending=int(state is PENDING),
        in_flight=1,
        dead=int(state is DEAD),
        oldest=START if state is PENDING else START + 1,
    )
    await comes_to(store, expected)


async def test_backlog_counts_what_was_claimed_though_nobody_waited(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1", "e2", "e3")
    await abandoned(claim(store, "erp", 2, 1 << 30, START + 1000))
    await comes_to(store, owed(pending=1, in_flight=2, oldest=START))
    assert await store.expire(FAR) == 2
    assert await backlog(store) == owed(pending=3, oldest=START)


async def test_backlog_counts_what_was_released_or_expired_though_nobody_waited(store: Store) -> None:
    await accept(store, "e1", "e2")
    first, _second = await claim_all(store)
    await abandoned(store.release([first]))
    await comes_to(store, owed(pending=1, in_flight=1, oldest=START))
    await abandoned(store.expire(FAR))
    await comes_to(store, owed(pending=2, oldest=START))


# ---- what can't follow from an attempt


@pytest.mark.parametrize("state", [DeliveryState.IN_FLIGHT, DeliveryState.DISCARDED])
async def test_attempt_that_leads_where_none_can_fails_alone(
    open_store: Opened, state: DeliveryState
) -> None:
    store = await open_store()
    await accept(store, "before", "bad", "after")
    before, bad, after = await claim_all(store)
    results = await asyncio.gather(
        store.record([attempt(before, DELIVERED)]),
        store.record([attempt(bad, state)]),
        store.record([attempt(after, DEAD)]),
        return_exceptions=True,
    )
    assert (results[0], results[2]) == ([True], [True])
    assert isinstance(results[1], StoreError)
    assert not isinstance(results[1], StoreUnavailableError)  # trying again wouldn't help
    assert await backlog(store) == owed(in_flight=1, dead=1, oldest=START + 1)
    assert open_store.read("SELECT count(*) FROM attempts") == [(2,)]
    assert await store.record([attempt(bad, DELIVERED)]) == [True]


async def test_first_attempts_and_the_others_are_claimed_apart(store: Store) -> None:
    await accept(store, "tried", "fresh")
    await store.record([attempt(await claim_one(store), PENDING, due_at=START)])
    again = (await claim_again(store, START + 1000)).deliveries
    fresh = (await claim(store, "erp", 10, 1 << 20, START + 1000)).deliveries
    assert (ids(again), [one.fresh for one in again]) == (["tried"], [False])
    assert (ids(fresh), [one.fresh for one in fresh]) == (["fresh"], [True])


async def test_retries_of_a_clock_that_was_ahead_are_brought_forward(store: Store) -> None:
    await accept(store, "e1", "e2", "e3", to=("erp", "crm"))
    due_at = {"e1": START + 4000, "e2": START + 3000, "e3": START + 9000}
    for destination in ("erp", "crm"):
        await store.record(
            [
                attempt(one, PENDING, due_at=due_at[one.event.event_id])
                for one in await claim_all(store, destination)
            ]
        )
    assert await store.bring_forward("erp", START + 3600, START) == 2
    assert sorted(ids((await claim_again(store, START)).deliveries)) == ["e1", "e3"]
    assert (await claim_again(store, START, "crm")).deliveries == ()
    assert await store.bring_forward("erp", START + 3600, START) == 0


async def test_so_many_are_brought_forward_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MAX_BROUGHT_FORWARD", 2)
    await accept(store, "e1", "e2", "e3")
    await store.record([attempt(one, PENDING, due_at=START + 9000) for one in await claim_all(store)])
    moved = [await store.bring_forward("erp", START, START) for _ in range(3)]
    assert moved == [2, 1, 0]
    assert len((await claim_again(store, START)).deliveries) == 3


async def test_claim_that_is_given_back_twice_at_once_counts_once(store: Store) -> None:
    await accept(store, "e1")
    claimed = await claim_all(store)
    await asyncio.gather(store.release(claimed), store.release(claimed))
    assert await backlog(store) == owed(pending=1, oldest=START)


async def test_cost_of_giving_claims_back_grows_with_their_number_only(store: Store) -> None:
    """By its square, these would take minutes, for which webhooks wait: the deadline is far from either."""
    for start in range(0, 12_000, 1000):
        await asyncio.gather(*(accept(store, f"e{start + number}", at=START) for number in range(1000)))
    claimed = [one for _ in range(12) for one in await claim_all(store)]
    assert len(claimed) == 12_000
    async with asyncio.timeout(20):
        await asyncio.gather(*(store.release(claimed[n : n + 250]) for n in range(0, 12_000, 250)))
    assert (await backlog(store)).counts[PENDING] == 12_000
