"""Conformance: what a store does with an event that is offered to it."""

from __future__ import annotations

import asyncio

import pytest

from relay.errors import StoreError, StoreUnavailableError
from relay.model import DeliveryState
from relay.store import Store
from tests.store.opened import (
    DESTINATIONS,
    START,
    Opened,
    accept,
    attempt,
    backlog,
    claim_all,
    event,
    finish,
    ids,
    offer,
    owed,
    rejected,
)

MEBIBYTE = bytes(range(256)) * 4096


async def test_accepted_event_and_all_its_deliveries_survive_reopening(open_store: Opened) -> None:
    store = await open_store()
    given = event(body=b'{"eventId": "e1"}')
    acceptance = await offer(store, given, dict.fromkeys(DESTINATIONS, False))
    assert (acceptance.duplicate, acceptance.conflicting, acceptance.claimed) == (False, False, ())

    store = await open_store()
    for destination in DESTINATIONS:
        (delivery,) = await claim_all(store, destination)
        assert delivery.event == given
        assert (delivery.destination, delivery.accepted_at, delivery.attempts) == (destination, START, 0)


async def test_claim_on_acceptance_returns_what_a_later_claim_would(store: Store) -> None:
    given = event(body=b"\xff")
    acceptance = await offer(store, given, {"erp": True, "crm": False})
    (delivery,) = acceptance.claimed
    assert (delivery.destination, delivery.event, delivery.accepted_at) == ("erp", given, START)
    assert delivery.attempts == 0
    assert await claim_all(store, "erp") == []
    assert ids(await claim_all(store, "crm")) == ["e1"]
    assert await store.record([attempt(delivery, DeliveryState.DELIVERED)]) == [True]


async def test_instants_keep_their_fractions(store: Store) -> None:
    received_at = 1_763_776_512.123_456_7
    await offer(store, event(at=received_at), {"erp": False})
    (delivery,) = await claim_all(store, now=received_at)
    assert (delivery.accepted_at, delivery.event.received_at) == (received_at, received_at)


@pytest.mark.parametrize("text", [None, "", "ä \x7f\t"])
async def test_absent_and_empty_fields_stay_what_they_are(store: Store, text: str | None) -> None:
    given = event()._replace(event_type=text, transaction_status=text)
    await offer(store, given, {"erp": False})
    (delivery,) = await claim_all(store)
    assert delivery.event == given


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"\x00", b"\xff\xfe\xed not UTF-8", b'{"a": "\xed\xa0\x80"}', b"\r\n,'\"\\\n", MEBIBYTE],
    ids=["empty", "smallest", "nul", "not-utf-8", "surrogate", "separators", "mebibyte"],
)
async def test_claimed_body_is_byte_for_byte_the_accepted_one(open_store: Opened, body: bytes) -> None:
    store = await open_store()
    await offer(store, event(body=body), {"erp": False})
    await offer(store, event("e2", body=b"neighbour"), {"erp": False})
    store = await open_store()
    assert [delivery.event.body for delivery in await claim_all(store)] == [body, b"neighbour"]


@pytest.mark.parametrize("event_id", ["ä€😀", "a\nb", "'; DROP TABLE events; --", '"', "x" * 255, "\u2028"])
async def test_any_text_may_be_an_id(store: Store, event_id: str) -> None:
    await accept(store, event_id)
    assert ids(await claim_all(store)) == [event_id]
    assert (await offer(store, event(event_id), {"erp": False})).duplicate


async def test_second_event_with_an_id_is_a_duplicate_and_owes_nothing(store: Store) -> None:
    await accept(store, "e1")
    again = await offer(store, event(at=START + 9), {"erp": True, "crm": True})
    assert (again.duplicate, again.conflicting, again.claimed) == (True, False, ())
    assert await backlog(store) == owed(pending=1, oldest=START)
    assert await backlog(store, "crm") == owed()


async def test_duplicate_is_known_after_reopening(open_store: Opened) -> None:
    await accept(await open_store(), "e1")
    store = await open_store()
    assert (await offer(store, event(), {"erp": False})).duplicate


async def test_duplicate_is_known_after_everything_was_delivered(store: Store) -> None:
    await accept(store, "e1")
    await finish(store, DeliveryState.DELIVERED)
    assert (await offer(store, event(), {"erp": False})).duplicate
    assert await claim_all(store) == []


async def test_duplicate_with_other_bytes_conflicts_and_the_first_stays(store: Store) -> None:
    await offer(store, event(body=b'{"a": 1}'), {"erp": False})
    again = await offer(store, event(body=b'{"a": 1} '), {"erp": False})
    assert (again.duplicate, again.conflicting) == (True, True)
    assert [delivery.event.body for delivery in await claim_all(store)] == [b'{"a": 1}']


async def test_same_id_from_another_source_is_another_event(store: Store) -> None:
    await offer(store, event(), {"erp": False})
    other = await offer(store, event(source="sandbox"), {"erp": False})
    assert not other.duplicate
    assert [delivery.event.source for delivery in await claim_all(store)] == ["itscope", "sandbox"]


async def test_of_the_same_event_many_times_at_once_one_is_accepted(store: Store) -> None:
    offers = [offer(store, event(), {"erp": False}) for _ in range(50)]
    acceptances = await asyncio.gather(*offers)
    assert [acceptance.duplicate for acceptance in acceptances].count(False) == 1
    assert await backlog(store) == owed(pending=1, oldest=START)
    assert len(await claim_all(store)) == 1


async def test_of_the_same_id_at_once_the_other_bytes_conflict(store: Store) -> None:
    bodies = [b"first", b"first", b"other"]
    acceptances = await asyncio.gather(*(offer(store, event(body=body), {"erp": False}) for body in bodies))
    (stored,) = await claim_all(store)
    for body, acceptance in zip(bodies, acceptances, strict=True):
        assert acceptance.conflicting == (body != stored.event.body)
    assert [acceptance.duplicate for acceptance in acceptances].count(False) == 1


async def test_two_hundred_at_once_are_all_stored(open_store: Opened) -> None:
    store = await open_store()
    offers = (
        offer(store, event(f"e{number}", body=b"%d" % number), {"erp": number % 2 == 0, "crm": False})
        for number in range(200)
    )
    acceptances = await asyncio.gather(*offers)
    claimed = [delivery for acceptance in acceptances for delivery in acceptance.claimed]
    assert not any(acceptance.duplicate for acceptance in acceptances)
    assert ids(claimed) == [f"e{number}" for number in range(0, 200, 2)]
    assert all(delivery.event.body == delivery.event.event_id[1:].encode() for delivery in claimed)

    store = await open_store.after_a_crash()
    for destination in DESTINATIONS:
        assert sorted(ids(await claim_all(store, destination))) == sorted(f"e{n}" for n in range(200))


async def test_event_without_a_destination_is_kept(open_store: Opened) -> None:
    store = await open_store()
    acceptance = await offer(store, event(), {})
    assert (acceptance.duplicate, acceptance.claimed) == (False, ())
    store = await open_store()
    assert open_store.read("SELECT event_id FROM events WHERE unrouted") == [("e1",)]
    assert (await offer(store, event(), {"erp": False})).duplicate


async def test_bad_item_fails_alone_and_its_neighbours_are_stored(store: Store) -> None:
    given = [event("before"), event("lone \ud800 surrogate"), event("after")]
    before, bad, after = await asyncio.gather(
        *(offer(store, one, {"erp": False}) for one in given), return_exceptions=True
    )
    assert isinstance(bad, StoreError)
    assert not isinstance(bad, StoreUnavailableError)  # trying again wouldn't help
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    assert ids(await claim_all(store)) == ["before", "after"]


async def test_bad_item_owes_nothing(open_store: Opened) -> None:
    store = await open_store()
    with pytest.raises(StoreError):
        await offer(store, event("\ud800"), dict.fromkeys(DESTINATIONS, True))
    assert await backlog(store) == owed()
    store = await open_store()
    assert await backlog(store) == owed()
    assert open_store.read("SELECT count(*) FROM deliveries") == [(0,)]


async def test_quarantine_keeps_the_bytes_once_and_counts_them(open_store: Opened) -> None:
    store = await open_store()
    await store.quarantine(rejected(b"\xff[", at=START))
    await store.quarantine(rejected(b"\xff[", at=START + 5))
    await asyncio.gather(*(store.quarantine(rejected(b"other")) for _ in range(3)))
    await store.quarantine(rejected(b"other", reason="conflicting-duplicate"))
    await open_store()
    kept = open_store.read(
        "SELECT reason, body, times, received_at, last_received_at FROM quarantine ORDER BY id"
    )
    assert [(reason, bytes(body), times) for reason, body, times, *_ in kept] == [
        ("not-json", b"\xff[", 2),
        ("not-json", b"other", 3),
        ("conflicting-duplicate", b"other", 1),
    ]
    assert kept[0][3:] == (START, START + 5)


async def test_probe_writes_without_touching_anything(store: Store) -> None:
    await accept(store, "e1")
    await store.probe()
    await store.probe()
    assert await backlog(store) == owed(pending=1, oldest=START)
