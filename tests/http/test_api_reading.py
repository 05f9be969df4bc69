"""What the API shows: events, deliveries, quarantine, changes, and how it is asked."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay.admin.reading import MAX_PAYLOAD_PAGES
from relay.store.sqlite_find import MAX_PAGE_BYTES
from tests.http.conftest import StartRelay
from tests.http.operator import Operator
from tests.http.test_answers import made_impatient
from tests.http.world import ORDER, Receiver, Running, Wire, head, refused, until
from tests.locked import locked

INSTANT = re.compile(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z")


@pytest.fixture
async def operator(running: Running) -> Operator:
    return Operator(running)


async def store_orders(running: Running, number: int) -> None:
    for count in range(number):
        await running.post({**ORDER, "eventId": f"e-{count}", "orderId": f"o-{count}"})
    await running.settled("delivered", number=number)


async def test_event_is_shown_with_all_that_is_known_of_it(operator: Operator, erp: Receiver) -> None:
    erp.script += [(503, {}), 422]
    body = (
        b'{"eventId": "e-1", "eventType": "ORDER", "transactionStatus": "OPEN", "orderId": 4711, "x": 1e999}'
    )
    await operator.running.post(body)
    await operator.running.settled("dead")
    (listed,) = (await operator.get("/events"))["events"]
    event = await operator.get(f"/events/{listed['id']}")
    assert listed["order_id"] == "4711"
    assert listed["event_type"], listed["transaction_status"] == ("ORDER", "OPEN")
    assert INSTANT.fullmatch(listed["received_at"])
    assert "payload" not in listed
    assert event["payload"]["orderId"] == 4711
    assert event["size"] == len(body)
    assert event["routes"]["destinations"] == ["erp"]
    assert event["routes"]["routes"][0]["finding"] == "matched"
    (delivery,) = event["deliveries"]
    assert (delivery["state"], delivery["attempt_count"]) == ("dead", 2)
    assert (delivery["order_id"], delivery["received_at"]) == ("4711", event["received_at"])
    tries = [(one["number"], one["status"], one["next_state"]) for one in delivery["attempts"]]
    assert tries == [(1, 503, "pending"), (2, 422, "dead")]
    assert await operator.get(f"/deliveries/{delivery['id']}") == delivery
    del delivery["attempts"]
    assert listed["deliveries"] == [delivery]
    assert (await operator.get("/deliveries"))["deliveries"] == [delivery]


async def test_body_is_given_byte_for_byte_and_never_shown_by_a_browser(operator: Operator) -> None:
    body = b'{"eventId":  "<script>\xc3\xbc"}'
    await operator.running.post(body)
    answer = await operator.ask("GET", "/events/1/body")
    assert answer.body == body
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_payloads_of_a_list_are_given_on_request(operator: Operator) -> None:
    await operator.running.post(b'{"eventId": "a", "number": 12345678901234567890123, "text": "\xc3\xbc"}')
    (event,) = (await operator.get("/events", payload="true"))["events"]
    assert event["payload"] == {"eventId": "a", "number": 12345678901234567890123, "text": "ü"}
    (event,) = (await operator.get("/events", payload="false"))["events"]
    assert "payload" not in event


async def test_numbers_that_python_can_not_hold_stay_as_they_were_written(operator: Operator) -> None:
    await operator.running.post(b'{"eventId": "a", "n": 1e999}')
    for path in ("/events/1", "/events?payload=true"):
        assert b'"n": 1e999' in (await operator.ask("GET", path)).body


async def ask_and_not_read(running: Running) -> Wire:
    """Ask for more payloads than the buffers of a connection hold."""
    wire = await running.wire(admin=True)
    wire._reader._transport.pause_reading()  # type: ignore[attr-defined]
    await wire.send(b"GET /api/v1/events?payload=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return wire


async def store_large_ones(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.store.sqlite_find.MAX_PAGE_BYTES", 16 << 20)
    for count in range(16):
        await running.post({"eventId": f"e-{count}", "text": "x" * 900_000})


async def test_pages_of_payloads_wait_for_those_that_nobody_reads(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store_large_ones(running, monkeypatch)
    lazy = [await ask_and_not_read(running) for _ in range(MAX_PAYLOAD_PAGES)]
    await until(running.relay._admin._reading._payload_pages.locked)
    waiting = asyncio.ensure_future(running.ask("/api/v1/events?payload=true"))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    assert (await running.ask("/api/v1/events")).status == 200  # others don't wait
    for wire in lazy:
        await wire.close()
    assert len((await waiting).json["events"]) == 16


async def test_client_that_reads_no_payloads_loses_its_connection(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.admin.reading.WRITE_SECONDS", 0.05)
    await store_large_ones(running, monkeypatch)
    for _ in range(2 * MAX_PAYLOAD_PAGES):
        await ask_and_not_read(running)
    server = running.relay.admin._runner.server
    assert server is not None
    await until(lambda: not server.connections)
    assert not running.relay._admin._reading._payload_pages.locked()


def test_page_of_payloads_is_small() -> None:
    assert MAX_PAGE_BYTES == 4 << 20


async def test_list_goes_on_over_pages_in_both_orders(operator: Operator) -> None:
    await store_orders(operator.running, 7)
    newest = await operator.pages("/events", "events", limit=3)
    assert [event["event_id"] for event in newest] == [f"e-{count}" for count in reversed(range(7))]
    oldest = await operator.pages("/events", "events", limit=2, order="oldest")
    assert oldest == newest[::-1]
    deliveries = await operator.pages("/deliveries", "deliveries", limit=4)
    assert [delivery["event_id"] for delivery in deliveries] == [event["event_id"] for event in newest]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["a", "b", "c"]),
        ({"id": "a"}, ["a"]),
        ({"id": "order-b"}, ["b"]),
        ({"id": "transaction-c"}, ["c"]),
        ({"id": "nobody"}, []),
        ({"type": "INVOICE"}, ["b"]),
        ({"status": "OPEN"}, ["a", "c"]),
        ({"status": "OPEN", "type": "INVOICE"}, []),
        ({"source": "itscope"}, ["a", "b", "c"]),
        ({"source": "other"}, []),
        ({"state": "dead"}, ["b"]),
        ({"state": "delivered"}, ["a"]),
        ({"state": "unrouted"}, ["c"]),
        ({"destination": "erp"}, ["a", "b"]),
        ({"destination": "gone"}, []),
        ({"since": "1h"}, ["a", "b", "c"]),
        ({"until": "1h"}, []),
        ({"since": "2026-01-01T00:00:00Z", "until": "2100-01-01t00:00:00.5+01:00"}, ["a", "b", "c"]),
        ({"since": "9999-12-31T23:59:59.999999999Z"}, []),
    ],
    ids=str,
)
async def test_events_are_found_by(
    relay: StartRelay, erp: Receiver, query: dict[str, str], found: list[str]
) -> None:
    running = await relay(routes=[{"match": {"orderId": "*"}, "to": ["erp"]}])
    erp.script += [200, 400]
    await running.post({"eventId": "a", "orderId": "order-a", "transactionStatus": "OPEN"})
    await running.settled("delivered")
    await running.post({"eventId": "b", "orderId": "order-b", "eventType": "INVOICE"})
    await until(lambda: running.deliveries() == [("delivered", 1), ("dead", 1)])
    await running.post({"eventId": "c", "transactionId": "transaction-c", "transactionStatus": "OPEN"})
    operator = Operator(running)
    events = await operator.pages("/events", "events", order="oldest", **query)
    assert [event["event_id"] for event in events] == found
    deliveries = await operator.pages("/deliveries", "deliveries", **query)
    assert {delivery["event_id"] for delivery in deliveries} == {*found} - {"c"}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("limt=5", "there is no parameter limt; did you mean limit?"),
        ("limit=0", "limit: must be a whole number from 1 to 500"),
        ("limit=501", "limit: must be a whole number from 1 to 500"),
        ("limit=1e3", "limit: must be a whole number from 1 to 500"),
        (f"limit={'9' * 5000}", "limit: must be a whole number from 1 to 500"),
        ("limit=1&limit=2", "limit: is given twice"),
        ("cursor=nonsense", "cursor: send back what the page before gave as next"),
        ("cursor=", "cursor: must not be empty"),
        (f"cursor={'A' * 5000}", "cursor: must have at most 512 characters"),
        ("id=", "id: must not be empty"),
        (f"id={'x' * 256}", "id: must have at most 255 characters"),
        ("id=a%00b", "id: holds a character that no text can hold"),
        (
            "state=deaf",
            "state: must be 'pending', 'in_flight', 'delivered', 'dead', 'discarded' or 'unrouted'",
        ),
        ("order=random", "order: must be 'newest' or 'oldest'"),
        ("payload=1", "payload: must be true or false"),
        ("since=yesterday", "since: write an instant such as "),
        ("since=2026-02-30T00:00:00Z", "since: write an instant such as "),
        ("since=0001-01-01T00:00:00%2B14:00", "since: write an instant such as "),
        ("since=2026-01-01T00:00:00+01:00", "since: write an instant such as "),
        ("since=2026-01-01T00:00:00", "since: write an instant such as "),
    ],
)
async def test_wrong_parameter_is_refused_with_a_sentence(
    operator: Operator, tmp_path: Path, query: str, sentence: str
) -> None:
    answer = await operator.ask("GET", f"/events?{query}")
    assert refused(answer, 400, folder=tmp_path, code="bad-request").startswith(sentence)


async def test_longest_parameters_fit_a_request(operator: Operator) -> None:
    longest = dict.fromkeys(("id", "type", "status", "source", "destination"), "\U0001f69a" * 255)
    assert (await operator.get("/events", **longest))["events"] == []


async def test_whole_number_may_be_written_as_json_writes_any_number(operator: Operator) -> None:
    answer = await operator.ask(
        "POST",
        "/replay",
        data=b'{"filter": {"id": "x"}, "limit": 5.0}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 200


async def test_cursors_that_look_right_harm_nobody(operator: Operator) -> None:
    await operator.running.post(ORDER)
    for cursor in ("A" * 32, "_" * 32, "f_AAAAAAAAB_________________________"[:32], "gAAA" * 8):
        for path in ("/events", "/deliveries", "/quarantine", "/changes"):
            answer = await operator.ask("GET", f"{path}?cursor={cursor}")
            assert answer.status in {200, 400}


@pytest.mark.parametrize("id_", ["0", "-1", "x", "1e3", "%D9%A1", str(2**63), str(2**64), "9" * 400, "7"])
@pytest.mark.parametrize("path", ["/events/{}", "/events/{}/body", "/deliveries/{}", "/quarantine/{}"])
async def test_number_that_nothing_has_is_not_found(
    operator: Operator, tmp_path: Path, path: str, id_: str
) -> None:
    answer = await operator.ask("GET", path.format(id_))
    assert refused(answer, 404, folder=tmp_path, code="not-found").startswith("there is no ")


@pytest.mark.parametrize(
    ("headers", "data", "status", "sentence"),
    [
        ({"Content-Type": ""}, b"{}", 415, "send the body as application/json"),
        ({"Content-Type": "text/plain"}, b"{}", 415, "send the body as "),
        ({"Content-Encoding": "gzip"}, b"{}", 415, "a Content-Encoding is not"),
        ({}, b"", 400, "filter: is required"),
        ({}, b"nonsense", 400, "the body is not JSON"),
        ({}, b"[]", 400, "the body is JSON, but not an object"),
        ({}, b'{"filter": 1}', 400, "filter: must be an object"),
        ({}, b'{"filter": {}, "filter": {}}', 400, "the body gives a key twice"),
        ({}, b'{"filter": {"id": "\\u0000"}}', 400, "the body holds a NUL"),
        ({}, b'{"filter": {"id": "\\ud800"}}', 400, "the body holds a NUL or a lone"),
        ({}, b'{"filter": {"id": 1}}', 400, "filter.id: must be a text"),
        (
            {},
            b'{"filter": {"sate": "1"}}',
            400,
            "there is no key filter.sate; did you mean st",
        ),
        ({}, b'{"filter": {}}', 400, "filter: give at least one of id, state"),
        ({}, b'{"filter": {"type": "ORDER"}}', 400, "filter: give at least one of"),
        ({}, b'{"filter": {"id": "1"}, "dryrun": true}', 400, "there is no key dryrun; did"),
        ({}, b'{"filter": {"id": "1"}, "dry_run": 1}', 400, "dry_run: must be true or false"),
        ({}, b'{"filter": {"id": "1"}, "limit": 501}', 400, "limit: must be a whole number"),
        ({}, b'{"filter": {"id": "1"}, "limit": "5"}', 400, "limit: must be a whole number"),
        ({}, b'{"filter": {"id": "1"}, "pace": "fast"}', 400, "pace: write a rate as"),
        ({}, b'{"filter": {"id": "1"}, "pace": "5/s burst 2"}', 400, "pace: a pace has no"),
        ({}, b'{"filter": {"id": "1"}, "cursor": "x"}', 400, "cursor: send back what"),
        ({}, b'{"filter": {"state": "pending"}}', 422, "filter.state: what is pending is"),
        ({}, b'{"filter": {"state": "unrouted"}}', 422, "unrouted events have no delivery"),
        ({}, b"[" * 60_000, 400, "the body is nested deeper"),
        ({}, b" " * 65_537, 413, "the body is larger than 65536 bytes"),
        ({"Sec-Fetch-Site": "cross-site"}, b"{}", 403, "requests from other sites"),
    ],
    ids=str,
)
async def test_wrong_body_is_refused_with_a_sentence(
    operator: Operator, headers: dict[str, str], data: bytes, status: int, sentence: str
) -> None:
    headers = {"Content-Type": "application/json", **headers}
    answer = await operator.ask("POST", "/replay", data=data, headers=headers)
    code = {
        400: "bad-request",
        403: "forbidden",
        413: "too-large",
        415: "unsupported-media-type",
        422: "unprocessable",
    }[status]
    assert refused(answer, status, folder=operator.running.folder, code=code).startswith(sentence)


async def test_body_that_stops_half_way_is_answered(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.admin.parameters.BODY_SECONDS", 0.05)
    wire = await running.wire(admin=True)
    lines = ("Content-Type: application/json", "Content-Length: 100")
    request = head(*lines, target="/api/v1/replay", auth=None).replace(b"Host: relay", b"Host: localhost")
    await wire.send(request + b'{"filter"')
    answer = await wire.answer()
    assert (answer.status, answer.json["code"]) == (408, "timeout")


async def test_parameters_are_refused_where_there_are_none(operator: Operator) -> None:
    await operator.get("/destinations", 400, limit=5)
    await operator.get("/openapi.json", 400, x=1)
    answer = await operator.ask("POST", "/destinations/erp/pause?x=1")
    assert answer.status == 400


async def test_quarantine_is_listed_and_shown(operator: Operator) -> None:
    await operator.running.post(b"nonsense \xff<b>")
    await operator.running.post(b"nonsense \xff<b>")
    await operator.running.post(b"[]")
    listed = await operator.pages("/quarantine", "quarantine", limit=1)
    assert [(one["reason"], one["times"]) for one in listed] == [("not-an-object", 1), ("not-utf-8", 2)]
    shown = await operator.get(f"/quarantine/{listed[1]['id']}")
    assert shown == {**listed[1], "text": "nonsense \ufffd<b>"}
    answer = await operator.ask("GET", f"/quarantine/{listed[1]['id']}/body")
    assert answer.body == b"nonsense \xff<b>"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert (await operator.get("/quarantine", source="other"))["quarantine"] == []


async def test_large_quarantined_body_is_cut_as_text(operator: Operator) -> None:
    body = b"x" * 100_000
    await operator.running.post(body)
    (listed,) = (await operator.get("/quarantine"))["quarantine"]
    shown = await operator.get(f"/quarantine/{listed['id']}")
    assert (shown["size"], len(shown["text"])) == (100_000, 65_536)
    assert (await operator.ask("GET", f"/quarantine/{listed['id']}/body")).body == body


async def test_routes_in_force_explain_an_event(operator: Operator, crm: Receiver) -> None:
    await operator.running.post(ORDER)
    await operator.running.reload(
        destinations={"crm": {"url": crm.url}},
        routes=[{"name": "invoices", "match": {"eventType": "INVOICE"}, "to": ["crm"]}],
    )
    routes = (await operator.get("/events/1"))["routes"]
    assert routes["destinations"] == []
    why = 'eventType is "ORDER", not "INVOICE"'
    assert routes["routes"] == [{"name": "invoices", "finding": "not matched", "why": why, "to": ["crm"]}]


async def test_login_is_needed_where_it_is_configured(relay: StartRelay) -> None:
    running = await relay(admin={"auth": [{"username": "anna", "password": "operator-secret"}]})
    answer = await Operator(running).ask("GET", "/events")
    assert (answer.status, answer.json["code"]) == (401, "unauthorized")
    await Operator(running, ("anna", "operator-secret")).get("/events")


async def test_api_is_not_on_the_public_listener(running: Running) -> None:
    assert (await running.post(path="/api/v1/events", method="GET")).status == 404


async def test_store_that_can_not_write_is_answered_503_and_nothing_is_changed(operator: Operator) -> None:
    await until(lambda: made_impatient(operator.running))
    with locked(operator.running.folder / "relay.db"):
        answer = await operator.ask("POST", "/destinations/erp/pause")
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    (erp,) = (await operator.get("/destinations"))["destinations"]
    assert erp["paused_at"] is None


async def test_secrets_are_in_no_answer(relay: StartRelay, erp: Receiver) -> None:
    word = "topsecret"
    running = await relay(
        admin={"auth": [{"username": "anna", "password": f"{word}-1"}]},
        destinations={
            "erp": {
                "url": f"{erp.url}?k={word}",
                "auth": {"type": "bearer", "token": f"{word}-2"},
                "headers": {"X-Key": f"{word}-3"},
            }
        },
    )
    erp.script.append(400)
    await running.post(ORDER)
    await running.settled("dead")
    operator = Operator(running, ("anna", f"{word}-1"))
    await operator.post("/deliveries/1/replay")
    await operator.post("/destinations/erp/pause")
    everything: list[Any] = [
        await operator.get(path)
        for path in ("/events", "/events/1", "/deliveries/1", "/destinations", "/changes", "/openapi.json")
    ]
    assert word not in json.dumps(everything)
