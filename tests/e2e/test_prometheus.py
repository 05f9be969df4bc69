"""A real Prometheus scrapes a real relay, with the alerts of deploy/prometheus in shorter times."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.e2e.receiver import Receive, Received
from tests.e2e.relay_process import RelayProcess, Start, event, until, write_config

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
SECONDS = 2  # how old an event may become here


def tool(name: str) -> str:
    """Return where a program of Prometheus is."""
    found = shutil.which(name)
    if found is None and "CI" not in os.environ:
        pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus)")
    assert found is not None
    return found


def shortened_rules() -> str:
    """Return the alerts, of which the one on old events comes after seconds and not after half an hour."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for rule in rules["groups"][0]["rules"]:
        rule.pop("for", None)
        if rule["alert"] == "ItscopeRelayUndelivered":
            rule["expr"], changed = re.subn(r"> 1800\b", f"> {SECONDS}", rule["expr"])
            assert changed == 1
    return yaml.safe_dump(rules)


class Prometheus:
    """One Prometheus that scrapes one relay, as its HTTP API shows it."""

    def __init__(self, url: str, client: aiohttp.ClientSession) -> None:
        self._url = url
        self._client = client

    async def is_ready(self) -> bool:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with self._client.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        return False

    async def targets(self) -> list[dict[str, Any]]:
        """Return what is scraped."""
        return list((await self._get("targets"))["activeTargets"])

    async def firing(self) -> dict[str, dict[str, Any]]:
        """Return each alert that fires, by name."""
        alerts = (await self._get("alerts"))["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    async def _get(self, what: str) -> Any:
        async with self._client.get(f"{self._url}/api/v1/{what}") as response:
            return (await response.json())["data"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def prometheus(
    folder: Path, relay: RelayProcess, client: aiohttp.ClientSession
) -> AsyncIterator[Prometheus]:
    """Run Prometheus on loopback, as short of time as it can be."""
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": "itscope-relay",
                "static_configs": [{"targets": [relay.admin.removeprefix("http://")]}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "rules.yaml").write_text(shortened_rules(), encoding="utf-8")
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        running = Prometheus(f"http://127.0.0.1:{port}", client)
        await until(running.is_ready)
        yield running
    finally:
        process.kill()
        process.wait()


async def test_alert_on_an_old_event_fires_and_ends(
    tmp_path: Path, start: Start, receive: Receive, client: aiohttp.ClientSession
) -> None:
    tool("prometheus")
    answers = asyncio.Event()

    async def hang(_received: Received) -> int:
        await answers.wait()
        return 200

    erp, crm = await receive(hang), await receive()
    relay = await start(write_config(tmp_path, {"erp": erp.url, "crm": crm.url}))
    async with prometheus(tmp_path, relay, client) as watching:

        async def is_scraped() -> bool:
            return [target["health"] for target in await watching.targets()] == ["up"]

        await until(is_scraped)
        assert "ItscopeRelayUndelivered" not in await watching.firing()
        status, _ = await relay.post(client, event())
        assert status == 200

        async def fires() -> bool:
            return "ItscopeRelayUndelivered" in await watching.firing()

        await until(fires)
        alert = (await watching.firing())["ItscopeRelayUndelivered"]
        assert alert["labels"]["destination"] == "erp"
        assert alert["labels"]["severity"] == "page"
        assert float(alert["value"]) > SECONDS
        assert alert["annotations"]["summary"].startswith("erp has not taken an event for ")
        assert alert["annotations"]["action"]

        answers.set()

        async def fires_no_more() -> bool:
            return not await fires()

        await until(fires_no_more)


async def test_promtool_finds_no_fault_with_what_is_served(
    tmp_path: Path, start: Start, receive: Receive, client: aiohttp.ClientSession
) -> None:
    promtool = tool("promtool")
    erp = await receive()
    relay = await start(write_config(tmp_path, {"erp": erp.url}))
    await relay.post(client, event())
    await until(lambda: erp.requests)
    async with client.get(f"{relay.admin}/metrics") as response:
        text = await response.read()
    done = subprocess.run(  # noqa: ASYNC221
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
