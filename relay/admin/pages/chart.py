"""The small chart of a destination's last hour: where its bars stand. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.history import Minute

MINUTES = 60
SLOT, BAR, HEIGHT = 4, 3, 48  # in the chart's own units
_LEAST = 2.0  # so that a single failure among thousands can be seen


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: delivered or failed attempts of one minute, from its top left."""

    kind: str
    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The bars of the last hour, and what they add up to. `is_known`: there is a minute to show."""

    is_known: bool
    bars: tuple[Bar, ...]
    delivered: int
    failed: int


def chart(minutes: Sequence[Minute], now: float) -> Chart:
    """Return the chart of the last hour; the present minute is on the right."""
    recent = [(int((now - minute.at) // 60), minute) for minute in minutes]
    recent = [(ago, minute) for ago, minute in recent if 0 <= ago < MINUTES]
    most = max((minute.delivered + minute.failed for _, minute in recent), default=0)
    bars = [bar for ago, minute in recent for bar in _bars(minute, SLOT * (MINUTES - 1 - ago), most)]
    return Chart(
        bool(recent),
        tuple(bars),
        sum(minute.delivered for _, minute in recent),
        sum(minute.failed for _, minute in recent),
    )


def _bars(minute: Minute, x: int, most: int) -> list[Bar]:
    """Return a minute's bars: failed ones stand on delivered ones."""
    failed = _height(minute.failed, most)
    delivered = round(min(_height(minute.delivered, most), HEIGHT - failed), 2)
    heights = (("delivered", delivered, HEIGHT - delivered), ("failed", failed, HEIGHT - delivered - failed))
    return [Bar(kind, x, round(y, 2), height) for kind, height, y in heights if height > 0]


def _height(number: int, most: int) -> float:
    return round(max(_LEAST, HEIGHT * number / most), 2) if number else 0.0
