"""Conformance: retention deletes old finished events, and nothing else."""

from __future__ import annotations

import pytest

from relay.model import DeliveryState
from relay.store import Store
from relay.store.repair import Change, DeliveryRecord, Filter, Page, Replay
from tests.store.opened import (
    START,
    Opened,
    accept,
    attempt,
    claim_all,
    claim_one,
    event,
    finish,
    ids,
    offer,
)

OLD = START + 100  # everything accepted before counts as old
LATER = START + 1e6


async def purge(store: Store, before: float = OLD, limit: int = 100) -> int:
    """Purge to the end and return how many events were deleted."""
    deleted = 0
    after: int | None = 0
    while after is not None:
        step = await store.purge(after, before, limit)
        assert step.deleted <= limit
        deleted += step.deleted
        after = step.next_after
    return deleted


async def known(store: Store, event_id: str) -> bool:
    """Tell whether an event is still there."""
    return (await offer(store, event(event_id, at=LATER), {})).duplicate


async def test_old_finished_event_is_deleted_with_all_that_belongs_to_it(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1", to=("erp", "crm"))
    await finish(store, DeliveryState.DELIVERED, "erp")
    await finish(store, DeliveryState.DELIVERED, "crm")
    assert await purge(store) == 1
    for table in ("events", "deliveries", "attempts"):
        assert open_store.read(f"SELECT count(*) FROM {table}") == [(0,)]  # noqa: S608
    assert not await known(store, "e1")


async def test_young_event_stays(store: Store) -> None:
    await accept(store, "young", at=OLD)
    await finish(store, DeliveryState.DELIVERED)
    assert await purge(store) == 0
    assert await known(store, "young")


async def test_event_with_a_dead_delivery_stays(store: Store) -> None:
    await accept(store, "e1", to=("erp", "crm"))
    await finish(store, DeliveryState.DELIVERED, "erp")
    await finish(store, DeliveryState.DEAD, "crm")
    assert await purge(store) == 0
    assert await known(store, "e1")


async def test_event_with_a_pending_delivery_stays(store: Store) -> None:
    await accept(store, "e1", to=("erp", "crm"))
    await finish(store, DeliveryState.DELIVERED, "erp")
    assert await purge(store) == 0
    assert ids(await claim_all(store, "crm")) == ["e1"]


async def test_event_in_retry_or_in_flight_stays(store: Store) -> None:
    await accept(store, "retried", "in-flight")
    await store.record([attempt(await claim_one(store), DeliveryState.PENDING, due_at=LATER)])
    delivery = await claim_one(store)
    assert await purge(store) == 0
    assert await store.record([attempt(delivery, DeliveryState.DELIVERED)]) == [True]
    assert ids(await claim_all(store, now=LATER)) == ["retried"]


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.IN_FLIGHT, DeliveryState.DEAD])
async def test_old_event_stays_as_long_as_its_replay_is_open(store: Store, state: DeliveryState) -> None:
    await accept(store, "e1", "e2")
    await finish(store, DeliveryState.DELIVERED)
    ((_, first), _) = await made(store)
    change = Change("alice", START, "replay")
    replayed = await store.replay(change, [Replay(first.event, "erp", due_at=START, of=first.id)])
    assert replayed.done == (True,)
    if state is not DeliveryState.PENDING:
        (delivery,) = await claim_all(store)
        if state is DeliveryState.DEAD:
            await store.record([attempt(delivery, state)])
    for limit in (1, 100):
        await purge(store, limit=limit)
        ((event_id, delivered), (_, replay)) = await made(store)
        assert event_id == "e1"
        assert (delivered.state, replay.state) == (DeliveryState.DELIVERED, state)
        assert replay.replay_of == delivered.id
    if state is DeliveryState.PENDING:
        assert ids(await claim_all(store)) == ["e1"]


async def made(store: Store) -> list[tuple[str, DeliveryRecord]]:
    """Return all deliveries, in the order in which they were made."""
    found = await store.find_deliveries(Filter(), Page(100, newest_first=False))
    return sorted(((one.event_id, one) for one in found.items), key=lambda pair: pair[1].id)


async def test_unrouted_event_stays(store: Store) -> None:
    await offer(store, event(), {})
    assert await purge(store) == 0
    assert await known(store, "e1")


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_purge_goes_on_in_steps_past_what_stays(store: Store, limit: int) -> None:
    await accept(store, "f1")
    await finish(store, DeliveryState.DELIVERED)
    await accept(store, "dead", at=START + 1)
    await finish(store, DeliveryState.DEAD)
    await accept(store, "f2", "f3", at=START + 2)
    await finish(store, DeliveryState.DELIVERED)
    await accept(store, "young", at=OLD)
    await finish(store, DeliveryState.DELIVERED)
    assert await purge(store, limit=limit) == 3
    assert [await known(store, event_id) for event_id in ("f1", "dead", "f2", "f3", "young")] == [
        False,
        True,
        False,
        False,
        True,
    ]


async def test_step_looks_at_no_more_than_its_limit(store: Store) -> None:
    await accept(store, "e1", "e2", "e3")
    await finish(store, DeliveryState.DELIVERED)
    step = await store.purge(0, OLD, 2)
    assert step.deleted == 2
    assert step.next_after is not None
    step = await store.purge(step.next_after, OLD, 2)
    assert (step.deleted, step.next_after) == (1, None)


async def test_purge_of_nothing_ends_at_once(store: Store) -> None:
    step = await store.purge(0, OLD, 10)
    assert (step.deleted, step.next_after) == (0, None)


async def test_purge_leaves_the_backlog_as_it_is(store: Store) -> None:
    await accept(store, "done")
    await finish(store, DeliveryState.DELIVERED)
    await accept(store, "open", at=START + 1)
    before = await store.backlog()
    assert await purge(store) == 1
    assert await store.backlog() == before


async def test_new_events_after_a_purge_have_ids_of_their_own(open_store: Opened) -> None:
    store = await open_store()
    await accept(store, "e1")
    await finish(store, DeliveryState.DELIVERED)
    assert await purge(store) == 1
    store = await open_store()
    await accept(store, "e2", "e3", at=LATER)
    assert ids(await claim_all(store, now=LATER + 10)) == ["e2", "e3"]


@pytest.mark.parametrize("limit", [2, 3, 100])
async def test_purge_goes_on_past_an_event_of_a_clock_that_was_wrong(store: Store, limit: int) -> None:
    for number in range(7):
        await accept(store, f"e{number}", at=LATER if number == 1 else START + number)
    await finish_all(store)
    assert await purge(store, limit=limit) == 6
    assert await known(store, "e1")
    assert not await known(store, "e6")


async def finish_all(store: Store) -> None:
    assert all(
        await store.record(
            [attempt(delivery, DeliveryState.DELIVERED) for delivery in await claim_all(store, now=LATER)]
        )
    )


async def test_ids_are_never_given_again(open_store: Opened) -> None:
    store = await open_store()
    highest: dict[str, int] = {"events": 0, "deliveries": 0}
    for number in range(3):
        await accept(store, f"e{number}", to=("erp", "crm"))
        for table, before in highest.items():
            ((least, most, count),) = open_store.read(f"SELECT min(id), max(id), count(*) FROM {table}")  # noqa: S608
            assert least > before
            assert count == (1 if table == "events" else 2)
            highest[table] = most
        await finish(store, DeliveryState.DELIVERED, "erp")
        await finish(store, DeliveryState.DELIVERED, "crm")
        assert await purge(store) == 1
        store = await open_store()
