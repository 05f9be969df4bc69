"""Items that wait at the same moment go into one transaction: group commit for a store on the event loop.

Owns who waits, and that one bad item never poisons its batch. What a transaction is, and which errors mean
that the store can't take anything now, is whoever's that gives the function.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from relay.errors import StoreError, StoreUnavailableError

I = TypeVar("I")  # noqa: E741 (an item)
R = TypeVar("R")

_log = logging.getLogger(__name__)

MAX_BATCH = 256


class Batches(Generic[I, R]):
    """Runs a function with all items that wait, one batch after the other."""

    def __init__(
        self,
        run: Callable[[Sequence[I]], Awaitable[Sequence[R]]],
        died: asyncio.Future[None],
        size: Callable[[I], int] = lambda _: 1,
    ) -> None:
        """Start on the running event loop.

        Args:
            run: applies a batch in one transaction and returns a result for each item. It raises
                StoreUnavailableError if nothing can be stored now, and StoreError if an item is at fault.
            died: gets the exception if this ends by a bug.
            size: of an item; a batch has MAX_BATCH of it, but for its last item.
        """
        self._run = run
        self._size = size
        self._died = died
        self._waiting: list[tuple[I, asyncio.Future[R]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._busy_since: float | None = None
        self._task = asyncio.create_task(self._work(), name="batches")
        self._task.add_done_callback(self._ended)

    @property
    def waiting(self) -> int:
        """How many items wait for a transaction."""
        return len(self._waiting)

    @property
    def busy_seconds(self) -> float:
        """How long the transaction under way has taken."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    async def submit(self, item: I) -> R:
        """Return what became of an item after the commit, which happens also if nobody waits for it any more.

        Raises:
            StoreUnavailableError: nothing was stored, and it may be tried again.
            StoreError: this item can never be stored.
        """
        if self._closing or self._died.done():
            raise StoreUnavailableError("the store is closed")
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        self._wake.set()
        return await done

    async def close(self) -> None:
        """Finish what waits."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while not self._closing or self._waiting:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._next_batch()
            self._busy_since = time.monotonic()
            try:
                await self._apply(batch)
            except BaseException:
                _fail(batch, StoreUnavailableError("the store has ended"))
                raise
            finally:
                self._busy_since = None

    def _next_batch(self) -> list[tuple[I, asyncio.Future[R]]]:
        sizes = itertools.accumulate(self._size(item) for item, _ in self._waiting)
        number = sum(1 for _ in itertools.takewhile(lambda total: total < MAX_BATCH, sizes)) + 1
        batch, self._waiting = self._waiting[:number], self._waiting[number:]
        return batch

    async def _apply(self, batch: Sequence[tuple[I, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except StoreUnavailableError as error:
            late, self._waiting = self._waiting, []  # they needn't wait to be told the same
            _fail([*batch, *late], error)
            return
        except StoreError as error:
            if len(batch) == 1:
                _log.error("store.refused", extra={"fields": {"error": str(error)}})
                _fail(batch, error)
                return
            for one in batch:  # find out who is at fault
                await self._apply([one])
            return
        for (_, done), result in zip(batch, results, strict=True):
            if not done.cancelled():
                done.set_result(result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return
        _fail(self._waiting, StoreUnavailableError("the store has ended"))
        if not task.cancelled() and not self._died.done():
            _log.critical("store.died", exc_info=error)
            self._died.set_exception(StoreError("the store ended by a bug"))


def _fail(batch: Sequence[tuple[I, asyncio.Future[R]]], error: StoreError) -> None:
    for _, done in batch:
        if not done.done():
            done.set_exception(error)
