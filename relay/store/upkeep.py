"""What the upkeep of every store has in common: how much is kept and done at once, and what is finished.

The SQL is left to each store.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import date, timedelta

from relay.model import Quarantined

_log = logging.getLogger(__name__)

MAX_QUARANTINED = 1_000  # requests, and their bodies' bytes; the oldest make room
MAX_QUARANTINED_BYTES = 256 << 20
DAYS_KEPT = 30  # of the routes' matches
MAX_BROUGHT_FORWARD = 1_000  # at once: webhooks wait for it

LookedAt = tuple[int, bool, bool]  # an event's id; whether it is old; whether it isn't finished


def quarantine_row(request: Quarantined) -> tuple[str | float | bytes, ...]:
    """Return a request that is new, from its source to its body, but for how often it came."""
    return (
        request.source,
        request.reason,
        hashlib.sha256(request.body).hexdigest(),
        request.detail,
        request.content_type,
        request.received_at,
        request.received_at,
        request.body,
    )


def tell_evicted(number: int) -> None:
    """Log that quarantined requests had to make room, if any had."""
    if number:
        _log.warning("quarantine.evicted", extra={"fields": {"number": number}})


def finished(looked_at: Sequence[LookedAt]) -> list[int]:
    """Return the events that retention may delete."""
    return [id_ for id_, is_old, is_unfinished in looked_at if is_old and not is_unfinished]


def purged_until(looked_at: Sequence[LookedAt], limit: int) -> int | None:
    """Return the event behind which retention goes on, None at the end: no more, or none that is old."""
    if len(looked_at) < limit or not any(is_old for _, is_old, _ in looked_at):
        return None
    return max(id_ for id_, *_ in looked_at)


def oldest_day(day: str) -> str:
    """Return the first day whose matches are kept when those of a day are added."""
    return (date.fromisoformat(day) - timedelta(days=DAYS_KEPT)).isoformat()
