"""What operators change by the API: replay, discard, skip; one delivery, or all that a filter finds."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import re
import time
from datetime import datetime
from typing import Any

import pytest

from relay import claims
from relay.admin import representation
from relay.claims import POLL_SECONDS
from relay.repair import Progress, Sweep, mark
from relay.routediff import compare
from relay.routing import Route, Router
from relay.store.repair import Filter
from tests.http.conftest import StartRelay
from tests.http.operator import Operator
from tests.http.world import Clock, Receiver, Running, until


@pytest.fixture
async def operator(running: Running) -> Operator:
    return Operator(running)


async def die(running: Running, erp: Receiver, number: int, first: int = 0, **fields: Any) -> None:
    """Have so many deliveries to the ERP end dead."""
    before = len(running.deliveries())
    erp.otherwise = 422
    for count in range(first, first + number):
        await running.post({"eventId": f"e-{count}", "eventType": "ORDER", **fields})
    await until(lambda: [state for state, _ in running.deliveries()][before:] == ["dead"] * number)
    erp.otherwise = 200


def states(running: Running, destination: str = "erp") -> list[str]:
    return [state for state, _ in running.deliveries(destination)]


# ---- one delivery


async def test_dead_delivery_is_replayed_and_linked(operator: Operator, erp: Receiver) -> None:
    running = operator.running
    await die(running, erp, 1)
    assert await operator.post("/deliveries/1/replay") == {"replayed": 1}
    await until(lambda: states(running) == ["discarded", "delivered"])
    assert (await operator.get("/deliveries/2"))["replay_of"] == 1
    assert [request.headers["Idempotency-Key"] for request in erp.requests] == ["e-0", "e-0"]
    assert await operator.changes() == [("anonymous", "replay", 1)]
    labels = {"destination": "erp", "outcome": "discarded"}
    assert await running.metric("itscope_relay_deliveries_total", **labels) == 0


async def test_delivered_one_is_delivered_once_more(operator: Operator, erp: Receiver) -> None:
    await operator.running.post({"eventId": "a"})
    await operator.running.settled("delivered")
    await operator.post("/deliveries/1/replay", {})
    await operator.running.settled("delivered", number=2)
    assert len(erp.requests) == 2


async def test_what_is_under_way_is_not_replayed(operator: Operator, erp: Receiver) -> None:
    erp.otherwise = erp.hang
    await operator.running.post({"eventId": "a"})
    await erp.arrived(1)
    answer = await operator.post("/deliveries/1/replay", status=409)
    assert answer["error"].startswith("delivery 1 to erp is in_flight: it is delivered by itself")
    assert (await operator.post("/deliveries/1/discard", {"reason": "x"}, 409))["code"] == "conflict"
    assert (await operator.post("/deliveries/1/skip", status=409))["code"] == "conflict"


async def test_second_click_on_replay_does_nothing(operator: Operator, erp: Receiver) -> None:
    await die(operator.running, erp, 1)
    erp.otherwise = erp.hang
    await operator.post("/deliveries/1/replay")
    await erp.arrived(2)
    await operator.post("/deliveries/1/replay", status=409)
    assert states(operator.running) == ["discarded", "in_flight"]


async def test_delivery_is_discarded_with_a_reason(
    relay: StartRelay, erp: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = await relay(admin={"auth": [{"username": "anna", "password": "operator-secret"}]})
    operator = Operator(running, ("anna", "operator-secret"))
    await die(running, erp, 1)
    assert await operator.post("/deliveries/1/discard", {"reason": "entered by hand"}) == {"discarded": 1}
    delivery = await operator.get("/deliveries/1")
    assert (delivery["state"], delivery["reason"]) == ("discarded", "entered by hand")
    again = await operator.post("/deliveries/1/discard", {"reason": "again"}, 409)
    assert again["error"] == "delivery 1 is discarded; only pending and dead ones can be discarded"
    (change,) = (await operator.get("/changes"))["changes"]
    assert (change["who"], change["action"], change["number"]) == ("anna", "discard", 1)
    assert change["detail"] == {"delivery": 1, "reason": "entered by hand"}
    (record,) = [record for record in caplog.records if record.getMessage() == "deliveries.discarded"]
    assert record.__dict__["fields"] == {
        "who": "anna",
        "number": 1,
        "change": change["id"],
        "by_destination": {"erp": 1},
    }
    metrics = await operator.running.ask("/metrics", headers=operator._headers)
    assert b'itscope_relay_deliveries_total{destination="erp",outcome="discarded"} 1.0' in metrics.body


async def test_discard_needs_a_reason(operator: Operator, erp: Receiver) -> None:
    await die(operator.running, erp, 1)
    for body in (None, {}, {"reason": ""}, {"reason": "x" * 501}, {"reason": 1}, {"raeson": "x"}):
        await operator.post("/deliveries/1/discard", body, 400)
    assert states(operator.running) == ["dead"]


async def test_skipped_one_lets_the_next_of_its_order_go(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    operator = Operator(running)
    await die(running, erp, 1, orderId="4711")
    await running.post({"eventId": "behind", "orderId": "4711"})
    blocked = await operator.delivery()
    assert (blocked["state"], blocked["blocked"], blocked["order_key"]) == ("pending", True, "4711")
    assert await operator.post("/deliveries/1/skip") == {"skipped": 1}
    await until(lambda: states(running) == ["dead", "delivered"])
    answer = await operator.post("/deliveries/1/skip", status=409)
    assert answer["error"] == "delivery 1 holds up nothing: it has no place in an order"


async def test_replay_takes_its_place_in_the_order(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    await die(running, erp, 1, orderId="4711")
    await running.post({"eventId": "behind", "orderId": "4711"})
    await Operator(running).post("/deliveries/1/replay")
    await until(lambda: states(running) == ["discarded", "delivered", "delivered"])
    assert [one.headers["Idempotency-Key"] for one in erp.requests] == ["e-0", "e-0", "behind"]


async def test_lane_learns_of_a_replay_at_once(operator: Operator, erp: Receiver) -> None:
    await operator.running.post({"eventId": "a"})
    await operator.running.settled("delivered")
    started = time.monotonic()
    for number in range(2, 8):
        await operator.post("/deliveries/1/replay")
        await operator.running.settled("delivered", number=number)
    assert time.monotonic() - started < 6 * POLL_SECONDS / 2
    assert len(erp.requests) == 7


@pytest.mark.parametrize("action", ["replay", "discard", "skip"])
@pytest.mark.parametrize("id_", ["5", "0", str(2**63), "x"])
async def test_delivery_that_is_not_there_is_not_found(operator: Operator, action: str, id_: str) -> None:
    body = {"reason": "x"} if action == "discard" else None
    assert (await operator.post(f"/deliveries/{id_}/{action}", body, 404))["code"] == "not-found"


async def test_nothing_is_replayed_to_what_is_not_configured_any_more(
    operator: Operator, erp: Receiver, crm: Receiver
) -> None:
    await die(operator.running, erp, 1)
    await operator.running.reload(
        destinations={"erp": None, "erp2": {"url": crm.url}}, routes=[{"to": ["erp2"]}]
    )
    answer = await operator.post("/deliveries/1/replay", status=422)
    assert answer["error"] == "no destination erp is configured; did you mean erp2?"
    wanted = {"filter": {"destination": "erp"}}
    assert (await operator.post("/replay", wanted, 422))["code"] == "unprocessable"
    assert (await operator.post("/replay", {**wanted, "to": "erp3"}, 422))["code"] == "unprocessable"
    step = await operator.post("/replay", {"filter": {"state": "dead"}})
    assert (step["replayed"], step["skipped"]) == (0, 1)
    step = await operator.post("/replay", {"filter": {"destination": "erp", "state": "dead"}, "to": "erp2"})
    assert step["by_destination"] == {"erp2": 1}
    await operator.running.settled("delivered", "erp2")


# ---- all that a filter finds


async def test_all_dead_ones_are_replayed_in_order_of_acceptance(operator: Operator, erp: Receiver) -> None:
    await die(operator.running, erp, 5)
    erp.requests.clear()
    wanted = {"filter": {"state": "dead", "destination": "erp"}, "pace": "1000/s"}
    dry = await operator.steps("/replay", {**wanted, "dry_run": True, "limit": 2})
    assert [step["replayed"] for step in dry] == [2, 2, 1]
    assert states(operator.running) == ["dead"] * 5
    assert await operator.changes() == []
    steps = await operator.steps("/replay", {**wanted, "limit": 2})
    assert [step["replayed"] for step in steps] == [2, 2, 1]
    assert steps[0]["by_destination"] == {"erp": 2}
    await until(lambda: states(operator.running) == ["discarded"] * 5 + ["delivered"] * 5)
    assert [request.headers["Idempotency-Key"] for request in erp.requests] == [f"e-{n}" for n in range(5)]
    assert await operator.changes() == [("anonymous", "replay", 5)]
    (change,) = (await operator.get("/changes"))["changes"]
    assert change["detail"] == {"filter": {"state": "dead", "destination": "erp"}, "pace": "1000/s"}


async def test_replay_of_what_was_delivered_holds_up_nothing(relay: StartRelay) -> None:
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    operator = Operator(running)
    await running.post({"eventId": "e-1", "orderId": "4711"})
    await running.settled("delivered")
    step = await operator.post("/replay", {"filter": {"destination": "erp"}, "pace": "1/h"})
    assert step["replayed"] == 1
    await operator.post("/replay", {"filter": {"id": "e-1"}, "pace": "1/h"})  # skipped: it is under way
    await running.post({"eventId": "e-2", "orderId": "4711"})
    await until(lambda: running.deliveries()[-1] == ("delivered", 1))


async def test_bulk_replay_keeps_the_order_of_each_key(relay: StartRelay, erp: Receiver) -> None:
    erp.otherwise = 422
    running = await relay(destinations={"erp": {"order_by": "orderId", "on_dead": "continue"}})
    operator = Operator(running)
    for count in range(3):
        await running.post({"eventId": f"e-{count}", "orderId": "4711"})
    await running.settled("dead", number=3)
    await operator.post("/destinations/erp/pause")
    await operator.post("/replay", {"filter": {"destination": "erp"}, "pace": "1000/s"})
    replayed = await operator.pages("/deliveries", "deliveries", state="pending")
    assert [(one["order_key"], one["blocked"]) for one in replayed] == [("4711", True)] * 2 + [
        ("4711", False)
    ]


async def test_instants_at_the_end_of_time_can_be_recorded(operator: Operator) -> None:
    wanted = {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59.999999999Z"}
    await operator.post("/replay", {"filter": wanted})


async def test_pace_goes_on_over_steps(operator: Operator, erp: Receiver, clock: Clock) -> None:
    await die(operator.running, erp, 5)
    await operator.post("/destinations/erp/pause")
    before = clock()
    await operator.steps("/replay", {"filter": {"state": "dead"}, "pace": "6/min", "limit": 2})
    due = [at for (at,) in operator.running.rows("SELECT due_at FROM deliveries WHERE id > 5 ORDER BY id")]
    assert before <= due[0] <= clock()
    gaps = [round(later - earlier, 3) for earlier, later in itertools.pairwise(due)]
    assert gaps == [10.0] * 4


async def test_step_without_a_pace_goes_on_in_that_of_the_one_before(
    operator: Operator, erp: Receiver
) -> None:
    await die(operator.running, erp, 3)
    await operator.post("/destinations/erp/pause")
    wanted: dict[str, Any] = {"filter": {"state": "dead"}, "limit": 1}
    first = await operator.post("/replay", {**wanted, "pace": "1/h"})
    assert json.loads(base64.urlsafe_b64decode(first["next"]))["pace"] == "1/h"
    second = await operator.post("/replay", {**wanted, "cursor": first["next"]})
    await operator.post("/replay", {**wanted, "cursor": second["next"]})
    (due,) = operator.running.rows("SELECT max(due_at) - min(due_at) FROM deliveries WHERE replay_of > 0")
    assert due[0] == pytest.approx(7200, abs=0.1)


async def test_paced_deliveries_are_made_when_they_are_due(
    operator: Operator, erp: Receiver, clock: Clock
) -> None:
    await die(operator.running, erp, 2)
    await operator.post("/replay", {"filter": {"state": "dead"}, "pace": "1/h"})
    await until(lambda: states(operator.running) == ["discarded", "discarded", "delivered", "pending"])
    clock.moved_seconds += 3600
    await operator.post("/destinations/erp/resume")
    await operator.running.restart()
    await until(lambda: states(operator.running)[2:] == ["delivered", "delivered"])


async def test_only_the_newest_delivery_of_an_event_is_repeated(operator: Operator, erp: Receiver) -> None:
    await die(operator.running, erp, 1)
    await operator.post("/deliveries/1/replay")
    await until(lambda: states(operator.running) == ["discarded", "delivered"])
    step = await operator.post("/replay", {"filter": {"state": "discarded"}})
    assert (step["replayed"], step["skipped"]) == (0, 1)
    step = await operator.post("/replay", {"filter": {"destination": "erp"}})
    assert step["replayed"] == 1
    await until(lambda: states(operator.running) == ["discarded", "delivered", "delivered"])


async def test_repairs_leave_alone_what_comes_meanwhile(operator: Operator, erp: Receiver) -> None:
    await die(operator.running, erp, 2)
    wanted: dict[str, Any] = {"filter": {"destination": "erp"}, "limit": 1}
    first = await operator.post("/replay", wanted)
    await operator.running.post({"eventId": "later"})
    second = await operator.post("/replay", {**wanted, "cursor": first["next"]})
    rest = (
        []
        if second["next"] is None
        else await operator.steps("/replay", {**wanted, "cursor": second["next"]})
    )
    assert sum(step["replayed"] for step in (first, second, *rest)) == 2


async def test_durations_count_from_the_first_step(operator: Operator, erp: Receiver, clock: Clock) -> None:
    await die(operator.running, erp, 2)
    wanted: dict[str, Any] = {"filter": {"since": "10m"}, "limit": 1}
    first = await operator.post("/replay", wanted)
    clock.moved_seconds += 3600
    second = await operator.post("/replay", {**wanted, "cursor": first["next"]})
    assert (first["replayed"], second["replayed"]) == (1, 1)
    (change,) = (await operator.get("/changes"))["changes"]
    assert change["detail"]["filter"]["since"].endswith("Z")
    assert change["number"] == 2


async def test_events_go_to_a_new_destination_once(operator: Operator, crm: Receiver) -> None:
    running = operator.running
    for count in range(3):
        await running.post({"eventId": f"e-{count}", "eventType": "ORDER"})
    await running.settled("delivered", number=3)
    await running.reload(destinations={"crm": {"url": crm.url}})
    wanted = {"filter": {"since": "1h", "type": "ORDER"}, "to": "crm", "pace": "1000/s"}
    dry = await operator.post("/replay", {**wanted, "dry_run": True})
    assert (dry["replayed"], dry["by_destination"]) == (3, {"crm": 3})
    step = await operator.post("/replay", wanted)
    assert (step["replayed"], step["skipped"], step["next"]) == (3, 0, None)
    await running.settled("delivered", "crm", 3)
    assert [one.headers["Idempotency-Key"] for one in crm.requests] == ["e-0", "e-1", "e-2"]
    for dry_run in (True, False):
        again = await operator.post("/replay", {**wanted, "dry_run": dry_run})
        assert (again["replayed"], again["skipped"]) == (0, 3)


async def test_dead_one_is_replaced_when_its_event_goes_there_again(
    operator: Operator, erp: Receiver
) -> None:
    await die(operator.running, erp, 1)
    await operator.post("/replay", {"filter": {"state": "dead"}, "to": "erp"})
    await until(lambda: states(operator.running) == ["discarded", "delivered"])


async def test_unrouted_events_follow_new_routes(relay: StartRelay, crm: Receiver) -> None:
    running = await relay(routes=[{"match": {"eventType": "NONE"}, "to": ["erp"]}])
    operator = Operator(running)
    await running.post({"eventId": "a", "eventType": "ORDER", "orderId": "1"})
    await running.post({"eventId": "b", "eventType": "INVOICE"})
    wanted = {"filter": {"state": "unrouted"}, "by_routes": True}
    assert (await operator.post("/replay", wanted))["replayed"] == 0
    await running.reload(
        destinations={"crm": {"url": crm.url}},
        routes=[{"match": {"eventType": "ORDER"}, "to": ["erp", "crm"]}],
    )
    only = await operator.post("/replay", {**wanted, "to": "crm", "dry_run": True})
    assert only["by_destination"] == {"crm": 1}
    step = await operator.post("/replay", wanted)
    assert step["by_destination"] == {"erp": 1, "crm": 1}
    await running.settled("delivered")
    await running.settled("delivered", "crm")
    assert [event["event_id"] for event in (await operator.get("/events", state="unrouted"))["events"]] == [
        "b"
    ]


async def test_all_that_is_owed_is_discarded(operator: Operator, erp: Receiver) -> None:
    running = operator.running
    await die(running, erp, 2)
    await operator.post("/destinations/erp/pause")
    for count in range(3):
        await running.post({"eventId": f"waiting-{count}"})
    wanted = {"filter": {"destination": "erp"}, "reason": "set back", "limit": 2}
    dry = await operator.steps("/discard", {**wanted, "dry_run": True})
    assert sum(step["discarded"] for step in dry) == 5
    steps = await operator.steps("/discard", wanted)
    assert sum(step["discarded"] for step in steps) == 5
    assert states(running) == ["discarded"] * 5
    assert [(who, what, n) for who, what, n in await operator.changes() if what == "discard"] == [
        ("anonymous", "discard", 5)
    ]
    labels = {"destination": "erp", "outcome": "discarded"}
    assert await running.metric("itscope_relay_deliveries_total", **labels) == 5
    assert await running.metric("itscope_relay_backlog", destination="erp", state="dead") == 0


async def test_backlog_of_what_is_not_configured_any_more_is_listed_and_discarded(
    operator: Operator, erp: Receiver, crm: Receiver
) -> None:
    await die(operator.running, erp, 1)
    await operator.running.reload(
        destinations={"erp": None, "crm": {"url": crm.url}}, routes=[{"to": ["crm"]}]
    )
    found = {one["name"]: one for one in (await operator.get("/destinations"))["destinations"]}
    assert (found["crm"]["configured"], found["erp"]["configured"]) == (True, False)
    assert found["erp"]["backlog"] == {"pending": 0, "in_flight": 0, "dead": 1}
    step = await operator.post("/discard", {"filter": {"destination": "erp"}, "reason": "gone"})
    assert step["discarded"] == 1
    names = [one["name"] for one in (await operator.get("/destinations"))["destinations"]]
    assert names == ["crm"]


async def test_step_of_a_replay_is_no_longer_than_its_pace_allows(
    running: Running, operator: Operator, erp: Receiver
) -> None:
    await die(running, erp, 12)
    wanted = {"filter": {"state": "dead"}, "pace": "50/s"}
    assert (await operator.post("/replay", {**wanted, "dry_run": True}))["replayed"] == 12
    assert (await operator.post("/replay", wanted))["replayed"] == 5
    assert (await operator.post("/replay", {**wanted, "pace": "100/s"}))["replayed"] == 7


async def test_what_waited_behind_a_replayed_head_goes_at_once_where_the_order_has_changed(
    relay: StartRelay, erp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 1e6)  # so nobody stumbles upon it
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    await die(running, erp, 1, orderId="a")
    await running.post({"eventId": "behind", "orderId": "a"})
    await running.reload(destinations={"erp": {"url": erp.url, "order_by": None}})
    await running.post({"eventId": "other", "orderId": "a"})
    await until(lambda: states(running) == ["dead", "pending", "delivered"])  # the new lane has looked
    await Operator(running).post("/deliveries/1/replay", {})
    await until(lambda: states(running) == ["discarded", "delivered", "delivered", "delivered"])


async def test_all_heads_of_orders_are_skipped(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    operator = Operator(running)
    await die(running, erp, 1, orderId="a")
    await die(running, erp, 1, first=1, orderId="b")
    await die(running, erp, 1, first=2)
    await running.post({"eventId": "behind-a", "orderId": "a"})
    await running.post({"eventId": "behind-b", "orderId": "b"})
    wanted = {"filter": {"destination": "erp"}}
    assert (await operator.post("/skip", {**wanted, "dry_run": True}))["skipped_over"] == 2
    step = await operator.post("/skip", wanted)
    assert (step["skipped_over"], step["by_destination"], step["next"]) == (2, {"erp": 2}, None)
    await until(lambda: states(running) == ["dead"] * 3 + ["delivered"] * 2)
    assert (await operator.post("/skip", wanted))["skipped_over"] == 0


@pytest.mark.parametrize("state", ["delivered", "discarded", "in_flight", "unrouted"])
async def test_bulk_repairs_refuse_states_they_can_not_change(operator: Operator, state: str) -> None:
    await operator.post("/discard", {"filter": {"state": state}, "reason": "x"}, 422)
    await operator.post("/skip", {"filter": {"state": state}}, 422)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        "{}",
        '{"started_at": "1"}',
        '{"started_at": -1}',
        '{"started_at": 1e999}',
        '{"started_at": NaN}',
        '{"started_at": 1, "more": 1}',
        '{"started_at": 1, "after": "x"}',
        '{"started_at": 1, "change": 0}',
        '{"started_at": 1, "change": 9223372036854775808}',
        '{"started_at": 1, "change": true}',
        '{"started_at": 1, "phase": 2}',
        '{"started_at": 1, "due_at": 1e300}',
        '{"started_at": 1, "pace": "fast"}',
        '{"started_at": 1, "pace": "5/s burst 5"}',
    ],
)
async def test_cursor_that_no_step_gave_is_refused(operator: Operator, text: str) -> None:
    cursor = base64.urlsafe_b64encode(text.encode()).decode()
    for path, more in (("/replay", {}), ("/discard", {"reason": "x"}), ("/skip", {})):
        body = {"filter": {"id": "x"}, "cursor": cursor, **more}
        assert (await operator.post(path, body, 400))["error"].startswith("cursor: ")


@pytest.mark.parametrize(
    ("path", "change", "status"),
    [
        ("/replay", {"limit": 3}, 200),
        ("/replay", {"dry_run": True}, 200),
        ("/replay", {"pace": "7/s"}, 200),
        ("/replay", {"filter": {"state": "dead", "id": None}}, 200),
        ("/replay", {"filter": {"state": "dead", "destination": "erp"}}, 400),
        ("/replay", {"filter": {"since": "1h"}}, 400),
        ("/replay", {"to": "erp"}, 400),
        ("/replay", {"by_routes": True}, 400),
        ("/skip", {}, 400),
        ("/discard", {"reason": "x"}, 400),
    ],
)
async def test_cursor_of_another_repair_is_refused(
    operator: Operator, erp: Receiver, path: str, change: dict[str, Any], status: int
) -> None:
    await die(operator.running, erp, 2)
    body: dict[str, Any] = {"filter": {"state": "dead"}, "limit": 1}
    first = await operator.post("/replay", body)
    answer = await operator.post(path, {**body, "cursor": first["next"], **change}, status)
    if status == 400:
        assert answer["error"].startswith("cursor: it belongs to another repair; ")
        assert await operator.changes() == [("anonymous", "replay", 1)]


async def test_cursor_of_somebody_else_is_refused(relay: StartRelay, erp: Receiver) -> None:
    accounts = [{"username": name, "password": f"{name}-secret-1"} for name in ("anna", "bert")]
    running = await relay(admin={"auth": accounts})
    anna, bert = (Operator(running, (name, f"{name}-secret-1")) for name in ("anna", "bert"))
    await die(running, erp, 2)
    body = {"filter": {"state": "dead"}, "limit": 1, "reason": "x"}
    first = await anna.post("/discard", body)
    await bert.post("/discard", {**body, "cursor": first["next"]}, 400)
    await anna.post("/discard", {**body, "cursor": first["next"]})
    assert await anna.changes() == [("anna", "discard", 2)]


async def test_cursor_goes_on_after_a_restart(operator: Operator, erp: Receiver) -> None:
    await die(operator.running, erp, 2)
    body: dict[str, Any] = {"filter": {"state": "dead", "since": "1h"}, "limit": 1}
    first = await operator.post("/replay", body)
    await operator.running.restart()
    await operator.post("/replay", {**body, "cursor": first["next"]})
    assert await operator.changes() == [("anonymous", "replay", 2)]


@pytest.mark.parametrize("change", [1, 2**63 - 1])
async def test_every_change_leaves_a_record_whatever_the_cursor_says(
    operator: Operator, erp: Receiver, change: int
) -> None:
    await die(operator.running, erp, 1)
    await operator.post("/replay", {"filter": {"state": "dead"}, "to": "erp"})
    await die(operator.running, erp, 1, first=1)
    wanted = {"state": "dead"}
    cursor = str(Progress(8e9, mark("anonymous", "replay", {"filter": wanted}), change=change))
    step = await operator.post("/replay", {"filter": wanted, "cursor": cursor})
    assert step["replayed"] == 1
    assert await operator.changes() == [("anonymous", "replay", 1)] * 2


# ---- which events a repair is for


async def test_dry_run_says_until_when_it_looked(operator: Operator, erp: Receiver, clock: Clock) -> None:
    await die(operator.running, erp, 2)
    body: dict[str, Any] = {"filter": {"state": "dead"}, "dry_run": True}
    before = clock()
    until_text = (await operator.post("/replay", body))["until"]
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{6}Z", until_text)
    assert before < datetime.fromisoformat(until_text).timestamp()
    await die(operator.running, erp, 1, first=2)
    same = {"filter": {"state": "dead", "until": until_text}}
    for dry_run in (True, False):
        step = await operator.post("/replay", {**same, "dry_run": dry_run})
        assert (step["replayed"], step["until"]) == (2, until_text)


@pytest.mark.parametrize(("path", "more"), [("/replay", {}), ("/skip", {}), ("/discard", {"reason": "x"})])
async def test_until_of_the_filter_counts_where_it_is_earlier(
    operator: Operator, path: str, more: dict[str, Any]
) -> None:
    body = {"filter": {"until": "2026-01-01T00:00:00.000001Z"}, **more}
    assert (await operator.post(path, body))["until"] == "2026-01-01T00:00:00.000001Z"
    body = {"filter": {"until": "2200-01-01T00:00:00Z"}, **more}
    assert (await operator.post(path, body))["until"] < "2200"
    assert (await operator.post(path, {"filter": {"id": "x"}, **more}))["until"] is None


def test_bound_of_a_repair_is_after_all_that_was_received_and_survives_being_written() -> None:
    for count in range(10_000):
        started_at = 1.7e9 + count * 29_999.123_456_7
        bound = Sweep("w", Filter(), Progress(started_at), 1).bounded().until
        assert bound is not None
        assert started_at < bound <= started_at + 2e-6
        written = representation.instant(bound, timespec="microseconds")
        assert written is not None
        assert datetime.fromisoformat(written).timestamp() == bound


async def test_what_was_dated_into_the_future_is_found_by_its_id(
    operator: Operator, erp: Receiver, clock: Clock
) -> None:
    clock.moved_seconds += 7200
    await die(operator.running, erp, 1, orderId="4711")
    clock.moved_seconds -= 7200
    assert (await operator.post("/replay", {"filter": {"state": "dead"}}))["replayed"] == 0
    for path, word, more in (
        ("/replay", "replayed", {}),
        ("/discard", "discarded", {"reason": "x"}),
    ):
        step = await operator.post(path, {"filter": {"id": "4711"}, "dry_run": True, **more})
        assert step[word] == 1
    assert (await operator.post("/replay", {"filter": {"id": "e-0"}}))["replayed"] == 1


async def test_what_is_in_flight_is_counted_as_not_discarded(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"concurrency": 1}})
    operator = Operator(running)
    await die(running, erp, 1)
    await operator.post("/destinations/erp/pause")
    await running.post({"eventId": "waiting"})
    await operator.post("/destinations/erp/resume")
    erp.otherwise = erp.hang
    await erp.arrived(2)
    await operator.post("/destinations/erp/pause")
    body = {"filter": {"destination": "erp"}, "reason": "x", "limit": 1}
    for dry_run in (True, False):
        steps = await operator.steps("/discard", {**body, "dry_run": dry_run})
        assert sum(step["discarded"] for step in steps) == 1
        assert sum(step["skipped"] for step in steps) == 1
    dead = await operator.steps("/discard", {**body, "filter": {"state": "dead"}})
    assert [step["skipped"] for step in dead] == [0]


async def test_older_dead_delivery_does_not_hold_up_the_new_one(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    operator = Operator(running)
    await running.post({"eventId": "a", "orderId": "4711"})
    await running.settled("delivered")
    erp.otherwise = 422
    await operator.post("/deliveries/1/replay")
    await until(lambda: states(running) == ["delivered", "dead"])
    erp.otherwise = 200
    await operator.post("/deliveries/1/replay")
    await until(lambda: states(running) == ["delivered", "discarded", "delivered"])


async def test_found_delivery_that_is_not_the_newest_counts_as_skipped(
    operator: Operator, erp: Receiver
) -> None:
    await die(operator.running, erp, 1)
    await operator.post("/replay", {"filter": {"state": "dead"}, "to": "erp"})
    await until(lambda: states(operator.running) == ["discarded", "delivered"])
    step = await operator.post("/replay", {"filter": {"state": "discarded"}})
    assert (step["replayed"], step["skipped"]) == (0, 1)
    step = await operator.post("/replay", {"filter": {"state": "delivered"}, "dry_run": True})
    assert (step["replayed"], step["skipped"]) == (1, 0)


# ---- released from quarantine


async def test_record_of_a_release_says_where_it_was_sent_by_hand(
    running: Running, operator: Operator
) -> None:
    await running.post(b"{nonsense")
    await operator.post("/quarantine/1/release", {"to": ["erp"]})
    (change,) = (await operator.get("/changes"))["changes"]
    assert (change["action"], change["detail"]["to"]) == ("release-quarantined", ["erp"])


async def test_released_request_is_read_the_same_way_by_all(
    relay: StartRelay, erp: Receiver, crm: Receiver
) -> None:
    erp.script.append(422)
    running = await relay(
        destinations={"erp": {"order_by": "orderId"}, "crm": {"url": crm.url}},
        routes=[{"match": {"eventType": "ORDER"}, "to": ["erp"]}],
    )
    operator = Operator(running)
    await running.post(b'{"eventType": "X", "eventType": "ORDER", "orderId": 4711, "n": NaN}')
    await operator.post("/quarantine/1/release")
    await running.settled("dead")
    details = await operator.get("/events/1")
    assert details["routes"]["destinations"] == ["erp"]
    assert details["legible"] == {"eventType": "ORDER", "orderId": "4711", "n": "nan"}
    (listed,) = (await operator.get("/events", payload="true"))["events"]
    assert (listed["payload"], listed["legible"]) == (None, details["legible"])
    assert compare(Router([Route(to=("erp",), match={"eventType": ("ORDER",)})]), [listed]).differing == 0
    await operator.post("/destinations/erp/pause")
    await operator.post("/deliveries/1/replay")
    assert (await operator.delivery())["order_key"] == "4711"
    await operator.post("/destinations/erp/resume")
    await until(lambda: running.deliveries()[-1] == ("delivered", 1))
    await running.reload(routes=[{"match": {"eventType": "ORDER"}, "to": ["erp", "crm"]}])
    step = await operator.post("/replay", {"filter": {"since": "1h"}, "by_routes": True})
    assert step["by_destination"] == {"crm": 1}


async def test_what_was_sent_by_hand_is_not_what_routes_did(
    operator: Operator, clock: Clock, crm: Receiver
) -> None:
    await operator.running.post({"eventId": "a", "eventType": "ORDER"})
    await operator.running.reload(destinations={"crm": {"url": crm.url}})
    clock.moved_seconds += 60
    await operator.post("/replay", {"filter": {"id": "a"}, "to": "crm"})
    (event,) = (await operator.get("/events", payload="true"))["events"]
    assert [one["destination"] for one in event["deliveries"]] == ["erp", "crm"]
    assert compare(Router([Route(to=("erp",))]), [event]).differing == 0
    assert compare(Router([Route(to=("erp", "crm"))]), [event]).differing == 1
