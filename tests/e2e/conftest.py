"""What the end-to-end tests share: relays as subprocesses, destinations, an HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.receiver import Receive, Receiver, Script, accept
from tests.e2e.relay_process import COMMAND, RelayProcess, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start relays; each is ended by its own process id."""
    relays: list[RelayProcess] = []

    async def start(
        config: Path,
        *options: str,
        command: Sequence[str | Path] = (COMMAND,),
        variables: Mapping[str, str] | None = None,
    ) -> RelayProcess:
        relays.append(RelayProcess(config, tmp_path, *options, command=command, variables=variables))
        return await relays[-1].started()

    yield start
    for relay in relays:
        relay.kill()


@pytest.fixture
async def receive() -> AsyncIterator[Receive]:
    """Start receivers."""
    receivers: list[Receiver] = []

    async def receive(script: Script = accept) -> Receiver:
        receiver = Receiver(script)
        receivers.append(receiver)
        await receiver.start()
        return receiver

    yield receive
    for receiver in receivers:
        await receiver.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Return a client whose every request is bounded."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session
