"""Group commit by a thread: what goes into one transaction."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from relay.store.group_commit import MAX_BATCH, MAX_PASSES, GroupCommit
from relay.store.sqlite_file import connect


class Transactions:
    """Those of a group commit whose operations do nothing, by how many operations each had."""

    def __init__(self, path: Path) -> None:
        self.sizes: list[int] = []
        self.applied = threading.Event()
        self.commits = GroupCommit(connect(path), lambda _: None)

    def submit(self, item: int) -> asyncio.Future[int]:
        return self.commits.submit(self._apply, item)

    def _apply(self, items: Sequence[int]) -> list[int]:
        self.sizes.append(len(items))
        self.applied.set()
        return [*items]


@pytest.fixture
async def transactions(tmp_path: Path) -> AsyncIterator[Transactions]:
    made = Transactions(tmp_path / "relay.db")
    yield made
    await made.commits.close()


async def one_a_pass(transactions: Transactions, number: int) -> list[asyncio.Future[int]]:
    """Submit an operation in each of some passes of the event loop, with time for the thread after each."""
    submitted = []
    for item in range(number):
        submitted.append(transactions.submit(item))
        await asyncio.sleep(0)
        time.sleep(0.02)  # noqa: ASYNC251 (the event loop stands still)
    return submitted


async def test_what_comes_in_the_next_passes_of_the_event_loop_shares_a_transaction(
    transactions: Transactions,
) -> None:
    submitted = await one_a_pass(transactions, MAX_PASSES)
    assert await asyncio.gather(*submitted) == [*range(MAX_PASSES)]
    assert transactions.sizes == [MAX_PASSES]


async def test_nothing_waits_for_more_than_a_few_passes(transactions: Transactions) -> None:
    submitted = await one_a_pass(transactions, MAX_PASSES + 1)
    submitted.append(transactions.submit(MAX_PASSES + 1))
    assert transactions.applied.wait(10)  # while the event loop stands still
    assert await asyncio.gather(*submitted) == [*range(MAX_PASSES + 2)]
    assert transactions.sizes == [MAX_PASSES + 1, 1]


async def test_what_fills_a_transaction_waits_for_no_more(transactions: Transactions) -> None:
    submitted = [transactions.submit(item) for item in range(MAX_BATCH)]
    await asyncio.sleep(0)
    assert transactions.applied.wait(10)  # while the event loop stands still
    assert await asyncio.gather(*submitted) == [*range(MAX_BATCH)]


async def test_transaction_is_bounded_whatever_comes_at_once(transactions: Transactions) -> None:
    number = 2 * MAX_BATCH + 1
    submitted = [transactions.submit(item) for item in range(number)]
    assert transactions.commits.waiting == number
    assert await asyncio.gather(*submitted) == [*range(number)]
    assert transactions.sizes == [MAX_BATCH, MAX_BATCH, 1]
    assert transactions.commits.waiting == 0


async def test_what_waits_when_it_closes_is_committed(transactions: Transactions) -> None:
    submitted = [transactions.submit(item) for item in range(3)]
    await transactions.commits.close()
    assert [one.result() for one in submitted] == [0, 1, 2]
