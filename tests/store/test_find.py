"""Conformance: what operators find, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest

from relay.model import DeliveryState, Event, Owed, References
from relay.store import Store
from relay.store.repair import (
    AttemptRecord,
    Change,
    EventRecord,
    Filter,
    Found,
    Page,
    QuarantineRecord,
    Replay,
)
from tests.store.opened import (
    START,
    Opened,
    accept,
    attempt,
    claim_all,
    event,
    finish,
    offer,
    rejected,
)

T = TypeVar("T")
PENDING, IN_FLIGHT = DeliveryState.PENDING, DeliveryState.IN_FLIGHT
DELIVERED, DEAD, DISCARDED = DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DISCARDED

MANY = 5_500  # more than a page looks at
MEBIBYTE = bytes(1 << 20)
BY_HAND = Change("alice", START + 500, "by-hand")
ALL = Filter()
OLDEST = Page(100, newest_first=False)
NEWEST = Page(100)

both_ways = pytest.mark.parametrize("page", [OLDEST, NEWEST], ids=["oldest", "newest"])


async def on_all_pages(find: Callable[[Page], Awaitable[Found[T]]], page: Page) -> AsyncIterator[T]:
    """Yield what is on a page and all that follow; none holds too much, and each comes closer to the end."""
    cursors: set[str | None] = set()
    while page.cursor not in cursors:
        cursors.add(page.cursor)
        found = await find(page)
        assert len(found.items) <= page.limit
        for item in found.items:
            yield item
        if found.next is None:
            return
        page = replace(page, cursor=found.next)
    pytest.fail("a page points to one before it")


async def events(store: Store, wanted: Filter = ALL, page: Page = OLDEST) -> list[str]:
    """Return the ids of all events that are found."""
    every = on_all_pages(lambda page: store.find_events(wanted, page), page)
    return [found.event_id async for found in every]


async def deliveries(store: Store, wanted: Filter = ALL, page: Page = OLDEST) -> list[tuple[str, str]]:
    """Return all deliveries that are found, as (event's id, destination)."""
    every = on_all_pages(lambda page: store.find_deliveries(wanted, page), page)
    return [(found.event_id, found.destination) async for found in every]


async def number_of(store: Store, event_id: str) -> int:
    """Return the number that a store gave an event."""
    (found,) = (await store.find_events(Filter(any_id=event_id), OLDEST)).items
    return found.id


async def bring(store: Store, event_id: str, state: DeliveryState, destination: str = "erp") -> None:
    """Accept an event whose only delivery comes to a state."""
    accepted = await offer(store, event(event_id), {destination: state is not PENDING})
    if state in {DELIVERED, DEAD}:
        await store.record([attempt(delivery, state) for delivery in accepted.claimed])


# ---- what is told of an event


async def test_found_event_is_the_accepted_one(store: Store) -> None:
    given = Event("itscope", "ä'\n", START, "text/x; a=b", "ORDER", "OK", "f" * 32, b"\xff\x00")
    references = References("o1", "i1", "d1", "t1")
    await store.accept(given, references, {"erp": Owed(claim=False, order_key="k"), "crm": Owed(claim=True)})
    (found,) = (await store.find_events(ALL, OLDEST, bodies=True)).items
    assert (found.source, found.event_id, found.received_at) == ("itscope", "ä'\n", START)
    assert (found.content_type, found.event_type, found.transaction_status) == ("text/x; a=b", "ORDER", "OK")
    assert (found.references, found.trace_id) == (references, "f" * 32)
    assert (found.unrouted, found.size, found.body) == (False, 2, b"\xff\x00")
    erp, crm = found.deliveries
    assert (erp.destination, erp.state, erp.order_key, erp.blocked) == ("erp", PENDING, "k", False)
    assert (crm.destination, crm.state, crm.order_key) == ("crm", IN_FLIGHT, None)
    assert (erp.event, erp.event_id, erp.source) == (found.id, found.event_id, found.source)
    assert (erp.event_type, erp.transaction_status) == ("ORDER", "OK")
    assert (erp.accepted_at, erp.due_at, erp.attempts) == (START, START, 0)
    assert (erp.replay_of, erp.reason) == (None, None)
    assert (erp.received_at, erp.references) == (START, references)
    assert (await store.find_deliveries(ALL, OLDEST)).items == found.deliveries
    assert await store.read_event(found.id) == found


async def test_body_comes_only_where_it_is_asked_for(store: Store) -> None:
    await offer(store, event(body=b"12345"), {})
    (found,) = (await store.find_events(ALL, OLDEST)).items
    assert (found.body, found.size, found.unrouted, found.deliveries) == (None, 5, True, ())


async def test_bodies_of_a_page_are_bounded(store: Store) -> None:
    for number in range(20):
        await offer(store, event(f"e{number}", body=MEBIBYTE + bytes([number])), {})
    found: list[EventRecord] = []
    cursor = None
    while len(found) < 20:
        page = await store.find_events(ALL, replace(OLDEST, cursor=cursor), bodies=True)
        assert 0 < sum(one.size for one in page.items) <= 4 << 20
        found += page.items
        cursor = page.next
    assert [one.body for one in found] == [MEBIBYTE + bytes([number]) for number in range(20)]
    assert (await store.find_events(ALL, OLDEST)).next is None


async def test_larger_body_comes_alone(store: Store) -> None:
    for number in range(2):
        await offer(store, event(f"e{number}", body=MEBIBYTE * 17), {})
    first = await store.find_events(ALL, OLDEST, bodies=True)
    assert [found.event_id for found in first.items] == ["e0"]
    assert first.next is not None


async def test_event_that_is_not_there_is_not_read(store: Store) -> None:
    for id_ in (0, -1, 1, 10**30):
        assert await store.read_event(id_) is None
        assert await store.read_attempts(id_) == {}
        assert await store.read_quarantined(id_) is None
        assert (await store.find_events(Filter(delivery=id_), OLDEST)).items == ()


async def test_attempts_are_told_by_delivery_in_order(store: Store) -> None:
    await accept(store, "e1", "e2", to=("erp", "crm"))
    for number, answer in enumerate((b"", b"no \xff")):
        for delivery in await claim_all(store):
            made = attempt(delivery, PENDING, at=START + number)
            outcome = made.outcome._replace(answer=answer, error="timeout")
            await store.record([made._replace(outcome=outcome)])
    (erp, crm) = (await store.find_deliveries(Filter(any_id="e1"), OLDEST)).items
    attempts = await store.read_attempts(await number_of(store, "e1"))
    assert crm.id not in attempts
    assert attempts[erp.id] == (
        AttemptRecord(1, START, 0.25, 500, "timeout", PENDING, None),
        AttemptRecord(2, START + 1, 0.25, 500, "timeout", PENDING, b"no \xff"),
    )


# ---- filters


async def varied(store: Store) -> None:
    """Accept events that differ in everything that a filter knows."""
    for number, (event_type, status, source) in enumerate(
        [("ORDER", None, "itscope"), ("ORDER", "OK", "sandbox"), (None, "OK", "itscope")]
    ):
        given = event(f"e{number}", at=START + number, source=source)
        given = given._replace(event_type=event_type, transaction_status=status)
        references = References(f"o{number}", f"i{number}", f"d{number}", "same")
        await store.accept(given, references, {"erp": Owed(claim=False)} if number else {})


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ["e0", "e1", "e2"]),
        (Filter(event_type="ORDER"), ["e0", "e1"]),
        (Filter(transaction_status="OK"), ["e1", "e2"]),
        (Filter(event_type="ORDER", transaction_status="OK"), ["e1"]),
        (Filter(source="sandbox"), ["e1"]),
        (Filter(source="nobody"), []),
        (Filter(since=START + 1), ["e1", "e2"]),
        (Filter(until=START + 1), ["e0"]),
        (Filter(since=START + 1, until=START + 2), ["e1"]),
        (Filter(since=START + 2, until=START + 1), []),
        (Filter(unrouted=True), ["e0"]),
        (Filter(unrouted=True, event_type="OTHER"), []),
        (Filter(unrouted=True, state=PENDING), []),
        (Filter(destination="erp"), ["e1", "e2"]),
        (Filter(destination="crm"), []),
        (Filter(any_id="e1"), ["e1"]),
        (Filter(any_id="o1"), ["e1"]),
        (Filter(any_id="i1"), ["e1"]),
        (Filter(any_id="d1"), ["e1"]),
        (Filter(any_id="same"), ["e0", "e1", "e2"]),
        (Filter(any_id="same", source="itscope", destination="erp"), ["e2"]),
        (Filter(any_id="e"), []),
        (Filter(any_id="e1", event_type="OTHER"), []),
        (Filter(prefix="e"), ["e0", "e1", "e2"]),
        (Filter(prefix="e1"), ["e1"]),
        (Filter(prefix="o1"), ["e1"]),
        (Filter(prefix="i1"), ["e1"]),
        (Filter(prefix="d1"), ["e1"]),
        (Filter(prefix="sa"), ["e0", "e1", "e2"]),
        (Filter(prefix="sa", source="itscope", destination="erp"), ["e2"]),
        (Filter(prefix="same "), []),
        (Filter(prefix="ame"), []),
        (Filter(prefix="e", any_id="o2"), ["e2"]),
        (Filter(prefix="e1", event_type="OTHER"), []),
        (Filter(prefix="e", state=DEAD), []),
        (Filter(state=PENDING, transaction_status="OK", source="itscope"), ["e2"]),
    ],
)
async def test_all_that_a_filter_names_holds(store: Store, wanted: Filter, expected: list[str]) -> None:
    await varied(store)
    assert await events(store, wanted) == expected
    assert await events(store, wanted, NEWEST) == expected[::-1]
    owed = [] if wanted.unrouted else [(event_id, "erp") for event_id in expected if event_id != "e0"]
    assert await deliveries(store, wanted) == owed
    assert await deliveries(store, wanted, NEWEST) == owed[::-1]


@pytest.mark.parametrize("state", list(DeliveryState))
async def test_each_state_is_found(store: Store, state: DeliveryState) -> None:
    for each in DeliveryState:
        await bring(store, each, DEAD if each is DISCARDED else each)
    (dead,) = (await store.find_deliveries(Filter(any_id=DISCARDED), OLDEST)).items
    await store.discard(BY_HAND, [dead.id], "of no use")
    assert await events(store, Filter(state=state)) == [state]
    assert await deliveries(store, Filter(state=state)) == [(state, "erp")]
    assert await deliveries(store, Filter(state=state, destination="erp")) == [(state, "erp")]
    assert await events(store, Filter(state=state, destination="crm")) == []


async def test_state_and_destination_are_those_of_one_delivery(store: Store) -> None:
    await accept(store, "e1", to=("erp", "crm"))
    await finish(store, DEAD, "erp")
    assert await events(store, Filter(state=DEAD, destination="crm")) == []
    assert await events(store, Filter(state=PENDING, destination="erp")) == []
    assert await events(store, Filter(state=DEAD, destination="erp")) == ["e1"]
    assert await events(store, Filter(destination="crm")) == ["e1"]


async def test_what_waits_for_its_turn_and_for_a_retry_is_pending(store: Store) -> None:
    for event_id in ("a1", "a2"):
        await store.accept(event(event_id), References(), {"erp": Owed(claim=False, order_key="a")})
    await accept(store, "retried", at=START + 9)
    retried = next(d for d in await claim_all(store) if d.event.event_id == "retried")
    await store.record([attempt(retried, PENDING, due_at=START + 999)])
    await store.expire(START + 1e6)
    for wanted in (Filter(state=PENDING), Filter(state=PENDING, destination="erp")):
        assert await events(store, wanted) == ["a1", "a2", "retried"]


async def test_event_is_found_once_whatever_of_it_matches(store: Store) -> None:
    await accept(store, "e1", to=("erp", "crm"))
    await store.accept(event("x"), References("x", "x", "x", "x"), {"erp": Owed(claim=False)})
    assert await events(store, Filter(state=PENDING)) == ["e1", "x"]
    assert await events(store, Filter(any_id="x")) == ["x"]
    (found,) = (await store.find_events(Filter(state=PENDING, destination="crm"), OLDEST)).items
    assert [delivery.destination for delivery in found.deliveries] == ["erp", "crm"]


async def test_id_is_found_in_every_source(store: Store) -> None:
    for source in ("a", "b", "c"):
        await offer(store, event(source=source), {})
    assert len(await events(store, Filter(any_id="e1"))) == 3


async def test_beginning_is_found_once_in_every_source(store: Store) -> None:
    for source in ("a", "b", "c"):
        references = References("e1", "e1", "e1", "e1")
        await store.accept(event(source=source), references, {})
    assert len(await events(store, Filter(prefix="e"))) == 3


PREFIXED = (
    "PO-1",
    "PO-10",
    "PO-1\U0010ffff",
    "PO-1%",
    "PO-1_",
    "PO-2",
    "po-1",
    "PO 1",
    "PO_1",
    "P",
    "P\u00d61",
    "\U0010ffff",
)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("PO-1", ["PO-1", "PO-10", "PO-1\U0010ffff", "PO-1%", "PO-1_"]),
        ("PO-1\U0010ffff", ["PO-1\U0010ffff"]),
        ("PO-1%", ["PO-1%"]),
        ("PO_", ["PO_1"]),
        ("PO", ["PO-1", "PO-10", "PO-1\U0010ffff", "PO-1%", "PO-1_", "PO-2", "PO 1", "PO_1"]),
        ("p", ["po-1"]),
        ("P\u00d6", ["P\u00d61"]),
        ("PO\u0308", []),
        ("\U0010ffff", ["\U0010ffff"]),
        ("PO-1" + "0" * 300, []),
    ],
)
async def test_beginning_means_these_very_characters(store: Store, prefix: str, expected: list[str]) -> None:
    for event_id in PREFIXED:
        await accept(store, event_id)
    assert await events(store, Filter(prefix=prefix)) == expected


async def test_longest_id_is_found_by_any_beginning(store: Store) -> None:
    longest = "\U0010ffff" * 255
    await accept(store, longest)
    for prefix in (longest[:1], longest[:254], longest):
        assert await events(store, Filter(prefix=prefix)) == [longest]


async def test_delivery_is_found_by_its_number(store: Store) -> None:
    await accept(store, "e1", "e2", to=("erp", "crm"))
    for found in (await store.find_deliveries(ALL, OLDEST)).items:
        assert (await store.find_deliveries(Filter(delivery=found.id), OLDEST)).items == (found,)
        assert await events(store, Filter(delivery=found.id)) == [found.event_id]
        other = Filter(delivery=found.id, destination="other")
        assert await events(store, other) == []
        assert await deliveries(store, other) == []


# ---- pages


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
@both_ways
@pytest.mark.parametrize("wanted", [ALL, Filter(state=PENDING)], ids=["walked", "gathered"])
async def test_pages_tell_everything_once_in_order(
    store: Store, limit: int, page: Page, wanted: Filter
) -> None:
    given = {"b": 1.0, "a": 1.0, "late": 0.5, "d": 2.0, "c": 2.0, "e": 3.0}  # some of the same instant
    for event_id, at in given.items():
        await accept(store, event_id, at=START + at, to=("erp", "crm"))
    ordered = ["late", "b", "a", "d", "c", "e"]
    owed = [(event_id, to) for event_id in ordered for to in ("erp", "crm")]
    page = replace(page, limit=limit)
    step = -1 if page.newest_first else 1
    assert await events(store, wanted, page) == ordered[::step]
    assert await deliveries(store, wanted, page) == owed[::step]


async def test_full_last_page_may_end_the_search(store: Store) -> None:
    await accept(store, "e1", "e2")
    assert (await store.find_events(ALL, Page(2))).next is None
    assert (await store.find_deliveries(ALL, Page(2))).next is None


@both_ways
async def test_what_is_repaired_between_pages_hides_nothing_else(store: Store, page: Page) -> None:
    await accept(store, *(f"e{number}" for number in range(9)))
    await finish(store, DEAD)
    page = replace(page, limit=2)
    repaired = []
    while True:
        found = await store.find_deliveries(Filter(state=DEAD), page)
        await store.discard(BY_HAND, [delivery.id for delivery in found.items], "of no use")
        repaired += [delivery.event_id for delivery in found.items]
        if found.next is None:
            break
        page = replace(page, cursor=found.next)
    assert sorted(repaired) == [f"e{number}" for number in range(9)]


async def test_what_is_accepted_between_pages_repeats_nothing(store: Store) -> None:
    await accept(store, "e1", "e2", "e3")
    first = await store.find_events(ALL, Page(2))
    await accept(store, "e4", at=START + 9)
    rest = await store.find_events(ALL, Page(2, first.next))
    assert [found.event_id for found in (*first.items, *rest.items)] == ["e3", "e2", "e1"]


@pytest.mark.parametrize(
    "cursor", ["", "x", "ä", "A" * 31, "A" * 33, "A" * 36, "f_gAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "+" * 32]
)
async def test_cursor_that_no_search_gave_is_refused(store: Store, cursor: str) -> None:
    page = Page(10, cursor)
    for search in (
        store.find_events(ALL, page),
        store.find_events(Filter(state=DEAD), page),
        store.find_deliveries(ALL, page),
        store.find_quarantined(None, page),
        store.find_changes(page),
    ):
        with pytest.raises(ValueError, match="no cursor"):
            await search


async def test_cursor_needs_no_quoting(store: Store) -> None:
    await accept(store, *(f"e{number}" for number in range(50)))
    page = Page(1)
    while (cursor := (await store.find_events(ALL, page)).next) is not None:
        assert set(cursor) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
        page = replace(page, cursor=cursor)


async def test_pages_of_many_tell_everything_once(store: Store) -> None:
    await asyncio.gather(*(accept(store, f"e{n}", at=START + n) for n in range(MANY)))
    ordered = [f"e{number}" for number in range(MANY)]
    for wanted in (Filter(state=PENDING), Filter(source="itscope")):
        assert await events(store, wanted, Page(500, newest_first=False)) == ordered
        found = await deliveries(store, wanted, Page(500))
        assert found == [(event_id, "erp") for event_id in reversed(ordered)]


@both_ways
async def test_what_is_rare_among_many_is_found_on_one_page(store: Store, page: Page) -> None:
    await bring(store, "dead", DEAD)
    await bring(store, "in flight", IN_FLIGHT)
    await bring(store, "pending", PENDING)
    await offer(store, event("unrouted"), {})
    await store.accept(event("named"), References("o", "i", "d", "t"), {})
    await asyncio.gather(*(accept(store, f"e{n}", to=("crm",)) for n in range(MANY)))
    await accept(store, "last", to=("crm",))
    while claimed := await claim_all(store, "crm"):
        await store.record([attempt(delivery, DELIVERED) for delivery in claimed])
    for expected, wanted in {
        "dead": Filter(state=DEAD),
        "in flight": Filter(state=IN_FLIGHT),
        "pending": Filter(state=PENDING, destination="erp"),
        "unrouted": Filter(unrouted=True, until=START + 1),
        "named": Filter(any_id="t"),
        "last": Filter(any_id="last"),
    }.items():
        found = await store.find_events(wanted, page)
        assert expected in [one.event_id for one in found.items]
        assert found.next is None


@both_ways
async def test_search_for_what_is_not_there_goes_on_over_bounded_pages(store: Store, page: Page) -> None:
    await asyncio.gather(*(accept(store, f"e{n}") for n in range(MANY)))
    for search in (store.find_events, store.find_deliveries):
        found = await search(Filter(event_type="NONE"), page)
        assert (found.items, found.next is None) == ((), False)
        last = await search(Filter(event_type="NONE"), replace(page, cursor=found.next))
        assert last == Found((), None)


@both_ways
async def test_what_is_scattered_among_many_is_found_once(store: Store, page: Page) -> None:
    scattered = [f"e{number}" for number in range(MANY) if number % 250 in {0, 249}]
    given = [event(f"e{n}", at=START + n)._replace(event_type=None) for n in range(MANY)]
    given = [one._replace(event_type="RARE") if one.event_id in scattered else one for one in given]
    await asyncio.gather(*(offer(store, one, dict.fromkeys(("erp", "crm"), False)) for one in given))
    ordered = scattered[::-1] if page.newest_first else scattered
    assert await events(store, Filter(event_type="RARE"), page) == ordered
    found = await deliveries(store, Filter(event_type="RARE"), page)
    assert [event_id for event_id, _ in found[::2]] == [event_id for event_id, _ in found[1::2]] == ordered


@both_ways
async def test_beginning_of_many_is_found_in_order_of_acceptance(store: Store, page: Page) -> None:
    given = [event(f"{'ab'[n % 50 == 0]}{n}", at=START + n) for n in range(MANY)]
    await asyncio.gather(*(offer(store, one, {"erp": False}) for one in given))
    for prefix in "ab":  # more, and fewer, than a page looks at
        expected = [one.event_id for one in given if one.event_id.startswith(prefix)]
        found = await events(store, Filter(prefix=prefix), page)
        assert found == (expected[::-1] if page.newest_first else expected)


async def test_search_for_deliveries_of_many_unrouted_events_ends_at_once(store: Store) -> None:
    await asyncio.gather(*(offer(store, event(f"e{n}"), {}) for n in range(MANY)))
    assert await store.find_deliveries(Filter(unrouted=True), OLDEST) == Found((), None)


async def test_unrouted_event_is_found_until_it_was_replayed(store: Store) -> None:
    await offer(store, event(), {})
    assert await events(store, Filter(unrouted=True)) == ["e1"]
    await store.replay(BY_HAND, [Replay(await number_of(store, "e1"), "erp", START)])
    assert await events(store, Filter(unrouted=True)) == []


# ---- quarantine and changes


async def test_quarantined_request_is_told_as_it_came(store: Store) -> None:
    for at in (START, START + 5):
        await store.quarantine(rejected(b"\xff\x00", at=at))
    (found,) = (await store.find_quarantined(None, OLDEST)).items
    assert (found.source, found.reason, found.detail) == ("itscope", "not-json", "the body is not JSON")
    assert (found.content_type, found.times, found.size, found.body) == ("text/plain", 2, 2, None)
    assert (found.received_at, found.last_received_at) == (START, START + 5)
    assert await store.read_quarantined(found.id) == replace(found, body=b"\xff\x00")


@both_ways
async def test_quarantine_is_told_page_by_page(store: Store, page: Page) -> None:
    for number in range(5):
        request = rejected(bytes([number]), reason=f"r{number}")
        await store.quarantine(request._replace(source="a" if number % 2 else "b"))
    for source, expected in ((None, [0, 1, 2, 3, 4]), ("a", [1, 3]), ("nobody", [])):
        find: Callable[[Page], Awaitable[Found[QuarantineRecord]]] = partial(store.find_quarantined, source)
        every = on_all_pages(find, replace(page, limit=2))
        reasons = [found.reason async for found in every]
        assert sorted(reasons) == [f"r{number}" for number in expected]
        assert reasons == sorted(reasons, reverse=page.newest_first)


@both_ways
async def test_changes_are_told_page_by_page(open_store: Opened, page: Page) -> None:
    store = await open_store()
    for number in range(5):
        change = Change("alice", START + number, "pause", {"ä": [number, None]})
        await store.pause(change, f"d{number}")
    store = await open_store()
    every = [found async for found in on_all_pages(store.find_changes, replace(page, limit=2))]
    told = [(found.at - START, found.who, found.action, found.detail, found.number) for found in every]
    expected = [(number, "alice", "pause", {"ä": [number, None]}, 1) for number in range(5)]
    assert told == (expected[::-1] if page.newest_first else expected)
