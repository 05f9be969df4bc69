"""Deliveries of one key to one destination go one after the other, in order of acceptance."""

from __future__ import annotations

import asyncio

import pytest

from relay.model import Attempt, Delivery, DeliveryState, Owed, References
from relay.store import Store
from tests.store.opened import START, Opened, attempt, claim_all, event, ids

PENDING, DELIVERED, DEAD = DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.DEAD


async def accept(
    store: Store, event_id: str, key: str | None, *, to: str = "erp", wanted: bool = False
) -> list[Delivery]:
    """Accept an event under a key, and return what was claimed at once."""
    accepted = await store.accept(event(event_id), References(), {to: Owed(wanted, key)})
    return list(accepted.claimed)


def ended(delivery: Delivery, state: DeliveryState, *, keeps_place: bool) -> Attempt:
    made = attempt(delivery, state, due_at=START)
    return made._replace(transition=made.transition._replace(keeps_place=keeps_place))


async def test_only_the_first_of_a_key_is_claimed(store: Store) -> None:
    for event_id, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("n1", None), ("n2", None), ("a3", "a")):
        await accept(store, event_id, key)
    assert ids(await claim_all(store)) == ["a1", "b1", "n1", "n2"]


async def test_claim_on_acceptance_is_refused_while_another_of_its_key_is_open(store: Store) -> None:
    (first,) = await accept(store, "a1", "a", wanted=True)
    assert first.ordered
    assert await accept(store, "a2", "a", wanted=True) == []
    assert ids(await accept(store, "b1", "b", wanted=True)) == ["b1"]
    assert [one.ordered for one in await accept(store, "n1", None, wanted=True)] == [False]


async def test_of_one_key_accepted_at_once_one_goes(store: Store) -> None:
    taken = await asyncio.gather(*(accept(store, f"a{n}", "a", wanted=True) for n in range(20)))
    assert ids([one for each in taken for one in each]) == ["a0"]


async def test_keys_of_other_destinations_are_others(store: Store) -> None:
    await accept(store, "a1", "a", wanted=True)
    assert ids(await accept(store, "a2", "a", to="crm", wanted=True)) == ["a2"]


@pytest.mark.parametrize("state", [DELIVERED, DEAD])
async def test_next_goes_when_the_one_before_has_left(store: Store, state: DeliveryState) -> None:
    for event_id in ("a1", "a2", "a3"):
        await accept(store, event_id, "a")
    for expected in ("a1", "a2", "a3"):
        claimed = await claim_all(store)
        assert ids(claimed) == [expected]
        await store.record([ended(claimed[0], state, keeps_place=False)])
    assert await claim_all(store) == []


@pytest.mark.parametrize("state", [PENDING, DEAD])
async def test_next_waits_while_the_one_before_keeps_its_place(store: Store, state: DeliveryState) -> None:
    await accept(store, "a1", "a")
    await accept(store, "a2", "a")
    (first,) = await claim_all(store)
    await store.record([ended(first, state, keeps_place=True)])
    assert ids(await claim_all(store)) == (["a1"] if state is PENDING else [])
    assert await accept(store, "a3", "a", wanted=True) == []


async def test_several_keys_go_on_at_once(store: Store) -> None:
    for number in range(2):
        for key in ("a", "b", "c"):
            await accept(store, f"{key}{number}", key)
    first = await claim_all(store)
    await store.record([ended(one, DELIVERED, keeps_place=False) for one in first])
    assert ids(await claim_all(store)) == ["a1", "b1", "c1"]


async def test_order_holds_across_a_crash(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "a1", "a", wanted=True)
    await accept(store, "a2", "a")
    store = await open_store.after_a_crash()
    (first,) = await claim_all(store)
    assert first.event.event_id == "a1"
    await store.record([ended(first, DELIVERED, keeps_place=False)])
    assert ids(await claim_all(store)) == ["a2"]


async def test_released_claim_keeps_its_turn(store: Store) -> None:
    await accept(store, "a1", "a")
    await accept(store, "a2", "a")
    await store.release(await claim_all(store))
    assert ids(await claim_all(store)) == ["a1"]


async def test_one_that_waits_for_its_turn_counts_for_the_oldest_age(store: Store) -> None:
    await accept(store, "a1", "a")
    await accept(store, "a2", "a")
    (first,) = await claim_all(store)
    await store.record([ended(first, DEAD, keeps_place=True)])
    owed = (await store.backlog())["erp"]
    assert owed.oldest_accepted_at == START
    assert owed.counts[PENDING] == 1
