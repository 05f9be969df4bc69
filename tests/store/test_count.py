"""Conformance: how much of a kind there is, and what is counted by day."""

from __future__ import annotations

import asyncio

import pytest

from relay.model import Attempt, DeliveryState, Outcome, Quarantined, Transition
from relay.store import Store
from relay.store.counts import MAX_COUNTED, MAX_DEAD, NEWEST_EVENTS, shared
from relay.store.repair import Change, Counts, Filter, Group, Page, Replay
from tests.store.opened import START, Opened, accept, claim_all, event, finish, offer, rejected

DEAD, PENDING = DeliveryState.DEAD, DeliveryState.PENDING
NONE = Counts((), more=False)
BY_HAND = Change("alice", START + 500, "by-hand")


async def test_empty_store_counts_nothing(store: Store) -> None:
    assert await store.last_events() == {}
    assert await store.count_unrouted() == NONE
    assert await store.count_quarantined() == NONE
    assert await store.count_dead() == NONE
    assert await store.read_matches("2026-01-01") == {}


async def test_newest_event_of_each_source_is_told(store: Store) -> None:
    for event_id, source, at in (("1", "a", 5.0), ("2", "b", 9.5), ("3", "a", 7.25), ("4", "a", 6.0)):
        await offer(store, event(event_id, source=source, at=START + at), {})
    assert await store.last_events() == {"a": START + 7.25, "b": START + 9.5}


async def test_source_that_only_much_older_events_have_is_left_out(store: Store) -> None:
    await offer(store, event("old", source="silent"), {})
    await asyncio.gather(*(offer(store, event(f"e{n}", at=START + 1), {}) for n in range(NEWEST_EVENTS)))
    assert await store.last_events() == {"itscope": START + 1}


async def test_unrouted_events_are_counted_by_type_and_status(store: Store) -> None:
    for number, (type_, status) in enumerate([("A", "x"), ("A", None), ("A", "x"), (None, None)]):
        given = event(f"e{number}", at=START + number)._replace(event_type=type_, transaction_status=status)
        await offer(store, given, {})
    await accept(store, "routed")
    assert await store.count_unrouted() == Counts(
        (
            Group(("A", "x"), 2, START, START + 2),
            Group((None, None), 1, START + 3, START + 3),
            Group(("A", None), 1, START + 1, START + 1),
        ),
        more=False,
    )


async def test_event_that_was_sent_somewhere_is_unrouted_no_more(store: Store) -> None:
    await offer(store, event(), {})
    (found,) = (await store.find_events(Filter(), Page(1))).items
    await store.replay(BY_HAND, [Replay(found.id, "erp", START)])
    assert await store.count_unrouted() == NONE


async def many(store: Store, number: int, to: dict[str, bool]) -> None:
    """Accept events that nothing but their ids tells apart."""
    for first in range(0, number, 5_000):
        ids = [f"e{n}" for n in range(first, min(number, first + 5_000))]
        await asyncio.gather(*(offer(store, event(event_id), to) for event_id in ids))


async def test_only_the_newest_of_many_unrouted_events_are_counted(store: Store) -> None:
    await offer(store, event("old", at=START - 1), {})
    await many(store, MAX_COUNTED - 1, {})
    (group,) = (counted := await store.count_unrouted()).groups
    assert (group.number, group.oldest_at, counted.more) == (MAX_COUNTED, START - 1, False)
    await offer(store, event("one more"), {})
    (group,) = (counted := await store.count_unrouted()).groups
    assert (group.number, group.oldest_at, counted.more) == (MAX_COUNTED, START, True)


async def test_quarantined_requests_are_counted_by_source_and_reason(store: Store) -> None:
    for number, (source, reason) in enumerate([("a", "not-json"), ("b", "not-json"), ("a", "not-json")]):
        body = str(number).encode()
        await store.quarantine(Quarantined(source, START + number, reason, "", "text/plain", body))
    await store.quarantine(rejected(b"again", reason="too-deep"))
    await store.quarantine(rejected(b"again", reason="too-deep", at=START + 9))
    assert await store.count_quarantined() == Counts(
        (
            Group(("a", "not-json"), 2, START, START + 2),
            Group(("b", "not-json"), 1, START + 1, START + 1),
            Group(("itscope", "too-deep"), 1, START, START + 9),
        ),
        more=False,
    )


async def end(store: Store, destination: str, status: int | None, error: str | None, at: float) -> None:
    """Let all that a destination is owed fail for good."""
    for delivery in await claim_all(store, destination):
        outcome = Outcome(status, error, 0.25)
        made = Attempt(delivery, delivery.attempts + 1, at, outcome, Transition(DEAD, at))
        assert await store.record([made]) == [True]


async def test_dead_deliveries_are_counted_by_destination_and_reason(store: Store) -> None:
    await accept(store, "e1", "e2", to=("erp", "crm"))
    await end(store, "erp", 422, None, START + 50)
    await end(store, "crm", 422, None, START + 60)
    await accept(store, "e3", to=("erp",))
    await end(store, "erp", None, "timeout " + "x" * 200, START + 70)
    await accept(store, "e4", to=("erp",))
    await finish(store, DeliveryState.DELIVERED)
    assert await store.count_dead() == Counts(
        (
            Group(("crm", "HTTP 422"), 2, START + 60, START + 60),
            Group(("erp", "HTTP 422"), 2, START + 50, START + 50),
            Group(("erp", "timeout " + "x" * 112), 1, START + 70, START + 70),
        ),
        more=False,
    )


async def test_reason_is_that_of_the_last_attempt(store: Store) -> None:
    await accept(store, "e1")
    (delivery,) = await claim_all(store)
    first = Attempt(delivery, 1, START, Outcome(503, None, 0.25), Transition(PENDING, START))
    await store.record([first])
    await end(store, "erp", 410, None, START + 5)
    assert [group.key for group in (await store.count_dead()).groups] == [("erp", "HTTP 410")]


async def test_discarded_delivery_is_dead_no_more(store: Store) -> None:
    await accept(store, "e1")
    await finish(store, DEAD)
    (dead,) = (await store.find_deliveries(Filter(state=DEAD), Page(1))).items
    await store.discard(BY_HAND, [dead.id], "of no use")
    assert await store.count_dead() == NONE


async def test_each_destination_has_its_share_of_many_dead_deliveries(store: Store) -> None:
    await accept(store, "first", to=("crm",))
    await many(store, MAX_DEAD, {"erp": False})
    for destination in ("erp", "crm"):
        while claimed := await claim_all(store, destination):
            for part in range(0, len(claimed), 500):
                made = [
                    Attempt(one, 1, START, Outcome(500, None, 0.25), Transition(DEAD, START))
                    for one in claimed[part : part + 500]
                ]
                assert all(await store.record(made))
    counted = await store.count_dead()
    assert counted.more
    assert {group.key: group.number for group in counted.groups} == {
        ("erp", "HTTP 500"): MAX_DEAD - 1,
        ("crm", "HTTP 500"): 1,
    }


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({}, {}),
        ({"a": 3}, {"a": 3}),
        ({"a": MAX_DEAD + 1}, {"a": MAX_DEAD}),
        ({"a": MAX_DEAD, "b": MAX_DEAD}, {"a": MAX_DEAD // 2, "b": MAX_DEAD // 2}),
        ({"a": MAX_DEAD, "b": 10, "c": MAX_DEAD}, {"b": 10, "a": MAX_DEAD // 2 - 5, "c": MAX_DEAD // 2 - 5}),
    ],
)
def test_what_may_be_looked_at_is_shared(numbers: dict[str, int], expected: dict[str, int]) -> None:
    assert shared(numbers) == expected


async def test_matches_are_added_up_by_day_and_route(store: Store) -> None:
    await store.add_matches("2026-01-30", {"all": 3, "some": 1})
    await store.add_matches("2026-01-31", {"all": 5})
    await store.add_matches("2026-01-31", {"all": 2, "Auftr\u00e4ge": 4})
    assert await store.read_matches("2026-01-30") == {
        ("2026-01-30", "all"): 3,
        ("2026-01-30", "some"): 1,
        ("2026-01-31", "all"): 7,
        ("2026-01-31", "Auftr\u00e4ge"): 4,
    }
    assert await store.read_matches("2026-01-31") == {
        ("2026-01-31", "all"): 7,
        ("2026-01-31", "Auftr\u00e4ge"): 4,
    }


async def test_matches_are_forgotten_after_thirty_days(store: Store) -> None:
    await store.add_matches("2026-01-01", {"all": 1})
    await store.add_matches("2026-01-31", {"all": 1})
    assert list(await store.read_matches("2000-01-01")) == [("2026-01-01", "all"), ("2026-01-31", "all")]
    await store.add_matches("2026-02-01", {"all": 1})
    assert list(await store.read_matches("2000-01-01")) == [("2026-01-31", "all"), ("2026-02-01", "all")]


async def test_matches_outlast_a_restart(open_store: Opened) -> None:
    await (await open_store()).add_matches("2026-01-31", {"all": 1})
    assert await (await open_store()).read_matches("2026-01-31") == {("2026-01-31", "all"): 1}


async def test_many_add_matches_at_once(store: Store) -> None:
    routes = {f"r{n}": 1 for n in range(50)}
    turned = dict(reversed(routes.items()))
    await asyncio.gather(*(store.add_matches("2026-01-31", turned if n % 2 else routes) for n in range(20)))
    assert set((await store.read_matches("2026-01-31")).values()) == {20}
