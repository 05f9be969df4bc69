"""What operators change by the API: pauses, and what is to become of quarantined requests."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any

import pytest

from relay.claims import POLL_SECONDS
from tests.http.conftest import StartRelay
from tests.http.operator import Operator
from tests.http.world import ORDER, Receiver, Running, until


@pytest.fixture
async def operator(running: Running) -> Operator:
    return Operator(running)


async def destination(operator: Operator, name: str = "erp") -> Any:
    (found,) = [one for one in (await operator.get("/destinations"))["destinations"] if one["name"] == name]
    return found


async def test_paused_destination_gets_nothing_until_it_is_resumed(
    operator: Operator, erp: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = operator.running
    assert (await destination(operator))["paused_at"] is None
    for _ in range(2):
        assert await operator.post("/destinations/erp/pause") == {"paused": True}
    paused_at = (await destination(operator))["paused_at"]
    assert paused_at is not None
    await running.post(ORDER)
    shown = await destination(operator)
    assert shown["backlog"] == {"pending": 1, "in_flight": 0, "dead": 0}
    assert shown["oldest_accepted_at"] is not None
    await running.restart()
    assert (await destination(operator))["paused_at"] == paused_at
    assert erp.requests == []
    for _ in range(2):
        assert await operator.post("/destinations/erp/resume", {}) == {"paused": False}
    await running.settled("delivered")
    assert (await destination(operator))["paused_at"] is None
    assert await operator.changes() == [("anonymous", "pause", 1), ("anonymous", "resume", 1)]
    facts = [record.getMessage() for record in caplog.records if record.name.startswith("relay.repair")]
    assert facts == ["destination.paused", "destination.resumed"]


async def test_resume_has_all_tried_at_once_that_waits_for_its_next_attempt(
    relay: StartRelay, erp: Receiver
) -> None:
    never = {"failures": 1, "cooldown": "1h", "max_cooldown": "1h"}
    slow = {"initial": "10h", "max": "10h"}
    running = await relay(destinations={"erp": {"breaker": never, "retry": slow}})
    operator = Operator(running)
    erp.script.append(503)
    await running.post(ORDER)
    await until(lambda: running.deliveries() == [("pending", 1)])
    assert (await destination(operator))["breaker"] == "open"
    await operator.post("/destinations/erp/resume")
    await running.settled("delivered")
    assert (await destination(operator))["breaker"] == "closed"


@pytest.mark.parametrize("name", ["erpp", "x" * 300, "%00", "%ED%A0%80", "%FF", "a%2Fb"])
async def test_unknown_destination_is_not_found(operator: Operator, name: str) -> None:
    for action in ("pause", "resume"):
        answer = await operator.post(f"/destinations/{name}/{action}", status=404)
        assert answer["code"] == "not-found"
    assert await operator.changes() == []


async def test_misspelt_destination_is_answered_with_the_one_that_was_meant(operator: Operator) -> None:
    answer = await operator.post("/destinations/epr/pause", status=404)
    assert answer["error"] == "there is no destination epr; did you mean erp?"


async def test_pause_of_what_is_not_configured_any_more_is_shown_and_ended(
    operator: Operator, crm: Receiver
) -> None:
    await operator.post("/destinations/erp/pause")
    await operator.running.reload(
        destinations={"erp": None, "crm": {"url": crm.url}}, routes=[{"to": ["crm"]}]
    )
    shown = await destination(operator)
    assert (shown["configured"], shown["paused_at"] is None) == (False, False)
    await operator.post("/destinations/erp/pause", status=404)
    await operator.post("/destinations/erp/resume")
    assert [one["name"] for one in (await operator.get("/destinations"))["destinations"]] == ["crm"]


# ---- quarantine


async def test_quarantined_request_is_released_where_the_routes_say(
    relay: StartRelay, erp: Receiver, crm: Receiver
) -> None:
    running = await relay(
        destinations={"crm": {"url": crm.url}},
        routes=[
            {"match": {"eventType": "ORDER"}, "to": ["erp"]},
            {"match": {"eventType": "X"}, "to": ["crm"]},
        ],
    )
    operator = Operator(running)
    body = b'{"eventType": "X", "eventId": "7", "eventType": "ORDER", "orderId": "4711"}'
    assert (await running.post(body)).status == 400
    done = await operator.post("/quarantine/1/release", {"to": None})
    assert done == {"status": "accepted", "event": 1, "deliveries": 1}
    await running.settled("delivered")
    assert erp.requests[0].body == body
    event = await operator.get("/events/1")
    assert event["event_id"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert (event["payload"], event["order_id"], event["event_type"]) == (None, "4711", "ORDER")
    assert (await operator.get("/quarantine"))["quarantine"] == []
    await operator.post("/quarantine/1/release", status=404)
    assert await operator.changes() == [("anonymous", "release-quarantined", 1)]


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b"[]",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"n": ' + b"9" * 5000 + b', "n": 1}',
        b'{"eventType": "\\ud800"}',
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_what_can_not_be_read_is_released_to_a_named_destination(
    operator: Operator, erp: Receiver, body: bytes
) -> None:
    await operator.running.post(body)
    done = await operator.post("/quarantine/1/release", {"to": ["erp", "erp"]})
    assert done == {"status": "accepted", "event": 1, "deliveries": 1}
    (request,) = await erp.arrived(1)
    assert request.body == body
    await operator.running.settled("delivered")


async def test_conflicting_duplicate_is_released_under_an_id_of_its_own(
    operator: Operator, erp: Receiver
) -> None:
    await operator.running.post(ORDER)
    await operator.running.post({**ORDER, "orderId": "other"})
    assert (await operator.post("/quarantine/1/release"))["status"] == "accepted"
    await operator.running.settled("delivered", number=2)
    assert erp.requests[1].headers["Idempotency-Key"].startswith("sha256:")


async def test_lane_learns_of_a_release_at_once(operator: Operator) -> None:
    for number in range(6):
        await operator.running.post(b"nonsense %d" % number)
    started = time.monotonic()
    for number in range(1, 7):
        await operator.post(f"/quarantine/{number}/release")
        await operator.running.settled("delivered", number=number)
    assert time.monotonic() - started < 6 * POLL_SECONDS / 2


async def test_release_of_what_is_there_already_changes_nothing(operator: Operator) -> None:
    await operator.running.post(b"nonsense")
    await operator.post("/quarantine/1/release")
    await operator.running.settled("delivered")
    await operator.running.post(b"nonsense")
    (request,) = (await operator.get("/quarantine"))["quarantine"]
    done = await operator.post(f"/quarantine/{request['id']}/release")
    assert done == {"status": "duplicate", "event": 1, "deliveries": 0}
    assert len((await operator.get("/quarantine"))["quarantine"]) == 1
    assert await operator.changes() == [("anonymous", "release-quarantined", 1)]


async def test_released_request_that_no_route_wants_is_unrouted(relay: StartRelay) -> None:
    running = await relay(routes=[{"match": {"eventType": "ORDER"}, "to": ["erp"]}])
    operator = Operator(running)
    await running.post(b"nonsense")
    assert (await operator.post("/quarantine/1/release"))["deliveries"] == 0
    assert [event["unrouted"] for event in (await operator.get("/events"))["events"]] == [True]
    assert await running.metric("itscope_relay_events_unrouted_total", source="itscope") == 1


@pytest.mark.parametrize(
    ("to", "status"),
    [([], 400), (["epr"], 422), (["erp", "epr"], 422), ("erp", 400), ([1], 400), (["x"] * 101, 400)],
)
async def test_wrong_destination_of_a_release_is_refused(operator: Operator, to: Any, status: int) -> None:
    await operator.running.post(b"nonsense")
    await operator.post("/quarantine/1/release", {"to": to}, status)
    assert len((await operator.get("/quarantine"))["quarantine"]) == 1


async def test_quarantined_request_is_discarded_with_a_reason(operator: Operator) -> None:
    await operator.running.post(b"nonsense")
    await operator.post("/quarantine/1/discard", status=400)
    assert await operator.post("/quarantine/1/discard", {"reason": "a test"}) == {"discarded": 1}
    await operator.post("/quarantine/1/discard", {"reason": "a test"}, 404)
    assert (await operator.get("/quarantine"))["quarantine"] == []
    (change,) = (await operator.get("/changes"))["changes"]
    assert (change["action"], change["detail"]["reason"]) == ("discard-quarantined", "a test")


async def test_reload_changes_where_a_release_goes(operator: Operator, crm: Receiver) -> None:
    await operator.running.post(b"nonsense")
    await operator.running.reload(destinations={"crm": {"url": crm.url}}, routes=[{"to": ["crm"]}])
    await operator.post("/quarantine/1/release")
    await until(lambda: operator.running.deliveries("crm") == [("delivered", 1)])
