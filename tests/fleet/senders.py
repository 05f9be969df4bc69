"""ITscope's part, before a load balancer: it knows the replicas that take webhooks, not those that just died.

What was not answered 200 is posted again, to another replica where there is one. Some webhooks go to two at
the same moment. Owns what the answers of all replicas together must be.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from tests.e2e.relay_process import POLL_SECONDS
from tests.lab.points import Axe, Point
from tests.lab.senders import HEADERS, SENDERS, Sender
from tests.lab.webhook import Webhook

ORDERS = 40  # of each sender: those whose claims wait for a lease to end keep the others from nothing
_TWICE = 0.15  # share of the webhooks that are posted to two replicas at the same moment
_REST_SECONDS = 0.05  # of a sender, between two webhooks, on average
_MAX_BEHIND = 5000  # webhooks ahead of the slowest receiver
_ANSWER_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back from one replica: None where nothing came, or not all of it."""

    status: int | None
    said: str | None = None


class FleetSenders:
    """Post to replicas until told to stop.

    Attributes:
        acknowledged: ids of the webhooks that were answered 200.
        twins: how many were posted to two replicas at the same moment.
        failures: answers that never came.
        refusals: answers 503.
        unexpected: what was answered that should not have been.
        stopped: set to have them stop.
    """

    def __init__(
        self,
        addresses: Callable[[], Sequence[tuple[str, int]]],
        taken: Callable[[], int],
        may_refuse: Callable[[], bool],
        axe: Axe,
        chance: random.Random,
    ) -> None:
        """Make senders.

        Args:
            addresses: of the replicas that the load balancer knows, each with its present life.
            taken: how many webhooks the slowest receiver has taken.
            may_refuse: whether a replica may answer 503 now.
            axe: told about each answer.
            chance: of everything.
        """
        self._addresses = addresses
        self._taken = taken
        self._may_refuse = may_refuse
        self._axe = axe
        self._chance = chance
        self._senders = [
            Sender(number, ORDERS, random.Random(chance.random()))  # noqa: S311 (seeded)
            for number in range(SENDERS)
        ]
        self._uncertain: set[str] = set()  # some try of these has failed
        self._accepted: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.twins = 0
        self.failures = 0
        self.refusals = 0
        self.unexpected: list[str] = []
        self.stopped = asyncio.Event()

    @property
    def behind(self) -> int:
        """How many acknowledged webhooks the slowest receiver has not taken."""
        return len(self.acknowledged) - self._taken()

    async def post(self) -> None:
        """Post at the same time."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, headers=HEADERS) as client:
            await asyncio.gather(*(self._post_one_by_one(sender, client) for sender in self._senders))

    async def _post_one_by_one(self, sender: Sender, client: aiohttp.ClientSession) -> None:
        last = ""  # who failed
        while not self.stopped.is_set():
            await asyncio.sleep(self._chance.uniform(0, 2 * _REST_SECONDS))
            replicas = self._choose(last)
            if self.behind > _MAX_BEHIND or not replicas:
                await asyncio.sleep(POLL_SECONDS)
                continue
            webhook = sender.next()
            self.twins += len(replicas) > 1
            answers = await asyncio.gather(
                *(self._post(client, address, life, webhook) for address, life in replicas)
            )
            self._judge(webhook, answers)
            last = replicas[0][0]
            if any(answer.status == 200 for answer in answers):
                last = ""
                sender.acknowledged(webhook)

    def _choose(self, failed: str) -> list[tuple[str, int]]:
        """Return where to post the next webhook: not to the one that failed, if there is another."""
        known = list(self._addresses())
        self._chance.shuffle(known)
        known.sort(key=lambda replica: replica[0] == failed)
        return known[: 2 if self._chance.random() < _TWICE else 1]

    async def _post(
        self, client: aiohttp.ClientSession, address: str, life: int, webhook: Webhook
    ) -> _Answer:
        status = None
        try:
            async with client.post(address, data=webhook.body) as response:
                status = response.status
                if status == 200:
                    self.acknowledged.add(webhook.event_id)
                    self._axe.passed(Point.ANSWERED, life)
                return _Answer(status, (await response.json()).get("status"))
        except (aiohttp.ClientError, OSError, TimeoutError):  # killed, perhaps between the head and the rest
            return _Answer(status)

    def _judge(self, webhook: Webhook, answers: Sequence[_Answer]) -> None:
        """Compare the answers to one webhook with each other and with those before."""
        id_ = webhook.event_id
        is_new = not self._accepted[id_] and id_ not in self._uncertain
        for answer in answers:
            match answer:
                case _Answer(200, "accepted"):
                    self._accepted[id_] += 1
                case _Answer(200, "duplicate"):
                    pass
                case _Answer(200 | None, None):
                    self.failures += 1
                    self._uncertain.add(id_)
                case _Answer(503):
                    self.refusals += 1
                    self._uncertain.add(id_)
                    if not self._may_refuse():
                        self.unexpected.append(f"{id_} was answered 503, and the database was there")
                case _:
                    self.unexpected.append(f"{id_} was answered {answer.status} {answer.said}")
        if self._accepted[id_] > 1:
            self.unexpected.append(f"{id_} was taken for new {self._accepted[id_]} times")
        if is_new and not self._accepted[id_] and id_ not in self._uncertain:
            self.unexpected.append(f"{id_} was taken for new by nobody")
