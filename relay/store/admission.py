"""How many webhooks may wait for a store; beyond that they are answered 503, rather than kept in memory."""

from __future__ import annotations

from relay.errors import StoreUnavailableError

MAX_WAITING = 10_000  # operations
MAX_WAITING_BYTES = 64 << 20  # of webhooks


class Admission:
    """Counts the bytes of the webhooks that wait."""

    def __init__(self) -> None:
        self.bytes = 0

    def admit(self, size: int, waiting: int, hindrance: str | None) -> Admitted:
        """Let a webhook wait, unless too many do already, or the store takes too long.

        Args:
            size: of its body.
            waiting: operations that do.
            hindrance: why the store takes nothing now, None if it does.
        """
        if hindrance is not None:
            raise StoreUnavailableError(hindrance)
        if waiting >= MAX_WAITING or self.bytes + size > MAX_WAITING_BYTES:
            raise StoreUnavailableError("too many webhooks wait for the store")
        return Admitted(self, size)


class Admitted:
    """One webhook that waits, for as long as the block lasts; contextlib's would cost twice as much."""

    __slots__ = ("_admission", "_size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission = admission
        self._size = size

    def __enter__(self) -> None:
        self._admission.bytes += self._size

    def __exit__(self, *_exc: object) -> None:
        self._admission.bytes -= self._size
