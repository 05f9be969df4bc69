"""What destinations see, and what follows from their answers (contract, section 3)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from relay import __version__
from tests.http.conftest import StartReceiver, StartRelay
from tests.http.world import (
    ORDER,
    Clock,
    Receiver,
    Running,
    Step,
    break_off,
    drop,
    head,
    never_end,
    talk_nonsense,
    until,
)

SLOW_RETRY = {"initial": "1h", "max": "1h"}  # no second try within a test, save by moving the clock


# ---- what is sent


async def test_destination_gets_the_bytes_and_their_type_and_every_header(
    running: Running, erp: Receiver
) -> None:
    body = b' {"eventId":"e-1",  "eventType":"ORDER","transactionStatus":"OPEN", "x": "\xc3\xa4\\u00e4"}\n'
    answer = await running.post(body, headers=[("X-Other", "not passed on"), ("Cookie", "a=b")])
    assert answer.status == 200
    (request,) = await erp.arrived(1)
    assert (request.method, request.target, request.body) == ("POST", "/api/itscope", body)
    trace = request.headers.pop("traceparent")
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", trace)
    ((delivery,),) = running.rows("SELECT id FROM deliveries")
    assert dict(request.headers) == {
        "Host": erp.url.split("/")[2],
        "Content-Length": str(len(body)),
        "Content-Type": "application/json",
        "User-Agent": f"itscope-relay/{__version__}",
        "Idempotency-Key": "e-1",
        "X-ITscope-Event-Id": "e-1",
        "X-ITscope-Event-Type": "ORDER",
        "X-ITscope-Transaction-Status": "OPEN",
        "X-Relay-Delivery-Id": str(delivery),
        "X-Relay-Attempt": "1",
    }


@pytest.mark.parametrize(
    "content_type", ["application/json;charset=UTF-8", "text/plain", 'application/vnd.itscope+json; v="1"']
)
async def test_content_type_is_passed_on(running: Running, erp: Receiver, content_type: str) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 2", f"Content-Type: {content_type}") + b"{}")
    (request,) = await erp.arrived(1)
    assert request.headers["Content-Type"] == content_type


async def test_absent_fields_have_no_headers(running: Running, erp: Receiver) -> None:
    await running.post({"eventType": None, "transactionStatus": ["OPEN"]})
    (request,) = await erp.arrived(1)
    assert not {"X-ITscope-Event-Type", "X-ITscope-Transaction-Status"} & set(request.headers)
    assert request.headers["Idempotency-Key"].startswith("sha256:")


@pytest.mark.parametrize(
    "size", [100, 70_000, 600_000, 1_000_000], ids=["small", "segments", "streamed", "megabyte"]
)
async def test_body_of_any_size_arrives_byte_for_byte(running: Running, erp: Receiver, size: int) -> None:
    body = json.dumps({"eventId": "e", "x": "äöü\x7f" * (size // 20)}, ensure_ascii=False).encode()
    assert (await running.post(body)).status == 200
    (request,) = await erp.arrived(1)
    assert request.body == body


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("a\r\nX-Evil: 1", "a%0D%0AX-Evil: 1"),
        ("a\nb", "a%0Ab"),
        ("\r", "%0D"),
        ("Rücknahme €", "R%C3%BCcknahme %E2%82%AC"),
        ("😀", "%F0%9F%98%80"),
        ("\x7f\x1b[31m", "%7F%1B[31m"),
        ("\t", "%09"),
        (" a ", "%20a%20"),
        ("100%", "100%"),
        ("x" * 300, "x" * 255),
        ("ä" * 300, "%C3%A4" * 255),
        (5, "5"),
        (True, "true"),
        (1.0, "1"),
        ("", ""),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_values_of_the_payload_can_not_break_a_header(
    running: Running, erp: Receiver, value: Any, header: str
) -> None:
    await running.post({"eventId": "e", "eventType": value, "transactionStatus": value})
    (request,) = await erp.arrived(1)
    assert request.headers["X-ITscope-Event-Type"] == header
    assert request.headers["X-ITscope-Transaction-Status"] == header
    assert "X-Evil" not in request.headers


async def test_type_and_status_are_kept_and_logged_no_longer_than_a_header(
    running: Running, erp: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "relay")
    text = "x" * 10_000
    body = json.dumps({"eventId": "e", "eventType": text, "transactionStatus": text}).encode()
    assert (await running.post(body)).status == 200
    (request,) = await erp.arrived(1)
    await running.settled("delivered")
    assert request.body == body
    for name in ("X-ITscope-Event-Type", "X-ITscope-Transaction-Status"):
        assert request.headers[name] == text[:255]
    assert running.rows("SELECT event_type, transaction_status FROM events") == [(text[:255],) * 2]
    (accepted,) = [record for record in caplog.records if record.message == "event.accepted"]
    fields = vars(accepted)["fields"]
    assert (fields["event_type"], fields["status"]) == (text[:255],) * 2
    assert not [record for record in caplog.records if text[:256] in str(vars(record))]


async def test_id_with_line_breaks_can_not_break_a_header(running: Running, erp: Receiver) -> None:
    event_id = "e\r\nContent-Length: 0\r\n\r\nPOST / HTTP/1.1"
    await running.post({"eventId": event_id})
    (request,) = await erp.arrived(1)
    assert request.headers["Idempotency-Key"] == quote(event_id, safe=" :/-.")
    await running.settled("delivered")
    assert len(erp.requests) == 1


async def test_content_type_with_bad_bytes_can_not_break_a_header(running: Running, erp: Receiver) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 2", "Content-Type: a/\xe4\xff") + b"{}")
    (request,) = await erp.arrived(1)
    assert request.headers["Content-Type"].isascii()
    await running.settled("delivered")


async def test_trace_of_the_sender_goes_on_with_a_span_for_each_attempt(
    running: Running, erp: Receiver
) -> None:
    erp.script.append(500)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await running.post(headers=[("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01")])
    spans = [request.headers["traceparent"].split("-") for request in await erp.arrived(2)]
    assert {span[1] for span in spans} == {trace_id}
    assert len({span[2] for span in spans} | {"00f067aa0ba902b7"}) == 3


@pytest.mark.parametrize("given", ["", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "01-x", "\xe4" * 55])
async def test_broken_trace_is_replaced(running: Running, erp: Receiver, given: str) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 2", f"traceparent: {given}") + b"{}")
    (request,) = await erp.arrived(1)
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-[0-9a-f]{16}-01", request.headers["traceparent"])


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        (
            {"type": "basic", "username": "relay", "password": "pä:ss"},
            "Authorization",
            "Basic cmVsYXk6cMOkOnNz",
        ),
        ({"type": "bearer", "token": "t0ken"}, "Authorization", "Bearer t0ken"),
        ({"type": "header", "name": "X-Api-Key", "value": "k3y"}, "X-Api-Key", "k3y"),
        ({"type": "header", "name": "Authorization", "value": "Token k3y"}, "Authorization", "Token k3y"),
    ],
    ids=["basic", "bearer", "header", "authorization"],
)
async def test_destination_gets_its_own_credentials_and_headers_and_method(
    relay: StartRelay, erp: Receiver, auth: dict[str, str], name: str, value: str
) -> None:
    running = await relay(
        destinations={"erp": {"auth": auth, "headers": {"X-Company": "100"}, "method": "PUT"}}
    )
    await running.post()
    (request,) = await erp.arrived(1)
    assert request.method == "PUT"
    assert request.headers.getall(name) == [value]
    assert request.headers["X-Company"] == "100"


async def test_credentials_of_the_source_are_not_passed_on(running: Running, erp: Receiver) -> None:
    await running.post()
    (request,) = await erp.arrived(1)
    assert "Authorization" not in request.headers


async def test_each_destination_gets_the_event_under_the_same_key(
    relay: StartRelay, erp: Receiver, crm: Receiver
) -> None:
    running = await relay(destinations={"crm": {"url": crm.url}}, routes=[{"to": ["erp", "crm"]}])
    await running.post()
    (to_erp,), (to_crm,) = await erp.arrived(1), await crm.arrived(1)
    assert to_erp.headers["Idempotency-Key"] == to_crm.headers["Idempotency-Key"] == "e-1"
    assert to_erp.headers["X-Relay-Delivery-Id"] != to_crm.headers["X-Relay-Delivery-Id"]


# ---- what follows from an answer


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_success_is_delivered(running: Running, erp: Receiver, status: int) -> None:
    erp.script.append(status)
    await running.post()
    await running.settled("delivered")
    assert running.attempts() == [(status, None, "delivered")]


@pytest.mark.parametrize("status", [400, 410, 413, 415, 422])
async def test_rejection_is_dead_at_once(running: Running, erp: Receiver, status: int) -> None:
    erp.script.append(status)
    await running.post()
    await running.settled("dead")
    assert running.attempts() == [(status, None, "dead")]
    assert len(erp.requests) == 1


@pytest.mark.parametrize(
    "status", [300, 304, 401, 403, 404, 405, 408, 409, 418, 425, 429, 500, 502, 503, 504, 599]
)
async def test_any_other_status_is_retried(running: Running, erp: Receiver, status: int) -> None:
    erp.script += [status, status]
    await running.post()
    await running.settled("delivered")
    assert running.attempts() == [(status, None, "pending")] * 2 + [(200, None, "delivered")]


async def test_retry_is_claimed_ahead_and_not_sent_before_it_is_due(running: Running, erp: Receiver) -> None:
    erp.script.append((503, {"Retry-After": "2"}))
    await running.post()
    await until(lambda: running.deliveries() == [("pending", 1)])
    ((due_at,),) = running.rows("SELECT due_at FROM deliveries")
    await until(lambda: running.deliveries() == [("in_flight", 1)])
    await running.post({"eventId": "fresh"})  # has nothing to wait for
    await erp.arrived(2)
    await running.settled("delivered", number=2)
    ((started_at,),) = running.rows("SELECT started_at FROM attempts WHERE number = 2")
    assert started_at >= due_at
    assert json.loads(erp.requests[1].body)["eventId"] == "fresh"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_retried_and_never_followed(
    running: Running, erp: Receiver, crm: Receiver, status: int
) -> None:
    erp.script.append((status, {"Location": crm.url}))
    await running.post()
    await running.settled("delivered")
    assert running.attempts() == [(status, None, "pending"), (200, None, "delivered")]
    assert crm.requests == []


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (drop, "the connection was closed before an answer"),
        (talk_nonsense, "the answer is not valid HTTP"),
    ],
    ids=["dropped", "nonsense"],
)
async def test_broken_answer_is_retried(running: Running, erp: Receiver, step: Step, error: str) -> None:
    erp.script.append(step)
    await running.post()
    await running.settled("delivered")
    (status, why, state), last = running.attempts()
    assert (status, state, last) == (None, "pending", (200, None, "delivered"))
    assert why is not None
    assert error in why


@pytest.mark.parametrize("step", [break_off, never_end], ids=["broken-off", "endless"])
async def test_status_counts_also_when_the_rest_of_the_answer_is_bad(
    running: Running, erp: Receiver, step: Step
) -> None:
    erp.script.append(step)
    await running.post()
    await running.settled("delivered")
    assert running.attempts() == [(200, None, "delivered")]
    assert (await running.post({"eventId": "next"})).status == 200
    await running.settled("delivered", number=2)


async def test_answer_that_takes_too_long_is_retried(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"timeout": "50ms"}})
    erp.script.append(erp.hang)
    await running.post()
    await running.settled("delivered")
    assert running.attempts() == [
        (None, "no answer within 50ms", "pending"),
        (200, None, "delivered"),
    ]


async def test_refused_connection_is_retried_until_the_destination_is_there(
    running: Running, erp: Receiver
) -> None:
    await erp.stop()
    await running.post()
    await running.attempted(2)
    for status, error, state in running.attempts():
        assert (status, state) == (None, "pending")
        assert "can't connect" in str(error)
    await erp.start()
    await running.settled("delivered")


async def test_unknown_host_is_retried(relay: StartRelay) -> None:
    running = await relay(destinations={"erp": {"url": "http://no-such-host.invalid/"}})
    await running.post()
    await running.attempted(2)
    assert {error for _, error, _ in running.attempts()} == {"the host name can't be resolved"}


async def test_untrusted_certificate_is_retried(
    relay: StartRelay, receiver_factory: StartReceiver, ca: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    secure = await receiver_factory(tls=context)
    running = await relay(destinations={"erp": {"url": secure.url}})
    await running.post()
    await running.attempted(2)
    for status, error, state in running.attempts():
        assert (status, state) == (None, "pending")
        assert error is not None
        assert error.startswith("the certificate isn't trusted: ")
    assert secure.requests == []


async def test_plain_http_on_a_tls_url_is_retried(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"url": erp.url.replace("http:", "https:")}})
    await running.post()
    await running.attempted(2)
    assert {(status, state) for status, _, state in running.attempts()} == {(None, "pending")}


async def test_success_and_reject_are_what_the_destination_says(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"success": [200, 409], "reject": ["4xx", 200]}})
    for number, (status, state) in enumerate(
        [(409, "delivered"), (200, "delivered"), (404, "dead")], start=1
    ):
        erp.script.append(status)
        await running.post({"eventId": str(number)})
        attempts = await running.attempted(number)
        assert attempts[-1] == (status, None, state)
    erp.script.append(202)  # no longer a success
    await running.post({"eventId": "e"})
    await until(lambda: running.attempts()[3:] == [(202, None, "pending"), (200, None, "delivered")])


async def test_every_attempt_counts_up_under_the_same_key_with_the_same_bytes(
    running: Running, erp: Receiver
) -> None:
    erp.script += [500, drop, 503, 404]
    await running.post()
    requests = await erp.arrived(5)
    assert [request.headers["X-Relay-Attempt"] for request in requests] == ["1", "2", "3", "4", "5"]
    assert {request.headers["Idempotency-Key"] for request in requests} == {"e-1"}
    assert len({request.headers["X-Relay-Delivery-Id"] for request in requests}) == 1
    assert {request.body for request in requests} == {json.dumps(ORDER).encode()}
    await running.settled("delivered")


# ---- when


def due_in(running: Running, clock: Clock) -> float:
    """Return for how long the one delivery rests, in seconds."""
    ((due_at,),) = running.rows("SELECT due_at FROM deliveries")
    return float(due_at) - clock()


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_heeded(running: Running, erp: Receiver, clock: Clock, status: int) -> None:
    erp.script.append((status, {"Retry-After": "1200"}))
    await running.post()
    await running.attempted(1)
    assert 600 < due_in(running, clock) <= 1200
    clock.moved_seconds += 1200
    await running.settled("delivered")
    assert len(erp.requests) == 2


async def test_retry_after_may_be_a_date(running: Running, erp: Receiver, clock: Clock) -> None:
    date = format_datetime(datetime.fromtimestamp(clock() + 1800, UTC), usegmt=True)
    erp.script.append((503, {"Retry-After": date}))
    await running.post()
    await running.attempted(1)
    assert 1200 < due_in(running, clock) <= 1800


async def test_retry_after_counts_for_an_hour_at_the_most(
    running: Running, erp: Receiver, clock: Clock
) -> None:
    erp.script.append((429, {"Retry-After": "999999999999999"}))
    await running.post()
    await running.attempted(1)
    assert 3000 < due_in(running, clock) <= 3600


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"Retry-After": "1200"}),
        (302, {"Retry-After": "1200"}),
        (503, {"Retry-After": "soon"}),
        (503, {"Retry-After": "-5"}),
        (503, {"Retry-After": ""}),
        (429, {"Retry-After": "Mon, 99 Foo 2020 99:99:99 GMT"}),
    ],
    ids=str,
)
async def test_other_hints_are_not_heeded(
    running: Running, erp: Receiver, answer: tuple[int, dict[str, str]]
) -> None:
    erp.script.append(answer)
    await running.post()
    await running.settled("delivered")
    assert len(erp.requests) == 2


async def test_retry_after_never_shortens_the_schedule(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": {"initial": "30m", "max": "30m"}}})
    for number in range(20):  # each pause is random; the sum of all is not close to nothing
        erp.script.append((503, {"Retry-After": "0"}))
        await running.post({"eventId": str(number)})
    await running.attempted(20)
    ((rest,),) = running.rows("SELECT max(due_at) FROM deliveries")
    assert rest - clock() > 60


async def test_delivery_that_fails_for_too_long_is_dead(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": {**SLOW_RETRY, "give_up_after": "2h"}}})
    erp.otherwise = 500
    await running.post()
    await until(lambda: running.attempts() == [(500, None, "pending")])
    clock.moved_seconds += 2 * 3600
    await running.settled("dead")
    assert running.attempts() == [(500, None, "pending"), (500, None, "dead")]
    assert running.deliveries() == [("dead", 2)]


async def test_dead_delivery_is_kept_and_never_tried_again(
    running: Running, erp: Receiver, clock: Clock
) -> None:
    erp.script.append(422)
    await running.post()
    await running.settled("dead")
    clock.moved_seconds += 365 * 86400
    await running.restart()
    await running.post({"eventId": "later"})
    await until(lambda: running.deliveries() == [("dead", 1), ("delivered", 1)])
    assert len(erp.requests) == 2


async def test_retry_goes_on_after_a_restart_and_counts_on(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": SLOW_RETRY}})
    erp.script.append(500)
    await running.post()
    await running.attempted(1)
    await running.restart()
    clock.moved_seconds += 3600
    await running.settled("delivered")
    assert [request.headers["X-Relay-Attempt"] for request in erp.requests] == ["1", "2"]


# ---- lanes


async def test_hanging_destination_does_not_delay_another(
    relay: StartRelay, erp: Receiver, crm: Receiver
) -> None:
    running = await relay(destinations={"crm": {"url": crm.url}}, routes=[{"to": ["erp", "crm"]}])
    erp.otherwise = erp.hang
    for number in range(300):  # more than the lane of the hanging one has room for
        assert (await running.post({"eventId": str(number)})).status == 200
    await running.settled("delivered", "crm", 300)
    assert len(erp.requests) == 8
    assert {attempts for _, attempts in running.deliveries()} == {0}
    erp.otherwise = 200
    erp.release.set()
    await running.settled("delivered", "erp", 300)
    assert len(erp.requests) == 300


async def test_no_more_requests_at_once_than_configured(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(destinations={"erp": {"concurrency": 3}})
    erp.otherwise = erp.hang
    await asyncio.gather(*(running.post({"eventId": str(number)}) for number in range(10)))
    await erp.arrived(3)
    await until(lambda: [state for state, _ in running.deliveries()] == ["in_flight"] * 10)
    assert len(erp.requests) == 3
    erp.otherwise = 200
    erp.release.set()
    await running.settled("delivered", number=10)


async def test_backlog_beyond_the_room_of_a_lane_is_delivered_in_order(
    relay: StartRelay, erp: Receiver
) -> None:
    running = await relay(destinations={"erp": {"concurrency": 1}})
    erp.script.append(erp.hang)
    for number in range(400):
        await running.post({"eventId": str(number)})
    erp.release.set()
    await running.settled("delivered", number=400)
    assert [request.headers["Idempotency-Key"] for request in erp.requests] == [str(n) for n in range(400)]


async def test_failing_destination_is_no_reason_to_refuse_webhooks(running: Running, erp: Receiver) -> None:
    await erp.stop()
    for number in range(20):
        assert (await running.post({"eventId": str(number)})).json["status"] == "accepted"
    await erp.start()
    await running.settled("delivered", number=20)
