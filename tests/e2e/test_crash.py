"""kill -9 at any moment: whatever was answered 200 arrives."""

from __future__ import annotations

import asyncio
import collections
import random
from pathlib import Path

import aiohttp

from tests.e2e.receiver import Receive, Received
from tests.e2e.relay_process import RelayProcess, Start, event, until, write_config

ROUNDS = 10
SENDERS = 6
RETRY = {"initial": "20ms", "max": "200ms"}


class Sender:
    """Posts events until the relay is gone, and what got no answer again, as ITscope would.

    Attributes:
        acknowledged: ids that were answered 200.
        answers: how often each status word came.
    """

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.answers: collections.Counter[str] = collections.Counter()
        self._unanswered: list[str] = []
        self._posted = 0

    async def post_until_refused(self, relay: RelayProcess) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
            await asyncio.gather(*(self._post_until_refused(relay, client) for _ in range(SENDERS)))

    async def _post_until_refused(self, relay: RelayProcess, client: aiohttp.ClientSession) -> None:
        while True:
            event_id = self._unanswered.pop() if self._unanswered else self._new_id()
            try:
                status, answer = await relay.post(client, event(event_id))
            except (aiohttp.ClientError, OSError):
                self._unanswered.append(event_id)
                return
            assert status == 200, answer
            self.answers[answer["status"]] += 1
            self.acknowledged.add(event_id)

    def _new_id(self) -> str:
        self._posted += 1
        return f"event-{self._posted}"


async def test_no_acknowledged_event_is_lost_when_the_relay_is_killed_under_load(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    chance = random.Random(20231017)

    async def fail_often(_received: Received) -> int:
        return 503 if chance.random() < 0.4 else 200

    async def think(_received: Received) -> int:
        await asyncio.sleep(0.005)
        return 200

    receivers = {"steady": await receive(), "flaky": await receive(fail_often), "slow": await receive(think)}
    config = write_config(
        tmp_path, {name: {"url": receiver.url, "retry": RETRY} for name, receiver in receivers.items()}
    )
    sender = Sender()
    recovered = 0
    for _ in range(ROUNDS):
        relay = await start(config)
        recovered += len(relay.facts("store.recovered"))
        posting = asyncio.create_task(sender.post_until_refused(relay))
        await asyncio.sleep(chance.uniform(0.02, 0.4))  # the random moment
        relay.kill()
        await posting

    relay = await start(config)
    await until(lambda: relay.owes_nothing(client))
    lost = {name: sender.acknowledged - receiver.taken.keys() for name, receiver in receivers.items()}
    assert lost == {name: set() for name in receivers}
    # And the rounds were what they claim to be: deliveries and retries were under way when the axe fell.
    assert len(sender.acknowledged) > 10 * ROUNDS
    assert recovered > ROUNDS // 2
    assert max(received.attempt for received in receivers["flaky"].requests) > 2
