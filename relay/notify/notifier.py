"""Looks at the relay every few seconds, and sends what is to be told.

Owns the clock of the looks and the queues of the channels. Whatever goes wrong here is logged and stays here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TypeVar

from prometheus_client import Gauge

from relay.config import Config, Notify
from relay.errors import StoreError
from relay.metrics import Metrics
from relay.model import LaneState
from relay.notify.channels import Channel, NotSentError, channels_of, send
from relay.notify.conditions import Memory, Observed, look
from relay.notify.wording import Message, message
from relay.retry import RetryPolicy, backoff_bound_seconds
from relay.store import Store

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LOOK_SECONDS = 10.0
STORE_SECONDS = 5.0  # then a look goes without
MAX_WAITING = 100  # messages of one channel
RETRY = RetryPolicy(initial=timedelta(seconds=5), give_up_after=timedelta(days=1))


class Notifier:
    """Tells people. Make it on the event loop, `configure` it, `run` it, and `close` it."""

    def __init__(
        self,
        store: Store,
        lanes: Callable[[], Mapping[str, LaneState]],
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        """Make a notifier that tells nobody.

        Args:
            store: whose backlog and last events are looked at.
            lanes: returns what each destination waits for.
            metrics: say whether the relay is ready.
            now: the clock.
        """
        self._store = store
        self._lanes = lanes
        self._metrics = metrics
        self._now = now
        self._clock = asyncio.get_running_loop().time
        self._options: Notify | None = None
        self._last_events: dict[str, float] = {}  # of each source; before the first, since when it is watched
        self._memory = Memory()
        self._outboxes: list[Outbox] = []

    def configure(self, config: Config) -> None:
        """Tell whom a configuration names.

        What was told stays told, and a channel that stays as it is keeps what it has to send.
        """
        now = self._now()
        watched = self._last_events if self._options and self._options.when.silent else {}
        self._options = config.notify
        self._last_events = {name: watched.get(name, now) for name in config.sources}
        if config.notify is None:
            self._memory = Memory()
        present = self._outboxes
        self._outboxes = [self._outbox(channel, present) for channel in channels_of(config.notify)]
        for outbox in present:
            outbox.close()

    def _outbox(self, channel: Channel, present: list[Outbox]) -> Outbox:
        """Return the outbox of a channel: that one of those present, wherever it stood, or a new one."""
        for outbox in present:
            if outbox.channel.options == channel.options:
                outbox.channel = channel
                present.remove(outbox)
                return outbox
        return Outbox(channel, self._clock)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception:  # noqa: BLE001 (no fault here may end the relay)
                _log.exception("notification.look_failed")

    def close(self) -> None:
        """Send nothing more. After a start, what is still wrong is told again."""
        for outbox in self._outboxes:
            outbox.close()

    async def _look(self) -> None:
        if self._options is None:
            return
        seen = await self._observe(self._options)
        options = self._options
        if options is None:  # a reload came in between
            return
        self._memory, report = look(self._memory, seen, options.when)
        if report is not None:
            made = message(report, options.name, options.link, seen.now)
            for outbox in self._outboxes:
                outbox.put(made)

    async def _observe(self, options: Notify) -> Observed:
        backlog = await _known(self._store.backlog())
        last_events = None
        if options.when.silent is not None:
            last_events = await _known(self._store.last_events())
        if last_events is not None:
            # Of a source that is quiet beside busy ones, the store's newest events soon tell nothing.
            last_events = {name: last_events.get(name, at) for name, at in self._last_events.items()}
            self._last_events = last_events
        return Observed(
            now=self._now(),
            clock=self._clock(),
            ready=_value(self._metrics.ready) == 1,
            lanes=self._lanes(),
            backlog=backlog,
            last_events=last_events,
        )


async def _known(reading: Awaitable[_T]) -> _T | None:
    """Return what the store says, None where it can't."""
    try:
        return await asyncio.wait_for(reading, STORE_SECONDS)
    except (StoreError, TimeoutError):
        return None


def _value(gauge: Gauge) -> float:
    ((sample,),) = (metric.samples for metric in gauge.collect())
    return float(sample.value)


class Outbox:
    """The messages of one channel, sent one after the other; a channel that hangs holds up no other."""

    def __init__(self, channel: Channel, clock: Callable[[], float]) -> None:
        """Start sending what is put in.

        Args:
            channel: where to.
            clock: of the event loop.
        """
        self.channel = channel
        self._clock = clock
        self._waiting: deque[tuple[float, Message]] = deque()
        self._filled = asyncio.Event()
        self._sending = asyncio.create_task(self._work(), name=f"notify {channel.label}")

    def put(self, made: Message) -> None:
        """Send a message when those before it are; of too many, the oldest is dropped."""
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            self._tell(logging.WARNING, "notification.dropped", reason="too many wait")
        self._waiting.append((self._clock(), made))
        self._filled.set()

    def close(self) -> None:
        """Send nothing more."""
        self._sending.cancel()

    async def _work(self) -> None:
        while True:
            await self._filled.wait()
            put_at, made = self._waiting.popleft()
            if not self._waiting:
                self._filled.clear()
            await self._send(made, put_at + RETRY.give_up_after.total_seconds())

    async def _send(self, made: Message, until: float) -> None:
        """Try until it is sent, or too old to be of use."""
        failures = 0
        while True:
            try:
                await send(self.channel, made)
            except NotSentError as error:
                failures += 1
                bound = backoff_bound_seconds(failures, RETRY)
                pause = random.uniform(bound / 2, bound)  # noqa: S311
                if self._clock() + pause > until:
                    self._tell(logging.WARNING, "notification.dropped", reason=str(error))
                    return
                self._tell(
                    logging.WARNING,
                    "notification.not_sent",
                    error=str(error),
                    attempts=failures,
                    again_in_seconds=round(pause, 1),
                )
                await asyncio.sleep(pause)
            else:
                self._tell(logging.INFO, "notification.sent", attempts=failures + 1)
                return

    def _tell(self, level: int, fact: str, **fields: str | float) -> None:
        _log.log(level, fact, extra={"fields": {"channel": self.channel.label, **fields}})
