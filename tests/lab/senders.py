"""ITscope's part: several senders, each with orders of its own, that repeat what got no answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import aiohttp

from tests.e2e.relay_process import AUTHORIZATION, POLL_SECONDS
from tests.lab.points import Axe, Point
from tests.lab.webhook import Webhook

SENDERS = 6
_ORDERS = 4  # of each sender
_REPEATED = 0.03  # share of the webhooks that were acknowledged before
_MAX_BEHIND = 150  # webhooks ahead of the slowest receiver: what is killed should be at work on all sides
HEADERS = {"Content-Type": "application/json", **AUTHORIZATION}


class Senders:
    """Post at the same time, over many lives of the relay.

    Attributes:
        acknowledged: ids of the webhooks that were answered 200.
        forgotten: those of them that the relay, asked again, took for new.
        unexpected: what was answered that should not have been.
    """

    def __init__(self, axe: Axe, chance: random.Random, taken: Callable[[], int]) -> None:
        """Make senders.

        Args:
            taken: how many webhooks the slowest receiver has taken.
        """
        self._axe = axe
        self._taken = taken
        self._senders = [
            Sender(number, _ORDERS, random.Random(chance.random()))  # noqa: S311 (seeded)
            for number in range(SENDERS)
        ]
        self.acknowledged: set[str] = set()
        self.forgotten: set[str] = set()
        self.unexpected: list[str] = []

    @property
    def behind(self) -> int:
        """How many acknowledged webhooks the slowest receiver has not taken."""
        return len(self.acknowledged) - self._taken()

    async def post_until_gone(self, url: str, alive: Callable[[], bool]) -> None:
        """Post to a relay until it answers no more."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20), headers=HEADERS) as client:
            await asyncio.gather(
                *(self._post_until_gone(sender, client, url, alive) for sender in self._senders)
            )

    async def _post_until_gone(
        self, sender: Sender, client: aiohttp.ClientSession, url: str, alive: Callable[[], bool]
    ) -> None:
        while alive():
            if self.behind > _MAX_BEHIND:
                await asyncio.sleep(POLL_SECONDS)
                continue
            try:
                await self._post(sender, client, url)
            except (aiohttp.ClientError, OSError):
                return

    async def _post(self, sender: Sender, client: aiohttp.ClientSession, url: str) -> None:
        webhook = sender.next()
        async with client.post(url, data=webhook.body) as response:
            if response.status != 200:
                self.unexpected.append(f"{webhook.event_id} was answered {response.status}")
                return
            is_repeated = webhook.event_id in self.acknowledged
            self.acknowledged.add(webhook.event_id)
            sender.acknowledged(webhook)
            self._axe.passed(Point.ANSWERED, self._axe.life)
            with contextlib.suppress(aiohttp.ClientError):  # killed between the head and the rest
                answer = await response.json()
                if is_repeated and answer["status"] != "duplicate":
                    self.forgotten.add(webhook.event_id)


class Sender:
    """Posts one webhook after the other, of a few orders; the one without an answer comes first."""

    def __init__(self, number: int, orders: int, chance: random.Random) -> None:
        self._chance = chance
        self._last = {f"order-{number}-{order}": 0 for order in range(orders)}
        self._orders = list(self._last)
        self._done: list[Webhook] = []
        self._unanswered: Webhook | None = None

    def next(self) -> Webhook:
        if self._unanswered is not None:
            return self._unanswered
        if self._done and self._chance.random() < _REPEATED:
            return self._chance.choice(self._done)
        key = self._chance.choice(self._orders)
        self._last[key] += 1
        self._unanswered = Webhook(key, self._last[key])
        return self._unanswered

    def acknowledged(self, webhook: Webhook) -> None:
        if webhook == self._unanswered:
            self._unanswered = None
            self._done.append(webhook)
