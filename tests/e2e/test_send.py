"""`send` plays ITscope against a running relay."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from pathlib import Path

import pytest

from relay.samples import DOCUMENTED_SAMPLE
from tests.e2e.receiver import Receive, Receiver
from tests.e2e.relay_process import PASSWORD, USERNAME, RelayProcess, Start, run, until, write_config

USER = f"{USERNAME}:{PASSWORD}"


@pytest.fixture
async def erp(receive: Receive) -> Receiver:
    return await receive()


@pytest.fixture
async def relay(start: Start, erp: Receiver, tmp_path: Path) -> RelayProcess:
    return await start(write_config(tmp_path, {"erp": erp.url}))


async def send(*arguments: str, user: str = USER) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, "send", *arguments, variables={"ITSCOPE_RELAY_USER": user})


async def test_send_plays_every_kind_of_webhook_once(relay: RelayProcess, erp: Receiver) -> None:
    sent = await send(relay.ingress)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout.startswith("7 x 200; latency mean ")
    await until(lambda: len(erp.taken) == 7)
    payloads = [json.loads(received.body) for received in erp.requests]
    assert {payload["eventType"] for payload in payloads} == {"ORDER", "ORDERRESPONSE", "DELIVERY", "INVOICE"}


async def test_send_sends_as_many_of_one_type_as_asked_and_reports_json(
    relay: RelayProcess, erp: Receiver
) -> None:
    options = ["--type", "ORDERRESPONSE", "--status", "CANCELLED", "--count", "25", "--rate", "500", "--json"]
    sent = await send(relay.ingress, *options, "--user", USER, user="nobody:nothing")
    assert sent.returncode == 0
    report = json.loads(sent.stdout)
    assert report.pop("answers") == {"200": 25}
    assert set(report) == {"p50_seconds", "p99_seconds"}
    await until(lambda: len(erp.taken) == 25)
    assert {received.headers["X-ITscope-Transaction-Status"] for received in erp.requests} == {"CANCELLED"}


async def test_send_sends_the_documented_sample_byte_for_byte(relay: RelayProcess, erp: Receiver) -> None:
    sent = await send(relay.ingress, "--sample", "--count", "3")
    assert (sent.returncode, sent.stdout[:7]) == (0, "3 x 200")
    await until(lambda: erp.taken)
    assert [received.body for received in erp.requests] == [DOCUMENTED_SAMPLE]


async def test_send_with_wrong_credentials_ends_with_1(relay: RelayProcess, erp: Receiver) -> None:
    sent = await send(relay.ingress, "--count", "2", user="itscope:wrong-password")
    assert sent.returncode == 1
    assert sent.stdout.startswith("2 x 401")
    assert "wrong-password" not in sent.stdout + sent.stderr
    assert erp.requests == []


async def test_send_says_that_nobody_listens_and_ends_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sent = await send(f"http://127.0.0.1:{port}/webhooks/itscope", "--count", "2")
    assert (sent.returncode, sent.stdout, sent.stderr) == (1, "2 x Connection refused\n", "")
    sent = await send(f"http://127.0.0.1:{port}/webhooks/itscope", "--count", "2", "--json")
    assert sent.returncode == 1
    assert json.loads(sent.stdout)["answers"] == {"Connection refused": 2}
