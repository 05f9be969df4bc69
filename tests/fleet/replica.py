"""One place in the fleet: a relay that is started again whenever it ends, each time as another life."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.fleet.database import Database
from tests.lab.process import Relay

LONGEST_REST_SECONDS = 1.0  # between the end of a relay and its next start


class Replica:
    """Lives of one replica, one after the other.

    Attributes:
        life: number of the present one, of all lives of all replicas.
        relay: of that life; None between two lives.
        is_ready: whether it takes webhooks, as far as a load balancer knows.
        starting: set while it starts.
        start_seconds: how long its last start took.
        faults: what it did that nobody asked for.
    """

    def __init__(
        self,
        folder: Path,
        configure: Callable[[Path, int], Path],
        new_life: Callable[[], int],
        database: Database,
        chance: random.Random,
    ) -> None:
        """Prepare a replica.

        Args:
            folder: for its configuration and its logs.
            configure: writes the configuration of a life into a folder and returns its path.
            new_life: returns the number of the next life.
            database: a relay may fail to start while it is away.
            chance: of its pauses.
        """
        self._folder = folder
        self._configure = configure
        self._new_life = new_life
        self._database = database
        self._chance = chance
        self._killed: set[int] = set()
        self._leaving = False
        self.life = 0
        self.relay: Relay | None = None
        self.is_ready = False
        self.starting = asyncio.Event()
        self.start_seconds = 1.0
        self.faults: list[str] = []

    @property
    def runs(self) -> bool:
        return self.relay is not None and self.relay.runs

    @property
    def address(self) -> str:
        """Where it takes webhooks."""
        return self.relay.ingress if self.relay is not None else ""

    async def keep(self) -> None:
        """Start relays until `leave`, or until cancelled; none is left behind."""
        while not self._leaving:
            self.life = self._new_life()
            config = self._configure(self._folder, self.life)
            log = self._folder / f"life-{self.life}.log"
            started = time.monotonic()
            self.relay = await Relay.start(config, log)
            try:
                await self._live(self.relay, started, log)
            finally:
                self.is_ready = False
                await self.relay.end()
                self.relay = None
            await asyncio.sleep(self._chance.uniform(0, LONGEST_REST_SECONDS))

    async def _live(self, relay: Relay, started: float, log: Path) -> None:
        self.starting.set()
        was_ready = self.is_ready = await relay.ready()
        self.starting.clear()
        if was_ready:
            self.start_seconds = time.monotonic() - started
        code = await relay.ended()
        if not was_ready and code == 1 and self._database.was_disturbed_since(started):
            return
        self.faults += log.read_text("utf-8").splitlines()
        if code != self._expected:
            self.faults.append(f"life {self.life} ended by itself with {code}")

    @property
    def _expected(self) -> int:
        return -9 if self.life in self._killed else 0 if self._leaving else -1

    def kill(self) -> None:
        """End the present life at once."""
        if self.relay is not None and self.relay.runs:
            self._killed.add(self.life)
            self.is_ready = False
            self.relay.kill()

    def leave(self) -> None:
        """Let the present relay end as it should, and start no other."""
        self._leaving = True
        if self.relay is not None:
            self.relay.stop()
