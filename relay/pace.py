"""How fast a destination may be sent to: the generic cell rate algorithm. Pure: time is an argument.

Owns how a rate is written and when the next send may happen. Who waits is left to `lane`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

MAX_COUNT = 100_000
_RATE = re.compile(r"([0-9]{1,6})/(s|min|h)(?: burst ([0-9]{1,6}))?")
_UNIT_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of sends in a time, evenly spaced, with room for a burst after a quiet time.

    Any span of `per_seconds`, its end not counted, has at most `count + burst - 1` sends.

    Attributes:
        count: sends in `per_seconds`, in the long run.
        burst: sends that may happen at once after a quiet time; 1 keeps all evenly spaced.
    """

    count: int
    per_seconds: float
    burst: int = 1

    def __str__(self) -> str:
        units = {seconds: unit for unit, seconds in _UNIT_SECONDS.items()}
        written = f"{self.count}/{units.get(self.per_seconds, f'{self.per_seconds:g}s')}"
        return written if self.burst == 1 else f"{written} burst {self.burst}"


def parse_rate(value: Any) -> Rate:
    """Return the rate written as `100/min`, or as `100/min burst 10`; units are `s`, `min` and `h`.

    Raises:
        ValueError: not such a text, a number that is not from 1 to 100000, or a burst above the number.
    """
    if isinstance(value, Rate):
        return value
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            "write a rate as a number and s, min or h, such as 5/s, 100/min or 1000/h;"
            " with a burst: 100/min burst 10"
        )
    count, burst = int(found[1]), int(found[3] or 1)
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"the number of a rate must be from 1 to {MAX_COUNT}")
    if not 1 <= burst <= count:
        raise ValueError(f"the burst of this rate must be from 1 to {count}")
    return Rate(count, _UNIT_SECONDS[found[2]], burst)


def take(rate: Rate, ready_at: float, now: float) -> tuple[float, float]:
    """Return how long to wait before sending, and the new `ready_at`.

    A wait of 0.0 is a send that happens now and is counted. Any other changes nothing: ask again after it.

    Args:
        rate: of the destination.
        ready_at: as the last call returned it (the "theoretical arrival time"); 0.0 or -inf at first.
        now: of any clock in seconds that never goes back.
    """
    interval = rate.per_seconds / rate.count
    due_at = max(ready_at, now)
    allowed_at = due_at - (rate.burst - 1) * interval
    if allowed_at <= now:
        return 0.0, due_at + interval
    wait = allowed_at - now
    while now + wait < allowed_at:  # rounding must not ask for a second, tiny wait
        wait += math.ulp(max(abs(now), allowed_at))
    return wait, ready_at


RateLimit = Annotated[
    Rate,
    BeforeValidator(parse_rate),
    WithJsonSchema(
        {"type": "string", "pattern": f"^{_RATE.pattern}$", "examples": ["100/min", "100/min burst 10"]}
    ),
]
