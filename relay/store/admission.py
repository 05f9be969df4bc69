"""How many webhooks may wait for a store; beyond that they are answered 503, rather than kept in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from relay.errors import StoreUnavailableError

MAX_WAITING = 10_000  # operations
MAX_WAITING_BYTES = 64 << 20  # of webhooks


class Admission:
    """Counts the bytes of the webhooks that wait."""

    def __init__(self) -> None:
        self._bytes = 0

    @contextlib.contextmanager
    def admit(self, size: int, waiting: int, hindrance: str | None) -> Iterator[None]:
        """Let a webhook wait, unless too many do already, or the store takes too long.

        Args:
            size: of its body.
            waiting: operations that do.
            hindrance: why the store takes nothing now, None if it does.
        """
        if hindrance is not None:
            raise StoreUnavailableError(hindrance)
        if waiting >= MAX_WAITING or self._bytes + size > MAX_WAITING_BYTES:
            raise StoreUnavailableError("too many webhooks wait for the store")
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
