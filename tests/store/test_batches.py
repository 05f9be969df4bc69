"""Group commit on the event loop: what goes into one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from relay.store.batches import MAX_BATCH, Batches


@pytest.mark.parametrize(
    ("items", "batches"),
    [
        ([1] * 3, [3]),
        ([MAX_BATCH, 1], [1, 1]),
        ([MAX_BATCH - 1, 1, 1], [2, 1]),
        ([0, MAX_BATCH * 9, 0], [2, 1]),
        ([100, 100, 100, 100], [3, 1]),
    ],
)
async def test_batch_ends_with_the_item_that_fills_it(items: list[int], batches: list[int]) -> None:
    seen: list[int] = []

    async def run(batch: Sequence[int]) -> Sequence[int]:
        seen.append(len(batch))
        return batch

    store = Batches(run, asyncio.get_running_loop().create_future(), size=lambda item: item)
    assert await asyncio.gather(*map(store.submit, items)) == items
    await store.close()
    assert seen == batches
