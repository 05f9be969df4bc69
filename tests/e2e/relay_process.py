"""The installed command as a subprocess, its configuration, and polling with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import re
import signal
import ssl
import subprocess
import sysconfig
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import aiohttp

COMMAND = Path(sysconfig.get_path("scripts")) / "itscope-relay"
DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.02

USERNAME = "itscope"
PASSWORD = "ingress-password-5b1c"
AUTHORIZATION = {"Authorization": aiohttp.encode_basic_auth(USERNAME, PASSWORD)}

_LISTENING = re.compile(r"^listening on (\S+)$", re.MULTILINE)
_ADMIN = re.compile(r"^admin on (\S+)$", re.MULTILINE)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what the relay reads, and with more."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ITSCOPE_")}
    return kept | dict(extra or {})


def run(
    *arguments: str | Path,
    stdin: str = "",
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end and return what it printed; no command may show a traceback."""
    done = subprocess.run(
        [COMMAND, *arguments],
        input=stdin,
        cwd=folder,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS * 2,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


async def until(probe: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until the probe, or what it awaits, is true; fail after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        result = probe()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, f"not so within {seconds:g} s: {inspect.getsource(probe).strip()}"
        await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def connect(
    url: str, trust: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open one connection to a URL's address, with TLS if a context is given."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(
        address.hostname, address.port, ssl=trust, server_hostname="localhost" if trust else None
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # the relay was faster
            await writer.wait_closed()


def configuration(destinations: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """Return a configuration on free ports; without `routes`, everything goes to every destination.

    Args:
        destinations: name to URL, or to a mapping of options.
        sections: replace or add whole sections.
    """
    return {
        "server": {"listen": "127.0.0.1:0"},
        "admin": {"listen": "127.0.0.1:0"},
        "store": {"url": "sqlite:///relay.db"},
        "sources": {"itscope": {"auth": [{"username": USERNAME, "password": PASSWORD}]}},
        "destinations": {
            name: {"url": options} if isinstance(options, str) else options
            for name, options in destinations.items()
        },
        "routes": [{"name": "everything", "to": list(destinations)}],
        **sections,
    }


def write_config(folder: Path, destinations: Mapping[str, Any], **sections: Any) -> Path:
    """Write a configuration (JSON is YAML) and return its path; an old one is replaced at once."""
    path = folder / "config.yaml"
    draft = folder / "config.draft"
    draft.write_text(json.dumps(configuration(destinations, **sections), indent=2), encoding="utf-8")
    return draft.rename(path)


def event(event_id: str | None = None, **fields: Any) -> bytes:
    """Return a webhook's body; fields may replace or add some."""
    payload = {
        "eventId": event_id or str(uuid.uuid4()),
        "eventType": "ORDER",
        "transactionStatus": "SENT",
        "orderId": "PO-1",
        **fields,
    }
    return json.dumps(payload).encode()


class RelayProcess:
    """One `itscope-relay serve`. Whoever starts it ends it."""

    def __init__(
        self,
        config: Path,
        folder: Path,
        *options: str,
        command: Sequence[str | Path] = (COMMAND,),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        number = len(list(folder.glob("stderr-*")))
        self._stdout = folder / f"stdout-{number}"
        self._stderr = folder / f"stderr-{number}"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, "serve", "-c", config, *options],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment(variables),
            )
        self.ingress = ""
        self.admin = ""

    async def started(self) -> Self:
        """Wait until it says where it listens."""
        await until(lambda: _ADMIN.search(self.output) or not self.runs)
        assert self.runs, f"ended with {self.process.returncode}: {self.errors}"
        listening, admin = _LISTENING.search(self.output), _ADMIN.search(self.output)
        assert listening is not None
        assert admin is not None
        self.ingress, self.admin = listening[1], admin[1]
        return self

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return self._stdout.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return self._stderr.read_text(encoding="utf-8")

    def facts(self, fact: str | None = None) -> list[dict[str, Any]]:
        """Return the log's complete lines, decoded; those of one fact, or all."""
        lines = self.errors.rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, lines) if fact in {None, line["fact"]}]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def reload(self) -> None:
        """Ask for the configuration to be read again, and wait for the result, whichever it is."""

        def results() -> int:
            return len(self.facts("config.reloaded") + self.facts("config.rejected"))

        before = results()
        self.signal(signal.SIGHUP)
        await until(lambda: results() > before)

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""
        await until(lambda: not self.runs)
        return self.process.wait()

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self.process.kill()
        self.process.wait()

    async def post(self, client: aiohttp.ClientSession, body: bytes) -> tuple[int, dict[str, Any]]:
        """Post a webhook as ITscope would, and return the answer."""
        headers = {"Content-Type": "application/json", **AUTHORIZATION}
        async with client.post(self.ingress, data=body, headers=headers) as response:
            return response.status, await response.json()

    async def metric(self, client: aiohttp.ClientSession, name: str, *labels: str) -> float:
        """Return the sum of a metric's samples whose labels hold all the given texts."""
        samples = [
            float(line.rpartition(" ")[2])
            for line in await self._scrape(client)
            if line.startswith((f"{name}{{", f"{name} ")) and all(label in line for label in labels)
        ]
        assert samples, f"there is no metric {name} with {labels}"
        return sum(samples)

    async def owes_nothing(self, client: aiohttp.ClientSession) -> bool:
        """Tell whether no delivery is pending or in flight; of one scrape, since they change places."""
        backlog = [
            line
            for line in await self._scrape(client)
            if line.startswith("itscope_relay_backlog{") and 'state="dead"' not in line
        ]
        assert backlog
        return all(line.endswith(" 0.0") for line in backlog)

    async def _scrape(self, client: aiohttp.ClientSession) -> list[str]:
        async with client.get(f"{self.admin}/metrics") as response:
            return (await response.text()).splitlines()


class Start(Protocol):
    """Starts a relay, which is ended with the test."""

    def __call__(
        self,
        config: Path,
        *options: str,
        command: Sequence[str | Path] = (COMMAND,),
        variables: Mapping[str, str] | None = None,
    ) -> Awaitable[RelayProcess]: ...
