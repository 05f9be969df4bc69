"""What a run came to: figures, and what of them is a fault."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.lab.points import Point

_WIDTH = max(len(point.value) for point in Point) + 2  # of what stands before the figures
_SHOWN = 10


def line(what: str, figure: int | str, more: str = "") -> str:
    """Return a figure as it is read, with what there is to say of it."""
    return f"{what:{_WIDTH}} {figure:>8}   {more}".rstrip()


@dataclass(slots=True)
class Report:
    """Figures of a run, or of a part of it.

    Attributes:
        kills: by point.
        owing: those of them at which something acknowledged had not reached every receiver.
        missed: kills at a deadline, since the point did not come.
        acknowledged: webhooks answered 200.
        delivered: of their deliveries, those that were taken.
        lost: the others.
        retried: requests that were answered 503.
        duplicates: deliveries taken again.
        repeatable: the bound of those: deliveries that had been taken, or still were being, when the relay
            died, while its store said `in_flight`. Each allows one repetition of that very delivery.
        most_repeatable: the most of them at one kill.
        faults: a sentence for everything that must not be.
    """

    kills: Counter[Point] = field(default_factory=Counter)
    owing: Counter[Point] = field(default_factory=Counter)
    missed: int = 0
    acknowledged: int = 0
    delivered: int = 0
    lost: int = 0
    retried: int = 0
    duplicates: int = 0
    repeatable: int = 0
    most_repeatable: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return self.kills.total() + self.missed

    def add(self, part: Report) -> None:
        """Add the figures of a part."""
        self.kills += part.kills
        self.owing += part.owing
        self.missed += part.missed
        self.acknowledged += part.acknowledged
        self.delivered += part.delivered
        self.lost += part.lost
        self.retried += part.retried
        self.duplicates += part.duplicates
        self.repeatable += part.repeatable
        self.most_repeatable = max(self.most_repeatable, part.most_repeatable)
        self.faults += part.faults

    def text(self) -> str:
        """Return the report as it is read."""
        lines = [*self._incidents(), *self._results(), *(f"  {fault}" for fault in self.faults[:_SHOWN])]
        return "\n".join([*lines, *(["  ..."] if len(self.faults) > _SHOWN else [])])

    def _incidents(self) -> list[str]:
        return [
            line("kills", self.killed),
            *(
                line(f"  {point.value}", number, f"{self.owing[point]} with deliveries owed")
                for point in Point
                if (number := self.kills[point])
            ),
            *([line("  at a deadline", self.missed)] if self.missed else []),
        ]

    def _results(self) -> list[str]:
        return [
            line("acknowledged", self.acknowledged),
            line("delivered", self.delivered),
            line("lost", self.lost),
            line("answered 503 and retried", self.retried),
            line("duplicates", self.duplicates, f"of at most {self.repeatable}"),
            line("", "", f"taken but not recorded at a kill; at most {self.most_repeatable} at one"),
            line("faults", len(self.faults)),
        ]
