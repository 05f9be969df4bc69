"""What the log says, and what it must never say."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.receiver import Receive, Received
from tests.e2e.relay_process import (
    AUTHORIZATION,
    PASSWORD,
    RelayProcess,
    Start,
    connect,
    event,
    until,
    write_config,
)

SECRETS = {
    "the password of the source": PASSWORD,
    "the header with it": AUTHORIZATION["Authorization"].removeprefix("Basic "),
    "a wrong password": "guessed-password-77aa",
    "a basic password of a destination": "basic-password-c0de",
    "a bearer token": "bearer-token-f00d",
    "a secret header": "header-secret-beef",
    "a key in a URL": "url-key-d1ce",
    "a field of a payload": "PO-confidential-4711",
    "a body that is no JSON": "plain-confidential-4712",
    "a new password in a refused file": "rejected-password-4713",
}
TEXT_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (debug|info|warning|error) +[a-z_]+\.[a-z_]+( .*)?")


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_the_log_tells_what_happened_in_lines_without_secrets_or_bodies(
    log_format: str, start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    first_fails = await receive(_fail_first)
    rejects = await receive(_reject)
    destinations = {
        "takes": {
            "url": f"{first_fails.url}?key={SECRETS['a key in a URL']}",
            "auth": {
                "type": "basic",
                "username": "relay",
                "password": SECRETS["a basic password of a destination"],
            },
            "retry": {"initial": "10ms"},
        },
        "rejects": {"url": rejects.url, "auth": {"type": "bearer", "token": SECRETS["a bearer token"]}},
        "refuses": {
            "url": f"http://127.0.0.1:9/{SECRETS['a key in a URL']}",
            "auth": {"type": "header", "name": "X-Api-Key", "value": SECRETS["a secret header"]},
        },
    }
    routes = [{"name": "all", "match": {"eventType": "ORDER"}, "to": list(destinations)}]
    config = write_config(tmp_path, destinations, routes=routes)
    relay = await start(config, "--log-level", "debug", "--log-format", log_format)
    await _misbehave(relay, client)
    await until(lambda: first_fails.taken and rejects.requests)
    good = config.read_text(encoding="utf-8")
    config.write_text(
        good.replace(PASSWORD, SECRETS["a new password in a refused file"]).replace("bearer", "bear"),
        encoding="utf-8",
    )
    relay.signal(signal.SIGHUP)
    await until(lambda: "config.rejected" in relay.errors)
    await until(lambda: "delivery.dead" in relay.errors and "delivery.retried" in relay.errors)
    relay.signal(signal.SIGTERM)
    assert await relay.ended() == 0

    said = relay.errors + relay.output
    assert [what for what, secret in SECRETS.items() if secret in said] == []
    if log_format == "text":
        assert [line for line in relay.errors.splitlines() if not TEXT_LINE.fullmatch(line)] == []
        facts = {line.split()[2] for line in relay.errors.splitlines()}
    else:
        assert all(line["time"] and line["level"] for line in relay.facts())
        facts = {line["fact"] for line in relay.facts()}
    assert facts >= {
        "store.migrated",
        "relay.started",
        "event.accepted",
        "event.duplicate",
        "event.unrouted",
        "request.quarantined",
        "request.malformed",
        "delivery.retried",
        "delivery.delivered",
        "delivery.dead",
        "config.rejected",
        "relay.draining",
        "relay.stopped",
    }


async def _fail_first(received: Received) -> int:
    return 503 if received.attempt == 1 else 200


async def _reject(_received: Received) -> int:
    return 422


async def _misbehave(relay: RelayProcess, client: aiohttp.ClientSession) -> None:
    """Send one of everything: good, twice, conflicting, unrouted, no JSON, no HTTP, wrong credentials."""
    order = SECRETS["a field of a payload"]
    for body in (event("one", orderId=order), event("one", orderId=order), event("one", orderId=order + "x")):
        assert (await relay.post(client, body))[0] == 200
    assert (await relay.post(client, event("two", eventType="NEW", orderId=order)))[0] == 200
    not_json = SECRETS["a body that is no JSON"].encode()
    assert (await relay.post(client, not_json))[0] == 400
    wrong = aiohttp.encode_basic_auth("itscope", SECRETS["a wrong password"])
    async with client.post(relay.ingress, data=event(), headers={"Authorization": wrong}) as response:
        assert response.status == 401
    async with connect(relay.ingress) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nAuthorization " + order.encode() + b"\r\n\r\n")
        assert b" 400 " in await reader.readline()


async def test_the_default_log_is_quiet_about_what_goes_well(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    erp = await receive()
    relay = await start(write_config(tmp_path, {"erp": erp.url}))
    for _ in range(20):
        assert (await relay.post(client, event()))[0] == 200
    await until(lambda: relay.owes_nothing(client))
    relay.signal(signal.SIGTERM)
    assert await relay.ended() == 0
    assert [line["fact"] for line in relay.facts()] == [
        "store.migrated",
        "relay.started",
        "relay.draining",
        "relay.stopped",
    ]
