"""A database of an earlier relay is brought up to date with all that it holds."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import apsw

from relay.model import DeliveryState, References
from relay.store.repair import Filter, Group, Page
from relay.store.sqlite import open_store
from tests.store.opened import START, claim, claim_again, ids

SCRIPTS = resources.files("relay.store") / "migrations" / "sqlite"
FIRST = SCRIPTS / "0001_initial.sql"
SECOND = SCRIPTS / "0002_repair.sql"
BODIES = [
    b'{"orderId": "PO-1", "itscopeOrderId": 4711, "documentId": null, "transactionId": ["x"]}',
    b'{"orderId": "%s"}' % (b"x" * 300),
    b"{}",
]


def make_first(path: Path) -> None:
    """Make a store of schema 1: one fresh delivery, one in retry, one dead, and something in quarantine."""
    connection = apsw.Connection(str(path))
    connection.execute(FIRST.read_text(encoding="utf-8")).fetchall()
    connection.pragma("user_version", 1)
    for number, body in enumerate(BODIES, start=1):
        connection.execute(
            "INSERT INTO events (source, event_id, received_at, content_type, trace_id, unrouted, body)"
            " VALUES ('itscope', ?, ?, 'application/json', ?, 0, ?)",
            (f"e{number}", START + number, "0" * 31 + "1", body),
        )
    for event, state, attempts in ((1, "pending", 0), (2, "pending", 3), (3, "dead", 1)):
        connection.execute(
            "INSERT INTO deliveries (event, destination, state, accepted_at, due_at, attempts)"
            " VALUES (?, 'erp', ?, ?, ?, ?)",
            (event, state, START + event, START + event, attempts),
        )
    connection.execute(
        "INSERT INTO attempts (delivery, number, started_at, duration_seconds, status, error, next_state)"
        " VALUES (3, 1, ?, 0.5, 422, NULL, 'dead')",
        (START,),
    )
    connection.execute(
        "INSERT INTO quarantine (id, source, reason, digest, detail, content_type, received_at,"
        " last_received_at, times, body)"
        " VALUES (7, 'itscope', 'not-json', 'd', 'no', 'text/plain', 1, 2, 3, x'00')"
    )
    connection.close()


async def test_database_of_the_first_schema_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    make_first(path)
    store = open_store(path, lambda _seconds: None)
    try:
        found = await store.find_events(Filter(), Page(10, newest_first=False))
        assert [event.references for event in found.items] == [
            References(order_id="PO-1", itscope_order_id="4711"),
            References(order_id="x" * 255),
            References(),
        ]
        assert ids((await claim(store, "erp", 10, 1 << 20, START)).deliveries) == ["e1"]
        again = (await claim_again(store, START + 10)).deliveries
        assert [(one.event.event_id, one.attempts) for one in again] == [("e2", 3)]
        ((attempt,),) = (await store.read_attempts(3)).values()
        assert (attempt.status, attempt.answer) == (422, None)
        (dead,) = (await store.find_deliveries(Filter(state=DeliveryState.DEAD), Page(10))).items
        assert (dead.event_id, dead.order_key) == ("e3", None)
        (quarantined,) = (await store.find_quarantined(None, Page(10))).items
        assert (quarantined.id, quarantined.times) == (7, 3)
    finally:
        await store.close()


def make_second(path: Path) -> None:
    """Make a store of schema 2: as that of schema 1, with an unrouted event, a pause and a change more."""
    make_first(path)
    connection = apsw.Connection(str(path))
    connection.execute(SECOND.read_text(encoding="utf-8")).fetchall()
    connection.pragma("user_version", 2)
    connection.execute(
        "INSERT INTO events (source, event_id, received_at, content_type, event_type, trace_id, unrouted,"
        " body, order_id) VALUES ('itscope', 'e4', ?, 'application/json', 'NEW', ?, 1, x'7b7d', 'PO-2')",
        (START + 4, "0" * 31 + "1"),
    )
    connection.execute("INSERT INTO pauses VALUES ('crm', 5)")
    connection.execute("INSERT INTO changes VALUES (9, 5, 'anna', 'pause', '{}', 1)")
    connection.close()


async def test_database_of_the_second_schema_keeps_everything_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    make_second(path)
    store = open_store(path, lambda _seconds: None)
    try:
        found = await store.find_events(Filter(prefix="PO-"), Page(10, newest_first=False))
        assert [event.event_id for event in found.items] == ["e1", "e4"]
        (unrouted,) = (await store.find_events(Filter(unrouted=True), Page(10))).items
        assert unrouted.event_id == "e4"
        assert (await store.count_unrouted()).groups == (Group(("NEW", None), 1, START + 4, START + 4),)
        assert (await store.count_dead()).groups == (Group(("erp", "HTTP 422"), 1, START + 3, START + 3),)
        assert (await store.count_quarantined()).groups == (Group(("itscope", "not-json"), 1, 1, 2),)
        assert await store.paused() == {"crm": 5}
        assert [change.id for change in (await store.find_changes(Page(10))).items] == [9]
        assert (await store.backlog())["erp"].counts[DeliveryState.DEAD] == 1
        await store.add_matches("2026-01-31", {"all": 1})
        assert await store.read_matches("2026-01-31") == {("2026-01-31", "all"): 1}
    finally:
        await store.close()
