"""A relay that is going to be killed: the installed command, or `victim` around it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from pathlib import Path
from typing import Self

import aiohttp

from tests.e2e.relay_process import COMMAND, environment
from tests.lab import victim
from tests.lab.victim import Trap

_VICTIM = Path(victim.__file__)
_ADDRESS = re.compile(r"^(listening|admin) on (\S+)$")


class Relay:
    """One process. Whoever starts it ends it.

    Attributes:
        is_ready: set when it takes webhooks.
        ingress: where, then.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.is_ready = asyncio.Event()
        self.ingress = ""
        self._admin = ""

    @classmethod
    async def start(cls, config: Path, log: Path, trap: tuple[Trap, int] | None = None) -> Self:
        """Start a relay.

        Args:
            config: its configuration.
            log: where its errors are added.
            trap: of `victim`, with its number; None for the installed command.
        """
        command = [COMMAND] if trap is None else [sys.executable, "-P", _VICTIM, trap[0], str(trap[1])]
        with log.open("ab") as errors:
            return cls(
                await asyncio.create_subprocess_exec(
                    *command,
                    *("serve", "-c", config, "--log-level", "error"),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    env=environment(),
                )
            )

    @property
    def runs(self) -> bool:
        return self._process.returncode is None

    async def ready(self) -> bool:
        """Wait until it takes webhooks; False if it ended before."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            match _ADDRESS.match(line.decode()):
                case re.Match() as found if found[1] == "listening":
                    self.ingress = found[2]
                case re.Match() as found:
                    self._admin = found[2]
                    self.is_ready.set()
                    return True
                case _:
                    pass
        return False

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Let it do nothing until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def end(self) -> None:
        """End it at once, if it still runs, and wait for that."""
        self.kill()
        await self.ended()

    def stop(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end and return the exit code."""
        return await self._process.wait()

    async def owes_nothing(self, client: aiohttp.ClientSession) -> bool:
        """Tell whether no delivery is pending or in flight."""
        async with client.get(f"{self._admin}/metrics") as response:
            lines = (await response.text()).splitlines()
        backlog = [
            line for line in lines if line.startswith("itscope_relay_backlog{") and '"dead"' not in line
        ]
        assert backlog
        return all(line.endswith(" 0.0") for line in backlog)
