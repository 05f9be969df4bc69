"""What speaks bad HTTP, or none: the answer is never a 5xx, and says nothing about the inside."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.http.conftest import StartRelay
from tests.http.world import RIGHT, Answer, Running, Wire, head, refused

BODY = b'{"eventId": "e"}'
NOT_ALLOWED = "itscope_relay_requests_total", frozenset({("source", "itscope"), ("code", "405")})


SENTENCES = {
    "the request is not valid HTTP",
    "the body is not valid HTTP",
    "credentials are missing or wrong",  # of what can pass for HTTP/0.9, or has blanks too many
    "the body is not JSON: Expecting value at line 1, column 1",  # behind a chunk's long extension
}


async def answer_or_none(wire: Wire) -> Answer | None:
    """Return the answer, or None where the relay just hung up."""
    try:
        return await wire.answer()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\nnonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # TLS to the plain port
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST\r\n\r\n",
        b"POST /webhooks/itscope\r\n\r\n",
        b"POST /webhooks/itscope HTTP/9.9\r\nHost: relay\r\n\r\n",
        b"POST /webhooks/itscope HTTX/1.1\r\nHost: relay\r\n\r\n",
        b"POST  /webhooks/itscope  HTTP/1.1\r\nHost: relay\r\n\r\n",
        b"POST /webhooks/its\x00cope HTTP/1.1\r\nHost: relay\r\n\r\n",
        b"POST http://[::1/webhooks/itscope HTTP/1.1\r\nHost: relay\r\n\r\n",
        b"POST http://relay:99999999/webhooks/itscope HTTP/1.1\r\nHost: relay\r\n\r\n",
        b"BREW /webhooks/itscope HTTP/1.1\r\nHost: relay\r\n\r\n",
        b"POST /webhooks/itscope HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /webhooks/itscope HTTP/1.1\r\n: no name\r\n\r\n",
        b"POST /webhooks/itscope HTTP/1.1\r\nHost : relay\r\n\r\n",
        b"POST /webhooks/itscope HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"POST /webhooks/itscope HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /webhooks/itscope HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: relay\r\n\r\n",
        head("Content-Length: -1"),
        head("Content-Length: two"),
        head("Content-Length: 0x10"),
        head("Content-Length: 1_0"),
        head("Content-Length: +2"),
        head("Content-Length: " + "9" * 5000),
        head("Content-Length: 16", "Content-Length: 17") + BODY,
        head("Content-Length: 16", "Transfer-Encoding: chunked") + BODY,
        head("Transfer-Encoding: gzip") + BODY,
        head("Transfer-Encoding: chunked, identity") + BODY,
        head("Transfer-Encoding: chunked") + b"zz\r\n",
        head("Transfer-Encoding: chunked") + b"-5\r\nhello\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"5\r\nhello world\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"5;" + b"x" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:60]) if len(sent) < 300 else repr(sent[:60]) + str(len(sent)),
)
async def test_bad_http_is_refused_as_the_clients_fault(running: Running, sent: bytes) -> None:
    wire = await running.wire()
    await wire.send(sent)
    answer = await answer_or_none(wire)
    if answer is not None:
        assert 400 <= answer.status < 500
        assert refused(answer, answer.status, folder=running.folder) in SENTENCES
    assert running.events() == []
    assert (await running.post()).status == 200  # others don't notice


async def test_bad_http_is_counted(running: Running) -> None:
    wire = await running.wire()
    await wire.send(b"\r\n\r\nnonsense\r\n\r\n")
    assert (await wire.answer()).status == 400
    assert await running.metric("itscope_relay_requests_total", source="-", code="400") == 1


async def test_bad_chunk_in_the_middle_of_a_body_is_refused(relay: StartRelay) -> None:
    running = await relay(server={"body_timeout": "50ms"})
    wire = await running.wire()
    await wire.send(head("Transfer-Encoding: chunked", "Expect: 100-continue"))
    assert (await wire.answer()).status == 100  # the handler waits for the body now
    await wire.send(b'5\r\n{"a":\r\nzz\r\n')
    answer = await wire.answer()  # aiohttp stops reading then, so that it is the time-out that ends it
    assert answer.status in {400, 408}
    refused(answer, answer.status, folder=running.folder)
    assert running.events() == running.quarantine() == []


async def test_body_that_ends_too_early_is_not_accepted(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 100", "Expect: 100-continue"))
    assert (await wire.answer()).status == 100
    await wire.send(BODY)
    await wire.close()
    assert (await running.post({"eventId": "another"})).status == 200
    assert [event_id for event_id, _ in running.events()] == ["another"]


async def test_refused_body_is_not_taken_for_the_next_request(running: Running) -> None:
    smuggled = head("Content-Length: 16") + BODY
    wire = await running.wire()
    await wire.send(head(f"Content-Length: {len(smuggled)}", auth=None) + smuggled)
    refused(await wire.answer(), 401, folder=running.folder)
    await wire.send(head("Content-Length: 2") + b"{}")
    assert (await wire.answer()).json["eventId"].startswith("sha256:")
    assert len(running.events()) == 1


async def test_pipelined_requests_are_answered_in_order(running: Running) -> None:
    wire = await running.wire()
    bodies = [b'{"eventId": "%d"}' % number for number in range(10)]
    await wire.send(b"".join(head(f"Content-Length: {len(body)}") + body for body in bodies))
    assert [(await wire.answer()).json["eventId"] for _ in bodies] == [str(number) for number in range(10)]


async def test_many_requests_behind_one_that_came_in_pieces_are_answered(running: Running) -> None:
    wire = await running.wire()
    first, *bodies = (b'{"eventId": "%d"}' % number for number in range(41))
    await wire.send(head(f"Content-Length: {len(first)}"))
    await running.metric("itscope_relay_last_event_timestamp_seconds", source="itscope")  # time for the head
    await wire.send(first + b"".join(head(f"Content-Length: {len(body)}") + body for body in bodies))
    assert [(await wire.answer()).json["eventId"] for _ in range(41)] == [*map(str, range(41))]


async def test_expect_continue_is_answered_before_the_body(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 16", "Expect: 100-continue"))
    assert (await wire.answer()).status == 100
    await wire.send(BODY)
    assert (await wire.answer()).json["status"] == "accepted"


@pytest.mark.parametrize(
    ("status", "lines", "auth"),
    [(401, (), None), (413, ("Content-Length: 9999999",), RIGHT), (415, ("Content-Encoding: gzip",), RIGHT)],
)
async def test_expect_continue_of_a_refused_request_gets_the_refusal(
    running: Running, status: int, lines: tuple[str, ...], auth: str | None
) -> None:
    wire = await running.wire()
    length = () if "Content-Length" in "".join(lines) else ("Content-Length: 16",)
    await wire.send(head("Expect: 100-continue", *lines, *length, auth=auth))
    refused(await wire.answer(), status, folder=running.folder)


async def test_unknown_expectation_does_no_harm(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 16", "Expect: miracles") + BODY)
    assert (await wire.answer()).status in {200, 417}


@pytest.mark.parametrize(
    ("version", "lines", "says"),
    [
        ("HTTP/1.0", (), "close"),
        ("HTTP/1.0", ("Connection: keep-alive",), "keep-alive"),
        ("HTTP/1.1", ("Connection: close",), "close"),
        ("HTTP/1.1", (), None),
    ],
)
async def test_connection_is_kept_as_the_client_asks(
    running: Running, version: str, lines: tuple[str, ...], says: str | None
) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 16", *lines, version=version) + BODY)
    answer = await wire.answer()
    assert (answer.json["status"], answer.headers.get("Connection")) == ("accepted", says)
    if says == "close":
        assert await wire.rest() == b""
        return
    await wire.send(head("Content-Length: 16", *lines, version=version) + BODY)
    assert (await wire.answer()).json["status"] == "duplicate"


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="),
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("Connection: upgrade", "Upgrade: TLS/1.0"),
    ],
    ids=["websocket", "h2c", "tls"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_upgrade_is_ignored(running: Running, lines: tuple[str, ...], method: str) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 16", *lines, method=method) + BODY)
    answer = await wire.answer()
    if method == "POST":
        assert answer.json == {"status": "accepted", "eventId": "e", "deliveries": 1}
        assert running.events() == [("e", BODY)]
    else:
        refused(answer, 405, folder=running.folder)


async def test_connect_is_refused(running: Running) -> None:
    wire = await running.wire()
    await wire.send(head(method="CONNECT", target="erp.example:443"))
    answer = await answer_or_none(wire)
    assert answer is None or 400 <= answer.status < 500


@pytest.mark.parametrize("target", ["*", "http://relay/webhooks/itscope", "http://evil/webhooks/itscope"])
async def test_other_forms_of_a_target_do_no_harm(running: Running, target: str) -> None:
    wire = await running.wire()
    await wire.send(head("Content-Length: 16", target=target) + BODY)
    assert (await wire.answer()).status in {200, 400, 404}


async def test_slow_head_is_closed_and_others_are_served(relay: StartRelay) -> None:
    running = await relay(server={"idle_timeout": "200ms"})
    wires = [await running.wire() for _ in range(20)]
    for wire in wires:
        await wire.send(b"POST /webhooks/itscope HTTP/1.1\r\nHost: ")
    assert (await running.post()).status == 200
    for wire in wires:
        assert await wire.rest() == b""


async def test_client_that_reads_nothing_is_not_answered_without_end(running: Running) -> None:
    requests = 100_000  # their answers are more than the system keeps for the connection
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", running.relay.public.addresses[0][1]))
        sending = asyncio.ensure_future(loop.sock_sendall(client, head(method="GET") * requests))
        answered = [0]
        while len(answered) < 5 or not answered[-1] == answered[-4] > 0:  # no more of them for a while
            await asyncio.wait({sending}, timeout=0.2)
            answered.append(int((await running.metrics()).get(NOT_ALLOWED, 0)))
        sending.cancel()
        await asyncio.wait({sending})
    assert answered[-1] < requests


async def test_client_that_reads_nothing_and_leaves_does_no_harm(running: Running) -> None:
    for _ in range(20):
        wire = await running.wire()
        await wire.send((head("Content-Length: 2") + b"{}") * 20)
        await wire.close()
    assert (await running.post()).status == 200
