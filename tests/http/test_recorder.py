"""When attempts that have ended are recorded, and with what else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay import recorder
from relay.metrics import Metrics
from relay.model import Attempt, Delivery, DeliveryState, Owed, References
from relay.recorder import Recorder
from relay.store.sqlite import SqliteStore, open_store
from tests.store.opened import START, accept, attempt, claim_all, event

DEADLINE_SECONDS = 30.0
NOT_NOW = 100 * DEADLINE_SECONDS


@pytest.fixture
def commits() -> list[float]:
    return []


@pytest.fixture
async def store(tmp_path: Path, commits: list[float]) -> AsyncIterator[SqliteStore]:
    opened = open_store(tmp_path / "relay.db", commits.append)
    yield opened
    await opened.close()


def delivered(deliveries: list[Delivery]) -> list[Attempt]:
    return [attempt(delivery, DeliveryState.DELIVERED) for delivery in deliveries]


async def first_recorded(recording: Recorder) -> list[tuple[Attempt, bool]]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await anext(recording.recorded())


async def test_what_ends_in_several_lanes_at_about_the_same_time_shares_a_transaction(
    store: SqliteStore, commits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = 2.0  # apart, so that a slow machine misses none
    monkeypatch.setattr(recorder, "GATHER_SECONDS", moments)
    await accept(store, "e1", "e2", to=("erp", "crm"))
    lanes = {name: Recorder(store, Metrics().add_destination(name)) for name in ("erp", "crm")}
    ended = {name: delivered(await claim_all(store, name)) for name in lanes}
    before = len(commits)
    await asyncio.sleep(moments - asyncio.get_running_loop().time() % moments)
    recorded = [asyncio.ensure_future(first_recorded(one)) for one in lanes.values()]
    for number in range(2):
        for name, one in lanes.items():
            one.add(ended[name][number])
            await asyncio.sleep(0.02)
    assert await asyncio.gather(*recorded) == [[(one, True) for one in every] for every in ended.values()]
    assert len(commits) == before + 1


async def test_attempt_that_others_wait_for_is_recorded_at_once(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "GATHER_SECONDS", NOT_NOW)
    acceptance = await store.accept(event("e1"), References(), {"erp": Owed(claim=True, order_key="4711")})
    [ended] = delivered(list(acceptance.claimed))
    recording = Recorder(store, Metrics().add_destination("erp"))
    recording.add(ended)
    assert await first_recorded(recording) == [(ended, True)]


async def test_last_attempts_are_recorded_at_once(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "GATHER_SECONDS", NOT_NOW)
    await accept(store, "e1")
    [ended] = delivered(await claim_all(store, now=START + 1))
    recording = Recorder(store, Metrics().add_destination("erp"))
    recording.add(ended)
    recording.close()
    assert await first_recorded(recording) == [(ended, True)]
