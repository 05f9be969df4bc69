"""What a part is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """What a part is told.

    Attributes:
        folder: empty, on the disk that is measured; removed afterwards.
        seconds: of each run.
        rounds: of each side.
        waiting: deliveries in the store for a dead destination (part `waiting`).
        events: to be accepted (part `memory`).
    """

    folder: Path
    seconds: float
    rounds: int
    waiting: int
    events: int
