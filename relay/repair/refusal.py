"""Why a repair can't be done, and the sentences for it. Nothing was changed then."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum, auto

from relay.config import suggestion
from relay.errors import RelayError


class Refusal(Enum):
    """Why a repair can't be done."""

    BAD_REQUEST = auto()
    NOT_FOUND = auto()
    CONFLICT = auto()
    UNPROCESSABLE = auto()


class RepairRefusedError(RelayError):
    """A repair can't be done; nothing was changed."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


def bad_request(message: str) -> RepairRefusedError:
    """Return the refusal of what no client should have sent."""
    return RepairRefusedError(Refusal.BAD_REQUEST, message)


def not_found(message: str) -> RepairRefusedError:
    """Return the refusal of what isn't there."""
    return RepairRefusedError(Refusal.NOT_FOUND, message)


def conflict(message: str) -> RepairRefusedError:
    """Return the refusal of what can't be done as things stand."""
    return RepairRefusedError(Refusal.CONFLICT, message)


def unprocessable(message: str) -> RepairRefusedError:
    """Return the refusal of what makes no sense."""
    return RepairRefusedError(Refusal.UNPROCESSABLE, message)


def require_configured(destinations: Iterable[str], configured: Collection[str]) -> None:
    """Refuse to send where no lane goes."""
    for name in destinations:
        if name not in configured:
            hint = suggestion(name, configured)
            raise unprocessable(f"no destination {_shortened(name)} is configured{hint}")


def require_known(destination: str, known: Collection[str]) -> None:
    """Refuse a destination that nobody has heard of."""
    if destination not in known:
        hint = suggestion(destination, known)
        raise not_found(f"there is no destination {_shortened(destination)}{hint}")


def _shortened(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."
