"""ITscope's documented sample through the example configuration, posted as ITscope's guide would have it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from relay import __version__
from relay.samples import DOCUMENTED_SAMPLE
from tests.e2e.receiver import Receive, Receiver
from tests.e2e.relay_process import RelayProcess, Start, event, until

EVENT_ID = "e2a6a466-3b62-4bb7-af53-b59aec592b49"
CREDENTIALS = "itscope:change-me"
SAMPLE = Path(__file__).parents[1] / "data" / "sample.json"
CURL_OPTIONS = (
    *("--silent", "--show-error", "--fail-with-body", "--max-time", "20"),
    *("--user", CREDENTIALS, "--header", "Content-Type: application/json"),
)


EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def example_config(folder: Path, receivers: dict[str, Receiver]) -> Path:
    """Write config.example.yaml with other ports, and nothing else changed."""
    text = EXAMPLE.read_text(encoding="utf-8")
    for port, receiver in zip((9001, 9002, 9003), receivers.values(), strict=True):
        text, found = re.subn(rf"127\.0\.0\.1:{port}\b", f"127.0.0.1:{receiver.port}", text)
        assert found == 1
    text = text.replace("listen: 0.0.0.0:8080", "listen: 127.0.0.1:0")
    text = text.replace("listen: 127.0.0.1:8081", "listen: 127.0.0.1:0")
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def post(url: str, file: Path) -> dict[str, object]:
    """Post a file with curl, or with Python where there is none; return the answer."""
    if curl := shutil.which("curl"):
        done = subprocess.run(
            [curl, *CURL_OPTIONS, "--data-binary", f"@{file}", url],
            capture_output=True,
            check=True,
        )
        answer = done.stdout
    else:
        request = urllib.request.Request(url, file.read_bytes(), {"Content-Type": "application/json"})  # noqa: S310 (the relay's)
        request.add_header("Authorization", f"Basic {base64.b64encode(CREDENTIALS.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 (the relay's)
            answer = response.read()
    decoded: dict[str, object] = json.loads(answer)
    return decoded


@pytest.fixture
async def receivers(receive: Receive) -> dict[str, Receiver]:
    return {name: await receive() for name in ("erp", "accounting", "crm")}


@pytest.fixture
async def relay(start: Start, receivers: dict[str, Receiver], tmp_path: Path) -> RelayProcess:
    return await start(example_config(tmp_path, receivers))


def test_the_sample_in_the_tests_is_the_one_that_send_sends() -> None:
    assert SAMPLE.read_bytes() == DOCUMENTED_SAMPLE


async def test_the_documented_sample_arrives_where_its_routes_say_byte_for_byte_and_once(
    relay: RelayProcess, receivers: dict[str, Receiver], client: aiohttp.ClientSession
) -> None:
    answer = await asyncio.to_thread(post, relay.ingress, SAMPLE)
    assert answer == {"status": "accepted", "eventId": EVENT_ID, "deliveries": 1}
    await until(lambda: relay.owes_nothing(client))

    assert await asyncio.to_thread(post, relay.ingress, SAMPLE) == {
        "status": "duplicate",
        "eventId": EVENT_ID,
    }
    await until(lambda: relay.owes_nothing(client))
    assert await relay.metric(client, "itscope_relay_events_total", 'outcome="duplicate"') == 1

    assert {name: len(receiver.requests) for name, receiver in receivers.items()} == {
        "erp": 1,
        "accounting": 0,
        "crm": 0,
    }
    (received,) = receivers["erp"].requests
    assert (received.method, received.path) == ("POST", "/api/itscope")
    assert received.body == DOCUMENTED_SAMPLE
    headers = dict(received.headers)
    assert re.fullmatch(r"[0-9]+", headers.pop("X-Relay-Delivery-Id"))
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", headers.pop("traceparent"))
    assert headers == {
        "Host": f"127.0.0.1:{receivers['erp'].port}",
        "User-Agent": f"itscope-relay/{__version__}",
        "Content-Type": "application/json",
        "Content-Length": str(len(DOCUMENTED_SAMPLE)),
        "Idempotency-Key": EVENT_ID,
        "X-ITscope-Event-Id": EVENT_ID,
        "X-ITscope-Event-Type": "DELIVERY",
        "X-ITscope-Transaction-Status": "ADVISED",
        "X-Relay-Attempt": "1",
        "X-Company": "100",
        "Authorization": aiohttp.encode_basic_auth("relay", "change-me"),
    }


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"eventType": "INVOICE"}, {"erp", "accounting"}),
        ({"eventType": "ORDERRESPONSE", "transactionStatus": "CANCELLED"}, {"erp", "crm"}),
        (
            {"eventType": "ORDERRESPONSE", "transactionStatus": "CANCELLED", "orderId": "1-SAMPLE-2"},
            {"erp"},
        ),
    ],
)
async def test_the_example_configuration_sends_each_event_where_its_routes_say(
    fields: dict[str, str],
    wanted: set[str],
    relay: RelayProcess,
    receivers: dict[str, Receiver],
    tmp_path: Path,
) -> None:
    file = tmp_path / "webhook.json"
    file.write_bytes(event("one", **fields))
    assert (await asyncio.to_thread(post, relay.ingress, file))["deliveries"] == len(wanted)
    await until(lambda: all(receivers[name].taken for name in wanted))
    assert {name for name, receiver in receivers.items() if receiver.taken["one"]} == wanted
    assert all(received.body == file.read_bytes() for name in wanted for received in receivers[name].requests)
