"""Conformance: what operators change, each change with its record and with the right counts afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from relay.model import DeliveryState, Owed, References
from relay.store import Store
from relay.store.repair import Change, Changed, ChangeRecord, DeliveryRecord, Filter, Page, Replay
from tests.store.opened import (
    START,
    Opened,
    accept,
    attempt,
    backlog,
    claim_again,
    claim_all,
    claim_one,
    comes_to,
    event,
    finish,
    ids,
    offer,
    owed,
    rejected,
)

PENDING, IN_FLIGHT = DeliveryState.PENDING, DeliveryState.IN_FLIGHT
DELIVERED, DEAD, DISCARDED = DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DISCARDED

NOW = START + 500
BY_HAND = Change("alice", NOW, "by-hand", {"why": "ä"})
ALL = Page(100, newest_first=False)
NOTHING = Changed(None, (False,))


@pytest.fixture
async def store(open_store: Opened) -> AsyncIterator[Store]:
    """The store; in the end, its counts are those that it would find if it were opened again."""
    opened = await open_store()
    yield opened
    for destination in ("erp", "crm", "new"):
        claimed = await backlog(opened, destination)
        reopened = open_store.read(
            "SELECT state, count(*) FROM deliveries"  # noqa: S608
            f" WHERE destination = '{destination}' AND state IN ('pending', 'in_flight', 'dead') GROUP BY 1"
        )
        assert {state: number for state, number in claimed.counts.items() if number} == dict(reopened)


async def made(store: Store, event_id: str = "e1") -> list[DeliveryRecord]:
    """Return all deliveries of an event."""
    return list((await store.find_deliveries(Filter(any_id=event_id), ALL)).items)


async def number_of(store: Store, event_id: str = "e1") -> int:
    """Return the number that a store gave an event."""
    (found,) = (await store.find_events(Filter(any_id=event_id), ALL)).items
    return found.id


async def changes(store: Store) -> list[ChangeRecord]:
    return list((await store.find_changes(ALL)).items)


async def bring(store: Store, state: DeliveryState, event_id: str = "e1") -> DeliveryRecord:
    """Accept an event, and bring its delivery to a state."""
    accepted = await offer(store, event(event_id), {"erp": state is not PENDING})
    if state in {DELIVERED, DEAD, DISCARDED}:
        ended = DELIVERED if state is DELIVERED else DEAD
        await store.record([attempt(delivery, ended) for delivery in accepted.claimed])
    (delivery,) = await made(store, event_id)
    if state is DISCARDED:
        await store.discard(replace(BY_HAND, action="before"), [delivery.id], "before")
    return delivery


async def ordered(store: Store, *event_ids: str) -> None:
    """Accept events under one key, of which the first dies and holds the rest."""
    for event_id in event_ids:
        await store.accept(event(event_id), References(), {"erp": Owed(claim=False, order_key="k")})
    died = attempt(await claim_one(store), DEAD)
    await store.record([died._replace(transition=died.transition._replace(keeps_place=True))])
    assert await claim_all(store) == []


async def go_through(store: Store) -> list[str]:
    """Deliver whatever is due until nothing is, and return it in that order."""
    told: list[str] = []
    while claimed := await claim_all(store):
        assert await store.record([attempt(delivery, DELIVERED) for delivery in claimed])
        told += ids(claimed)
    return told


# ---- replay


@pytest.mark.parametrize("state", [DELIVERED, DEAD, DISCARDED])
async def test_finished_delivery_is_made_again(store: Store, state: DeliveryState) -> None:
    first = await bring(store, state)
    replay = Replay(first.event, "erp", NOW + 0.123_456_7, of=first.id)
    changed = await store.replay(BY_HAND, [replay])
    assert (changed.done, changed.destinations) == ((True,), frozenset({"erp"}))
    before, after = await made(store)
    assert (after.state, after.replay_of, after.attempts, after.blocked) == (PENDING, first.id, 0, False)
    assert (after.accepted_at, after.due_at) == (replay.due_at, replay.due_at)
    assert before.state is (DELIVERED if state is DELIVERED else DISCARDED)
    if state is DEAD:
        assert (before.reason, before.due_at) == (f"replayed as {after.id}", NOW)
    else:
        assert before.due_at == (NOW if state is DISCARDED else START)
    assert await backlog(store) == owed(pending=1, oldest=replay.due_at)


async def test_replay_is_claimed_when_it_is_due_and_is_not_fresh(store: Store) -> None:
    first = await bring(store, DELIVERED)
    await store.replay(BY_HAND, [Replay(first.event, "erp", NOW, of=first.id)])
    assert (await claim_again(store, NOW - 1)).next_due_at == NOW
    (delivery,) = (await claim_again(store, NOW)).deliveries
    assert (delivery.event, delivery.fresh, delivery.attempts) == (event(), False, 0)
    assert (delivery.accepted_at, delivery.ordered) == (NOW, False)
    assert await store.record([attempt(delivery, DELIVERED)]) == [True]
    assert len(await made(store)) == 2


@pytest.mark.parametrize("state", [PENDING, IN_FLIGHT])
async def test_open_delivery_is_not_made_again(store: Store, state: DeliveryState) -> None:
    first = await bring(store, state)
    assert await store.replay(BY_HAND, [Replay(first.event, "erp", NOW, of=first.id)]) == NOTHING
    assert len(await made(store)) == 1
    assert await changes(store) == []


async def test_delivery_is_not_repeated_twice_at_once(store: Store) -> None:
    first = await bring(store, DEAD)
    replay = Replay(first.event, "erp", NOW, of=first.id)
    both = await asyncio.gather(*(store.replay(BY_HAND, [replay]) for _ in range(2)))
    assert sorted(changed.done for changed in both) == [(False,), (True,)]
    assert len(await made(store)) == 2


async def test_change_of_somebody_else_is_not_added_to(store: Store) -> None:
    first = await store.pause(BY_HAND, "erp")
    second = await store.resume(replace(BY_HAND, who="mallory", id=first.id), "erp")
    assert second.id != first.id
    recorded = [(change.id, change.who, change.number) for change in await changes(store)]
    assert recorded == [(first.id, "alice", 1), (second.id, "mallory", 1)]


@pytest.mark.parametrize(
    "other",
    [replace(BY_HAND, action="other"), replace(BY_HAND, detail={"why": "o"}), replace(BY_HAND, id=2**63 - 1)],
    ids=["action", "detail", "none"],
)
async def test_change_that_goes_on_with_another_one_gets_a_record_of_its_own(
    store: Store, other: Change
) -> None:
    first = await store.pause(BY_HAND, "erp")
    await store.pause(replace(other, id=other.id or first.id), "crm")
    recorded = [(change.action, change.detail, change.number) for change in await changes(store)]
    assert recorded == [("by-hand", {"why": "ä"}, 1), (other.action, other.detail, 1)]


async def test_delivery_of_another_event_or_destination_is_not_repeated(store: Store) -> None:
    first, other = await bring(store, DELIVERED, "e1"), await bring(store, DELIVERED, "e2")
    for wrong in (
        Replay(first.event, "erp", NOW, of=other.id),
        Replay(first.event, "crm", NOW, of=first.id),
        Replay(first.event, "erp", NOW, of=999),
        Replay(999, "erp", NOW),
        Replay(10**30, "erp", NOW, of=10**30),
    ):
        assert await store.replay(BY_HAND, [wrong]) == NOTHING
    assert await go_through(store) == []


@pytest.mark.parametrize("state", list(DeliveryState))
async def test_event_goes_for_the_first_time_only_where_it_did_not(
    store: Store, state: DeliveryState
) -> None:
    first = await bring(store, state)
    there, elsewhere = Replay(first.event, "erp", NOW), Replay(first.event, "new", NOW)
    changed = await store.replay(BY_HAND, [there, elsewhere])
    goes = state in {DEAD, DISCARDED}
    assert changed.done == (goes, True)
    assert changed.destinations == ({"erp", "new"} if goes else {"new"})
    before, *after = await made(store)
    assert [(one.destination, one.state, one.replay_of) for one in after] == [
        (destination, PENDING, None) for destination in (["erp", "new"] if goes else ["new"])
    ]
    if state is DEAD:
        assert (before.state, before.reason) == (DISCARDED, f"replayed as {after[0].id}")


async def test_first_replay_discards_every_dead_delivery_there(store: Store) -> None:
    first = await bring(store, DEAD)
    await store.replay(BY_HAND, [Replay(first.event, "new", NOW)])
    await finish(store, DEAD, "new")
    await store.replay(BY_HAND, [Replay(first.event, "erp", NOW, of=first.id)])
    await finish(store, DEAD)
    await store.replay(BY_HAND, [Replay(first.event, "erp", NOW)])
    assert [one.state for one in await made(store)] == [DISCARDED, DEAD, DISCARDED, PENDING]
    assert (await backlog(store)).counts[DEAD] == 0


async def test_repeat_of_an_older_delivery_discards_the_dead_one_before_it(store: Store) -> None:
    first = await bring(store, DELIVERED)
    replay = Replay(first.event, "erp", NOW, "k", of=first.id)
    await store.replay(BY_HAND, [replay])
    died = attempt(await claim_one(store), DEAD)
    await store.record([died._replace(transition=died.transition._replace(keeps_place=True))])
    await store.replay(BY_HAND, [replay])
    assert [one.state for one in await made(store)] == [DELIVERED, DISCARDED, PENDING]
    assert await go_through(store) == ["e1"]


@pytest.mark.parametrize(("key", "left"), [("k", False), ("other", True), (None, True)])
async def test_replay_tells_that_it_left_the_order_of_the_dead_one(
    store: Store, key: str | None, *, left: bool
) -> None:
    first = await bring(store, DELIVERED)
    await store.replay(BY_HAND, [Replay(first.event, "erp", NOW, "k", of=first.id)])
    died = attempt(await claim_one(store), DEAD)
    await store.record([died._replace(transition=died.transition._replace(keeps_place=True))])
    changed = await store.replay(BY_HAND, [Replay(first.event, "erp", NOW, key, of=first.id)])
    assert (changed.done, changed.left_order) == ((True,), left)


async def test_dead_deliveries_of_others_stay(store: Store) -> None:
    first, second = await bring(store, DEAD, "e1"), await bring(store, DEAD, "e2")
    await store.replay(BY_HAND, [Replay(first.event, "new", NOW)])
    await finish(store, DEAD, "new")
    await store.replay(BY_HAND, [Replay(first.event, "erp", NOW, of=first.id)])
    assert [one.state for one in await made(store)] == [DISCARDED, DEAD, PENDING]
    assert (await made(store, "e2"))[0] == second


async def test_one_step_makes_one_delivery_of_an_event_to_a_destination(store: Store) -> None:
    first = await bring(store, DELIVERED)
    replay = Replay(first.event, "erp", NOW, of=first.id)
    assert (await store.replay(BY_HAND, [replay, replay])).done == (True, False)
    assert (await store.replay(BY_HAND, [Replay(first.event, "new", NOW)] * 2)).done == (True, False)
    assert len(await made(store)) == 3
    assert (await store.replay(BY_HAND, [replay])).done == (False,)  # asked for again, but under way


async def test_dead_delivery_that_was_replayed_is_dead_no_more(store: Store) -> None:
    first = await bring(store, DEAD)
    replays = [Replay(first.event, "erp", NOW)] * 3
    done = await asyncio.gather(*(store.replay(BY_HAND, [replay]) for replay in replays))
    assert sorted(changed.done for changed in done) == [(False,), (False,), (True,)]
    assert len(await changes(store)) == 1


async def test_unrouted_event_is_owed_after_its_replay(store: Store) -> None:
    await offer(store, event(), {})
    id_ = await number_of(store)
    await store.replay(BY_HAND, [Replay(id_, "erp", NOW)])
    found = await store.read_event(id_)
    assert found is not None
    assert not found.unrouted
    assert await go_through(store) == ["e1"]
    assert (await store.purge(0, NOW, 10)).deleted == 1


async def test_replays_survive_reopening_and_get_numbers_of_their_own(open_store: Opened) -> None:
    store = await open_store()
    first = await bring(store, DELIVERED)
    await store.replay(BY_HAND, [Replay(first.event, "erp", NOW, of=first.id)])
    store = await open_store()
    assert await backlog(store) == owed(pending=1, oldest=NOW)
    await accept(store, "e2")
    numbers = [one.id for event_id in ("e1", "e2") for one in await made(store, event_id)]
    assert len(set(numbers)) == 3
    assert sorted(await go_through(store)) == ["e1", "e2"]


async def test_many_replays_are_one_step(store: Store) -> None:
    await accept(store, *(f"e{number}" for number in range(500)))
    await finish(store, DEAD)
    dead = (await store.find_deliveries(Filter(state=DEAD), replace(ALL, limit=500))).items
    replays = [Replay(one.event, "erp", NOW, of=one.id) for one in dead]
    changed = await store.replay(BY_HAND, replays)
    assert changed.done == (True,) * 500
    assert (await changes(store))[0].number == 500
    assert await backlog(store) == owed(pending=500, oldest=NOW)


# ---- order


async def test_replay_of_the_head_goes_before_what_waits_for_it(store: Store) -> None:
    await ordered(store, "k1", "k2", "k3")
    head = (await made(store, "k1"))[0]
    changed = await store.replay(BY_HAND, [Replay(head.event, "erp", START, "k", of=head.id)])
    assert changed.destinations == {"erp"}
    waits = [(one.order_key, one.blocked) for name in ("k1", "k2", "k3") for one in await made(store, name)]
    assert waits == [(None, False), ("k", False), ("k", True), ("k", True)]
    assert await go_through(store) == ["k1", "k2", "k3"]


async def test_replay_without_a_place_lets_the_rest_go_on(store: Store) -> None:
    await ordered(store, "k1", "k2")
    head = (await made(store, "k1"))[0]
    await store.replay(BY_HAND, [Replay(head.event, "erp", START, of=head.id)])
    assert sorted(ids(await claim_all(store))) == ["k1", "k2"]


async def test_replays_of_one_key_go_in_order_of_acceptance(store: Store) -> None:
    await accept(store, "k1", "k2", "k3")
    await finish(store, DELIVERED)
    replays = [Replay(await number_of(store, name), "new", START, "k") for name in ("k3", "k1", "k2")]
    await store.replay(BY_HAND, replays)
    told = []
    while claimed := await claim_all(store, "new"):
        await store.record([attempt(delivery, DELIVERED) for delivery in claimed])
        told.append(ids(claimed))
    assert told == [["k1"], ["k2"], ["k3"]]


async def test_replay_waits_for_what_is_open_under_its_key(store: Store) -> None:
    await accept(store, "k1")
    await finish(store, DELIVERED)
    await store.accept(event("k2"), References(), {"erp": Owed(claim=False, order_key="k")})
    (first,) = await made(store, "k1")
    await store.replay(BY_HAND, [Replay(first.event, "erp", START, "k", of=first.id)])
    assert await go_through(store) == ["k2", "k1"]


async def test_skipped_delivery_stays_dead_and_lets_the_next_go_on(store: Store) -> None:
    await ordered(store, "k1", "k2", "k3")
    head = (await made(store, "k1"))[0]
    changed = await store.skip(BY_HAND, [head.id])
    assert (changed.done, changed.destinations) == ((True,), frozenset({"erp"}))
    (skipped,) = await made(store, "k1")
    assert skipped == replace(head, order_key=None)
    assert await go_through(store) == ["k2", "k3"]
    assert (await backlog(store)).counts[DEAD] == 1


@pytest.mark.parametrize("state", list(DeliveryState))
async def test_only_dead_deliveries_with_a_place_are_skipped(store: Store, state: DeliveryState) -> None:
    await ordered(store, "k1", "k2")
    first = await bring(store, state)
    waiting = (await made(store, "k2"))[0]
    before = await changes(store)
    changed = await store.skip(BY_HAND, [first.id, waiting.id, 999])
    assert changed == Changed(None, (False, False, False))
    assert (await made(store, "k2"))[0] == waiting
    assert await changes(store) == before


@pytest.mark.parametrize("number", [0, 1])
async def test_discarded_delivery_lets_the_next_of_its_key_go_on(store: Store, number: int) -> None:
    await ordered(store, "k1", "k2", "k3")
    names = ["k1", "k2", "k3"]
    (gone,) = await made(store, names.pop(number))
    await store.discard(BY_HAND, [gone.id], "of no use")
    (gone,) = await made(store, gone.event_id)
    assert (gone.state, gone.order_key, gone.blocked) == (DISCARDED, None, False)
    assert await go_through(store) == (["k2", "k3"] if number == 0 else [])


async def test_discarded_head_that_waits_for_a_retry_lets_the_next_go_on(store: Store) -> None:
    for event_id in ("k1", "k2"):
        await store.accept(event(event_id), References(), {"erp": Owed(claim=False, order_key="k")})
    (head,) = await made(store, "k1")
    await store.discard(BY_HAND, [head.id], "of no use")
    assert await go_through(store) == ["k2"]


# ---- discard


@pytest.mark.parametrize("state", list(DeliveryState))
async def test_pending_and_dead_deliveries_are_discarded(store: Store, state: DeliveryState) -> None:
    first = await bring(store, state)
    changed = await store.discard(BY_HAND, [first.id], "of no use")
    (after,) = await made(store)
    if state in {PENDING, DEAD}:
        assert (changed.done, changed.destinations) == ((True,), frozenset({"erp"}))
        assert after == replace(first, state=DISCARDED, due_at=NOW, reason="of no use")
        assert await backlog(store) == owed()
    else:
        assert changed == NOTHING
        assert after.state is state
        assert after.reason == ("before" if state is DISCARDED else None)


async def test_discarded_delivery_is_not_claimed_and_its_event_is_purged(store: Store) -> None:
    first = await bring(store, PENDING)
    await store.discard(BY_HAND, [first.id], "of no use")
    assert await claim_all(store) == []
    assert (await store.purge(0, NOW, 10)).deleted == 1


async def test_item_named_twice_is_done_once(store: Store) -> None:
    first, second = await bring(store, DEAD, "e1"), await bring(store, PENDING, "e2")
    changed = await store.discard(BY_HAND, [first.id, 999, first.id, second.id, 10**30], "of no use")
    assert changed.done == (True, False, False, True, False)
    assert (await changes(store))[0].number == 2


async def test_claim_and_discard_at_once_leave_one_of_both(store: Store) -> None:
    await accept(store, *(f"e{number}" for number in range(20)))
    every = [one.id for one in (await store.find_deliveries(Filter(), ALL)).items]
    claiming = asyncio.ensure_future(claim_all(store))
    discards = await asyncio.gather(*(store.discard(BY_HAND, [id_], "of no use") for id_ in every))
    claims = await claiming
    discarded = sum(changed.done[0] for changed in discards)
    assert len(claims) + discarded == 20
    assert all(await store.record([attempt(delivery, DELIVERED) for delivery in claims]))


async def test_change_is_counted_when_nobody_waits_for_it_any_more(store: Store) -> None:
    first = await bring(store, DEAD)
    waiting = asyncio.ensure_future(store.discard(BY_HAND, [first.id], "of no use"))
    await asyncio.sleep(0)
    waiting.cancel()
    await comes_to(store, owed())


# ---- pauses


async def test_pause_is_remembered_until_it_is_lifted(open_store: Opened) -> None:
    store = await open_store()
    assert await store.paused() == {}
    changed = await store.pause(BY_HAND, "erp")
    assert (changed.done, changed.destinations) == ((True,), frozenset({"erp"}))
    assert await store.pause(replace(BY_HAND, at=NOW + 9), "erp") == NOTHING
    store = await open_store()
    assert await store.paused() == {"erp": NOW}
    assert (await store.resume(BY_HAND, "erp")).done == (True,)
    assert await store.resume(BY_HAND, "erp") == NOTHING
    assert await store.paused() == {}
    assert [change.number for change in await changes(store)] == [1, 1]


async def test_pauses_of_many_destinations_are_apart(store: Store) -> None:
    await asyncio.gather(*(store.pause(BY_HAND, name) for name in ("erp", "crm", "erp")))
    assert await store.paused() == {"erp": NOW, "crm": NOW}
    await store.resume(BY_HAND, "erp")
    assert await store.paused() == {"crm": NOW}


# ---- quarantine


async def quarantined(store: Store) -> list[int]:
    return [found.id for found in (await store.find_quarantined(None, ALL)).items]


@pytest.mark.parametrize("claim", [False, True])
async def test_released_request_is_an_event_like_any_other(store: Store, *, claim: bool) -> None:
    await store.quarantine(rejected(b"{}"))
    (id_,) = await quarantined(store)
    wanted = {"erp": Owed(claim), "crm": Owed(claim=False, order_key="k")}
    accepted = await store.release_quarantined(BY_HAND, id_, event(), References("o1"), wanted)
    assert accepted is not None
    assert not accepted.duplicate
    assert [delivery.destination for delivery in accepted.claimed] == (["erp"] if claim else [])
    assert await quarantined(store) == []
    assert (await backlog(store)).counts[IN_FLIGHT if claim else PENDING] == 1
    assert [one.destination for one in await made(store, "o1")] == ["erp", "crm"]
    assert [(change.who, change.number) for change in await changes(store)] == [("alice", 1)]
    assert (await offer(store, event(), {})).duplicate


async def test_request_that_is_gone_is_not_released(store: Store) -> None:
    assert (
        await store.release_quarantined(BY_HAND, 1, event(), References(), {"erp": Owed(claim=True)}) is None
    )
    assert not (await offer(store, event(), {})).duplicate
    assert await changes(store) == []


async def test_released_twice_at_once_it_is_one_event(store: Store) -> None:
    await store.quarantine(rejected(b"{}"))
    (id_,) = await quarantined(store)
    wanted = {"erp": Owed(claim=False)}
    both = await asyncio.gather(
        *(store.release_quarantined(BY_HAND, id_, event(), References(), wanted) for _ in range(2))
    )
    assert sorted(accepted is None for accepted in both) == [False, True]
    assert len(await changes(store)) == 1


async def test_duplicate_stays_in_quarantine(store: Store) -> None:
    await accept(store, "e1")
    await store.quarantine(rejected(b"{}"))
    (id_,) = await quarantined(store)
    accepted = await store.release_quarantined(
        BY_HAND, id_, event(body=b"other"), References(), {"erp": Owed(claim=True)}
    )
    assert accepted is not None
    assert (accepted.duplicate, accepted.conflicting) == (True, True)
    assert await quarantined(store) == [id_]
    assert await changes(store) == []


async def test_discarded_request_is_gone(store: Store) -> None:
    for body in (b"a", b"b", b"c"):
        await store.quarantine(rejected(body))
    first, second, third = await quarantined(store)
    changed = await store.discard_quarantined(BY_HAND, [third, 999, first, first])
    assert changed.done == (True, False, True, False)
    assert await quarantined(store) == [second]
    assert [change.number for change in await changes(store)] == [2]
    assert await store.discard_quarantined(BY_HAND, [first]) == NOTHING


# ---- the record of changes


async def test_further_steps_of_a_change_add_to_its_record(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1", "e2", "e3")
    await finish(store, DEAD)
    every = (await store.find_deliveries(Filter(state=DEAD), ALL)).items
    first = await store.replay(BY_HAND, [Replay(one.event, "erp", NOW, of=one.id) for one in every[:2]])
    assert first.id is not None
    further = replace(BY_HAND, at=NOW + 9, id=first.id)
    second = await store.discard(further, [every[2].id], "of no use")
    third = await store.discard(further, [every[2].id], "of no use")
    assert (second.id, third.id, third.done) == (first.id, first.id, (False,))
    store = await open_store()
    assert await changes(store) == [ChangeRecord(first.id, NOW, "alice", "by-hand", {"why": "ä"}, 3)]


async def test_step_for_nothing_does_nothing(store: Store) -> None:
    assert await store.replay(BY_HAND, []) == Changed(None, ())
    assert await store.discard(BY_HAND, [], "of no use") == Changed(None, ())
    assert await store.skip(BY_HAND, []) == Changed(None, ())
    assert await store.discard_quarantined(BY_HAND, []) == Changed(None, ())
    assert await changes(store) == []


async def test_changes_at_once_have_records_of_their_own(store: Store) -> None:
    done = await asyncio.gather(*(store.pause(BY_HAND, f"d{number}") for number in range(10)))
    assert len({changed.id for changed in done}) == len(await changes(store)) == 10
