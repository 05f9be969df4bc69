"""The answers that ITscope gets (contract, section 1), and what the relay keeps of each request."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
from aiohttp import encode_basic_auth

from relay.auth import MAX_CHECKS
from relay.passwords import Costs, PasswordHash
from tests.http.conftest import StartRelay
from tests.http.world import ORDER, PATH, RIGHT, USER, Receiver, Running, head, refused, until
from tests.locked import locked

CHALLENGE = 'Basic realm="itscope-relay", charset="UTF-8"'


async def test_accepted_webhook_is_answered_with_its_id_and_its_deliveries(running: Running) -> None:
    answer = await running.post(ORDER)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == {"status": "accepted", "eventId": "e-1", "deliveries": 1}
    assert answer.headers["Server"] == "itscope-relay"
    age = datetime.now(UTC) - parsedate_to_datetime(answer.headers["Date"])
    assert timedelta() <= age < timedelta(minutes=1)


async def test_answer_counts_each_destination_once(relay: StartRelay, crm: Receiver) -> None:
    running = await relay(
        destinations={"crm": {"url": crm.url}}, routes=[{"to": ["erp", "crm"]}, {"to": ["crm", "erp"]}]
    )
    assert (await running.post()).json["deliveries"] == 2


async def test_accepted_webhook_is_in_the_store_when_the_answer_comes(
    running: Running, erp: Receiver
) -> None:
    erp.otherwise = erp.hang
    for number in range(10):
        body = json.dumps({"eventId": str(number)}).encode()
        assert (await running.post(body)).status == 200
        assert running.events()[-1] == (str(number), body)
        assert len(running.deliveries()) == number + 1


async def test_webhook_is_stored_though_the_client_went_away(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 16") + b'{"eventId": "x"}')
    await wire.close()
    await running.settled("delivered")


async def test_duplicate_is_answered_so_and_delivered_once(running: Running, erp: Receiver) -> None:
    await running.post(ORDER)
    answer = await running.post(ORDER)
    assert (answer.status, answer.json) == (200, {"status": "duplicate", "eventId": "e-1"})
    await running.settled("delivered")
    assert len(erp.requests) == 1
    assert running.quarantine() == []


async def test_duplicate_with_other_bytes_is_quarantined_as_well(running: Running) -> None:
    await running.post(b'{"eventId": "e"}')
    answer = await running.post(b'{"eventId":"e"}')
    assert (answer.status, answer.json) == (200, {"status": "duplicate", "eventId": "e"})
    assert running.events() == [("e", b'{"eventId": "e"}')]
    assert running.quarantine() == [("conflicting-duplicate", b'{"eventId":"e"}')]


async def test_same_webhook_many_times_at_once_is_accepted_once(running: Running, erp: Receiver) -> None:
    answers = await asyncio.gather(*(running.post() for _ in range(20)))
    assert sorted(answer.json["status"] for answer in answers) == ["accepted"] + ["duplicate"] * 19
    await running.settled("delivered")
    assert len(erp.requests) == 1


async def test_same_id_from_another_source_is_another_event(relay: StartRelay, erp: Receiver) -> None:
    running = await relay(
        sources={"sandbox": {"path": "/other", "auth": [{"username": "s", "password": "p"}]}}
    )
    await running.post()
    answer = await running.post(path="/other", auth=encode_basic_auth("s", "p"))
    assert answer.json["status"] == "accepted"
    await erp.arrived(2)


async def test_credentials_of_one_source_are_not_those_of_another(relay: StartRelay) -> None:
    running = await relay(sources={"sandbox": {"auth": [{"username": "s", "password": "p"}]}})
    refused(await running.post(auth=encode_basic_auth("s", "p")), 401, folder=running.folder)


async def test_event_without_a_destination_is_accepted_and_kept(relay: StartRelay) -> None:
    running = await relay(routes=[{"match": {"eventType": "INVOICE"}, "to": ["erp"]}])
    answer = await running.post(ORDER)
    assert answer.json == {"status": "accepted", "eventId": "e-1", "deliveries": 0}
    assert running.rows("SELECT event_id, unrouted FROM events") == [("e-1", 1)]


# ---- what counts as an event


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"test": True},
        {"eventId": None},
        {"eventId": 5},
        {"eventId": ["a"]},
        {"eventId": {"a": 1}},
        {"eventId": ""},
        {"eventId": "x" * 256},
        {"eventId": True, "eventType": ["ORDER"], "transactionStatus": {"a": None}, "orderId": 1.5e300},
    ],
    ids=str,
)
async def test_object_without_a_usable_id_is_accepted_under_its_hash(running: Running, payload: Any) -> None:
    body = json.dumps(payload).encode()
    answer = await running.post(body)
    event_id = f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert answer.json == {"status": "accepted", "eventId": event_id, "deliveries": 1}
    assert running.events() == [(event_id, body)]
    await running.settled("delivered")


@pytest.mark.parametrize("event_id", ["x", "x" * 255, "ä€😀", " ", "a\nb", '"', "../../etc/passwd", "\u2028"])
async def test_text_of_1_to_255_characters_is_a_usable_id(running: Running, event_id: str) -> None:
    answer = await running.post({"eventId": event_id})
    assert answer.json["eventId"] == event_id
    await running.settled("delivered")


async def test_id_of_a_megabyte_is_not_used_and_does_no_harm(relay: StartRelay) -> None:
    running = await relay(server={"max_body": "4MiB"})
    answer = await running.post({"eventId": "x" * 1_000_000, "eventType": "y" * 1_000_000})
    assert answer.json["eventId"].startswith("sha256:")
    await running.settled("delivered")


@pytest.mark.parametrize(
    "body",
    [
        b'{"eventId": 1e999}',
        b'{"eventType": -0.0, "transactionStatus": 1E400}',
        b'{"eventType": ' + b"9" * 5000 + b"}",
        b'{"eventType": "' + "\U0001f600".encode() * 1000 + b'"}',
        b'{"\\ud83d\\ude00": "\\ud83d\\ude00"}',
        b' \t\r\n{"a": 1}\n\n',
        b'{"": ""}',
        b'{"__proto__": {"constructor": null}}',
        b"{" + b", ".join(b'"k%d": [[[]]]' % number for number in range(2000)) + b"}",
    ],
    ids=["infinity", "zero", "digits", "emoji", "pair", "blanks", "empty-key", "proto", "many-keys"],
)
async def test_unusual_object_is_accepted_and_delivered_as_it_is(
    running: Running, erp: Receiver, body: bytes
) -> None:
    assert (await running.post(body)).json["status"] == "accepted"
    (request,) = await erp.arrived(1)
    assert request.body == body


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "ä/ü", "x" * 1000]
)
async def test_content_type_does_not_matter(running: Running, content_type: str) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 2", f"Content-Type: {content_type}") + b"{}")
    assert (await wire.answer()).status == 200
    await running.settled("delivered")


@pytest.mark.parametrize(
    ("reason", "body"),
    [
        ("not-json", b""),
        ("not-json", b" "),
        ("not-json", b"{"),
        ("not-json", b'{"a": 1,}'),
        ("not-json", b"{'a': 1}"),
        ("not-json", b'{"a": 1} {"b": 2}'),
        ("not-json", b'{"a": "\n"}'),
        ("not-json", b"<xml/>"),
        ("not-json", b'{"a": NaN}'),
        ("not-json", b'{"a": Infinity}'),
        ("not-json", b'{"a": [-Infinity]}'),
        ("not-json", b"NaN"),
        ("not-json", b'\xef\xbb\xbf{"a": 1}'),
        ("not-json", b"eventId=1"),
        ("not-json", b"\x00"),
        ("not-an-object", b"[]"),
        ("not-an-object", b'[{"eventId": "e"}]'),
        ("not-an-object", b'"text"'),
        ("not-an-object", b"5"),
        ("not-an-object", b"null"),
        ("not-an-object", b"true"),
        ("not-utf-8", b'{"a": "\xe4"}'),
        ("not-utf-8", b'{"a": "\xed\xa0\x80"}'),
        ("not-utf-8", '{"a": 1}'.encode("utf-16")),
        ("too-deep", b"[" * 10_000 + b"]" * 10_000),
        ("too-deep", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        ("too-deep", b'{"a": ' + b"[" * 500_000),
        ("too-deep", b"[" * 101 + b'"' + b'\\"' * 400_000),
        ("duplicate-keys", b'{"eventId": "a", "eventId": "b"}'),
        ("duplicate-keys", b'{"a": {"b": 1, "b": 1}}'),
        ("duplicate-keys", b'{"eventId": "a", "event\\u0049d": "b"}'),
        ("unstorable-text", b'{"eventId": "a\\u0000b"}'),
        ("unstorable-text", b'{"eventId": "\\ud800"}'),
        ("unstorable-text", b'{"a": ["\\udfff\\ud800"]}'),
        ("unstorable-text", b'{"\\uDC00": 1}'),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:24]),
)
async def test_what_is_no_json_object_is_refused_and_quarantined(
    running: Running, reason: str, body: bytes
) -> None:
    refused(await running.post(body), 400, folder=running.folder)
    assert running.quarantine() == [(reason, body)]
    assert running.events() == []
    assert (
        await running.metric(
            "itscope_relay_events_total", source="itscope", event_type="other", outcome="quarantined"
        )
        == 1
    )


async def test_quarantine_keeps_the_same_bytes_once(running: Running) -> None:
    for _ in range(3):
        await running.post(b"nonsense")
    assert running.rows("SELECT reason, times, content_type FROM quarantine") == [
        ("not-json", 3, "application/json")
    ]


# ---- credentials


def basic(credentials: bytes) -> str:
    return "Basic " + base64.b64encode(credentials).decode()


@pytest.mark.parametrize(
    "auth",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic " + "=" * 8,
        basic(b""),
        basic(b":"),
        basic(b"itscope"),
        basic(b"itscope:"),
        basic(b":wonderful-secret-1"),
        basic(b"itscope:wonderful-secret-2"),
        basic(b"itscope:wonderful-secret-1 "),
        basic(b"itscope:wonderful-secret-1\n"),
        basic(b"itscope:wonderful-secret-1\x00"),
        basic(b"ITSCOPE:wonderful-secret-1"),
        basic(b"other:wonderful-secret-1"),
        basic(b"\xff\xfe:\xff"),
        basic("itscope:ẅonderful-secret-1".encode()),
        basic(b"itscope:" + b"x" * 6000),
        RIGHT.replace("Basic", "Bearer"),
        RIGHT + ", " + RIGHT,
        RIGHT + "x",
        RIGHT[:-4] + "\xe4\xe4\xe4\xe4",
        "Digest username=itscope",
    ],
    ids=repr,
)
async def test_wrong_credentials_are_refused_and_nothing_is_kept(running: Running, auth: str | None) -> None:
    wire = await running.wire()
    lines = [] if auth is None else [f"Authorization: {auth}"]
    await wire.send(head(*lines, "Content-Length: 2", auth=None) + b"{}")
    answer = await wire.answer()
    refused(answer, 401, folder=running.folder)
    assert answer.headers["WWW-Authenticate"] == CHALLENGE
    assert running.events() == running.quarantine() == []


@pytest.mark.parametrize(("first", "second"), [(RIGHT, RIGHT), (RIGHT, "Basic eDp5"), ("Basic eDp5", RIGHT)])
async def test_two_authorization_headers_are_refused(running: Running, first: str, second: str) -> None:
    await running.post({"a": 1})  # so that the right one is remembered
    wire = await running.wire()
    await wire.send(
        head(f"Authorization: {first}", f"Authorization: {second}", "Content-Length: 2", auth=None) + b"{}"
    )
    refused(await wire.answer(), 401, folder=running.folder)
    assert len(running.events()) == 1


@pytest.mark.parametrize("scheme", ["Basic ", "basic ", "BASIC   "])
async def test_scheme_may_be_written_in_any_case(running: Running, scheme: str) -> None:
    assert (await running.post(auth=RIGHT.replace("Basic ", scheme))).status == 200


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
async def test_password_with_umlauts_is_right_in_utf_8_and_in_latin_1(
    relay: StartRelay, charset: str
) -> None:
    running = await relay(sources={"itscope": {"auth": [{"username": "jürgen", "password": "größe:ß"}]}})
    assert (await running.post(auth=basic("jürgen:größe:ß".encode(charset)))).status == 200
    refused(await running.post(auth=basic("jürgen:größe:s".encode(charset))), 401, folder=running.folder)


async def test_any_of_several_accounts_will_do_and_each_with_its_own_password(relay: StartRelay) -> None:
    running = await relay(
        sources={
            "itscope": {
                "auth": [
                    {"username": USER, "password": "new"},
                    {"username": USER, "password": "old"},
                    {"username": "third", "password": "one"},
                ]
            }
        }
    )
    for username, password in ((USER, "new"), (USER, "old"), ("third", "one")):
        assert (await running.post(auth=encode_basic_auth(username, password))).status == 200
    for username, password in ((USER, "one"), ("third", "new"), ("third", "old")):
        answer = await running.post(auth=encode_basic_auth(username, password))
        refused(answer, 401, folder=running.folder)


async def test_flood_of_guesses_is_bounded_and_locks_nobody_out(relay: StartRelay) -> None:
    costs = Costs(ln=10, r=1, p=1)
    hashed = str(PasswordHash(costs, b"s" * 16, costs.derive(b"hunter2", b"s" * 16, 32)))
    running = await relay(
        sources={"itscope": {"auth": [{"username": USER, "password_hash": hashed}]}},
        admin={"auth": [{"username": USER, "password_hash": hashed}]},
    )
    guesses = [encode_basic_auth(USER, f"guess-{number}") for number in range(MAX_CHECKS + 10)]
    answers = await asyncio.gather(*(running.post(auth=guess) for guess in guesses))
    assert {answer.status for answer in answers} == {401, 503}
    for answer in answers:
        refused(answer, answer.status, folder=running.folder)
        assert ("Retry-After" in answer.headers) == (answer.status == 503)
    assert running.events() == []
    answers = await asyncio.gather(
        *(running.ask("/metrics", headers={"Authorization": guess}) for guess in guesses)
    )
    assert {(answer.status, answer.json["code"]) for answer in answers} == {
        (401, "unauthorized"),
        (503, "unavailable"),
    }
    assert (await running.post(auth=encode_basic_auth(USER, "hunter2"))).status == 200


async def test_account_may_have_a_password_hash(relay: StartRelay) -> None:
    costs = Costs(10, 8, 1)  # the least that are taken
    hashed = str(PasswordHash(costs, b"s" * 16, costs.derive(b"hunter2", b"s" * 16, 32)))
    running = await relay(sources={"itscope": {"auth": [{"username": USER, "password_hash": hashed}]}})
    for _ in range(2):
        assert (await running.post(auth=encode_basic_auth(USER, "hunter2"))).status == 200
    refused(await running.post(auth=encode_basic_auth(USER, "hunter3")), 401, folder=running.folder)
    refused(await running.post(auth=encode_basic_auth(USER, hashed)), 401, folder=running.folder)


async def test_account_may_have_a_password_file(relay: StartRelay, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    running = await relay(sources={"itscope": {"auth": [{"username": USER, "password_file": "password"}]}})
    assert (await running.post(auth=encode_basic_auth(USER, "from a file"))).status == 200


async def test_many_failed_logins_do_not_lock_out_right_credentials(running: Running) -> None:
    wrong = (running.post(auth=encode_basic_auth(USER, f"guess-{number}")) for number in range(9))
    assert {answer.status for answer in await asyncio.gather(*wrong)} == {401}
    assert (await running.post()).status == 200


async def test_failed_logins_are_counted_for_the_address_that_a_trusted_proxy_names(
    relay: StartRelay,
) -> None:
    running = await relay(server={"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]})
    wrong = encode_basic_auth(USER, "wrong")
    for _ in range(5):
        await running.post(auth=wrong, headers=[("X-Forwarded-For", "198.51.100.1, 203.0.113.9, 10.1.2.3")])
    now = running.clock()
    penalty = running.relay._throttle.penalty_seconds
    assert penalty("203.0.113.9", now) > 0
    for address in ("127.0.0.1", "10.1.2.3", "198.51.100.1"):
        assert penalty(address, now) == 0


async def test_forwarded_address_of_an_untrusted_client_is_not_believed(running: Running) -> None:
    for _ in range(5):
        await running.post(auth="Basic eDp5", headers=[("X-Forwarded-For", "203.0.113.9")])
    penalty = running.relay._throttle.penalty_seconds
    assert penalty("127.0.0.1", running.clock()) > 0
    assert penalty("203.0.113.9", running.clock()) == 0


@pytest.mark.parametrize(
    "forwarded", ["", ",,,", "nonsense", "203.0.113.9, nonsense", "1" * 5000, "::1%\xe4"]
)
async def test_broken_forwarded_addresses_do_no_harm(relay: StartRelay, forwarded: str) -> None:
    running = await relay(server={"trusted_proxies": ["127.0.0.1"]})
    wire = await running.wire()
    for auth in ("Basic eDp5", RIGHT):
        await wire.send(head(f"X-Forwarded-For: {forwarded}", "Content-Length: 2", auth=auth) + b"{}")
        assert (await wire.answer()).status == (200 if auth is RIGHT else 401)


# ---- path, method, size


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/itscope/",
        "/webhooks/other",
        "/metrics",
        "/-/reload",
        "/-/healthy",
        "/webhooks/../webhooks/x",
        "/webhooks/itscopE",
    ],
)
async def test_unknown_path_is_answered_404(running: Running, path: str) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 2", target=path) + b"{}")
    refused(await wire.answer(), 404, folder=running.folder)
    assert running.events() == running.quarantine() == []


async def test_query_does_not_matter(running: Running) -> None:
    assert (await running.post(path=f"{PATH}?a=b&c")).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_other_methods_are_answered_405_with_allow(running: Running, method: str) -> None:
    answer = await running.post(method=method)
    refused(answer, 405, folder=running.folder)
    assert answer.headers["Allow"] == "POST"
    assert running.events() == running.quarantine() == []


async def test_head_is_answered_405_without_a_body(running: Running) -> None:
    answer = await running.post(b"", method="HEAD")
    assert (answer.status, answer.headers["Allow"], answer.body) == (405, "POST", b"")


async def test_body_of_the_largest_size_is_accepted_and_one_byte_more_is_not(
    relay: StartRelay, erp: Receiver
) -> None:
    running = await relay(server={"max_body": "64KiB"})
    largest = b'{"a": "' + b"x" * (65536 - 9) + b'"}'
    assert len(largest) == 65536
    assert (await running.post(largest)).status == 200
    refused(await running.post(largest + b" "), 413, folder=running.folder)
    (request,) = await erp.arrived(1)
    assert request.body == largest
    assert len(running.events()) == 1


async def test_body_of_two_megabytes_is_answered_413(running: Running) -> None:
    answer = await running.post(b'{"a": "' + b"x" * 2_000_000 + b'"}')
    refused(answer, 413, folder=running.folder)
    assert running.events() == running.quarantine() == []


async def test_chunked_body_of_two_megabytes_is_answered_413(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Transfer-Encoding: chunked"))
    for _ in range(32):
        await wire.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    refused(await wire.answer(), 413, folder=running.folder)
    assert running.events() == running.quarantine() == []


async def test_body_that_claims_to_be_huge_is_answered_413_before_it_comes(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 999999999999"))
    answer = await wire.answer()
    refused(answer, 413, folder=running.folder)
    assert answer.headers["Connection"] == "close"


async def test_chunked_body_is_accepted(running: Running) -> None:
    wire = await running.wire()
    await wire.send(
        head("Transfer-Encoding: chunked") + b'4\r\n{"a"\r\n4;x=y\r\n: 1}\r\n0\r\nTrailer: x\r\n\r\n'
    )
    assert (await wire.answer()).json["status"] == "accepted"
    assert running.events()[0][1] == b'{"a": 1}'


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, gzip", "x"])
async def test_content_encoding_is_answered_415_whatever_the_body_holds(
    running: Running, encoding: str
) -> None:
    for body in (gzip.compress(b"{}"), b"\x1f\x8b\x08 broken", gzip.compress(b"\0" * 50_000_000)[:60_000]):
        answer = await running.post(body, headers=[("Content-Encoding", encoding)])
        refused(answer, 415, folder=running.folder)
    assert running.events() == running.quarantine() == []


@pytest.mark.parametrize(
    ("lines", "status"), [(["Content-Length: 99999999"], 413), (["Content-Encoding: gzip"], 415)]
)
async def test_what_is_refused_in_spite_of_right_credentials_stands_in_the_log(
    running: Running, caplog: pytest.LogCaptureFixture, lines: list[str], status: int
) -> None:
    for auth in (None, RIGHT):
        wire = await running.wire()
        await wire.send(head(*lines, auth=auth))
        refused(answer := await wire.answer(), status if auth else 401, folder=running.folder)
    said = [record for record in caplog.records if record.message == "request.refused"]
    assert [record.__dict__["fields"] for record in said] == [
        {"source": "itscope", "status": status, "error": answer.json["error"]}
    ]


async def test_second_content_encoding_is_not_overlooked(running: Running) -> None:
    both = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    refused(await running.post(headers=both), 415, folder=running.folder)


async def test_content_encoding_identity_is_none(running: Running) -> None:
    assert (await running.post(headers=[("Content-Encoding", "identity")])).status == 200


async def test_slow_body_is_answered_408(relay: StartRelay) -> None:
    running = await relay(server={"body_timeout": "50ms"})
    wire = await running.wire()
    await wire.send(head("Content-Length: 100") + b'{"a": ')
    answer = await wire.answer()
    refused(answer, 408, folder=running.folder)
    assert answer.headers["Connection"] == "close"
    assert await wire.rest() == b""
    assert running.events() == running.quarantine() == []


async def test_trickling_body_is_answered_408(relay: StartRelay) -> None:
    running = await relay(server={"body_timeout": "100ms"})
    wire = await running.wire()
    await wire.send(head("Content-Length: 100000"))
    answering = asyncio.ensure_future(wire.answer())
    while not answering.done():
        await wire.send(b" ")
        await asyncio.wait({answering}, timeout=0.01)
    refused(await answering, 408, folder=running.folder)


async def test_connection_without_a_request_is_closed(relay: StartRelay) -> None:
    running = await relay(server={"idle_timeout": "50ms"})
    for sent in (b"", b"POST /webh", head()[:-2]):
        wire = await running.wire()
        await wire.send(sent)
        assert await wire.rest() == b""


async def test_connection_is_kept_for_further_webhooks(running: Running) -> None:
    wire = await running.wire()
    for number in range(3):
        body = b'{"eventId": "%d"}' % number
        await wire.send(head(f"Content-Length: {len(body)}") + body)
        assert (await wire.answer()).json["status"] == "accepted"


async def test_kept_connection_that_rests_too_long_is_closed(relay: StartRelay) -> None:
    running = await relay(server={"idle_timeout": "50ms"})
    wire = await running.wire()
    await wire.send(head("Content-Length: 2") + b"{}")
    assert (await wire.answer()).status == 200
    assert await wire.rest() == b""


def made_impatient(running: Running) -> bool:
    """Have the store wait 20 ms for another writer and not five seconds; False while it is at work."""
    try:
        running.relay._store._commits._connection.set_busy_timeout(20)  # type: ignore[attr-defined]
    except apsw.ThreadingViolationError:
        return False
    return True


async def test_store_that_can_not_write_is_answered_503_and_works_again(relay: StartRelay) -> None:
    running = await relay()
    await until(lambda: made_impatient(running))
    with locked(running.folder / "relay.db"):
        for body in (b'{"eventId": "e"}', b"nonsense"):
            answer = await running.post(body)
            refused(answer, 503, folder=running.folder)
            assert int(answer.headers["Retry-After"]) > 0
        ready = await running.ask("/-/ready")
        assert (ready.status, list(ready.json)) == (503, ["error", "code"])
    assert running.events() == running.quarantine() == []
    assert (await running.post(b'{"eventId": "e"}')).json["status"] == "accepted"

    async def ready_again() -> bool:  # an answer is remembered for a second
        return (await running.ask("/-/ready")).status == 200

    await until(ready_again)
    await running.settled("delivered")


async def test_each_answer_is_counted_by_source_and_code(running: Running) -> None:
    await running.post()
    await running.post()
    await running.post(b"x")
    await running.post(auth=None)
    await running.post(path="/elsewhere")
    samples = await running.metrics()
    counted = {
        tuple(sorted(dict(labels).values())): value
        for (name, labels), value in samples.items()
        if name == "itscope_relay_requests_total" and value
    }
    assert counted == {
        ("200", "itscope"): 2,
        ("400", "itscope"): 1,
        ("401", "itscope"): 1,
        ("-", "404"): 1,
    }
    await until(lambda: running.deliveries() == [("delivered", 1)])
