"""What a run of a fleet came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.fleet.database import Restart
from tests.lab.report import Report, line


@dataclass(slots=True)
class FleetReport(Report):
    """Figures of a run; those of one relay's laboratory, and more.

    Attributes:
        restarts: of the database.
        pauses: of a replica, each longer than a lease.
        twins: webhooks posted to two replicas at the same moment.
        failures: webhooks that a replica did not answer.
        refusals: webhooks that a replica answered 503.
        late: requests of a replica that had slept longer than it may hold what it had claimed.
        out_of_order: deliveries that overtook another of their key, or overlapped with it.
    """

    restarts: Counter[Restart] = field(default_factory=Counter)
    pauses: int = 0
    twins: int = 0
    failures: int = 0
    refusals: int = 0
    late: int = 0
    out_of_order: int = 0

    def _incidents(self) -> list[str]:
        kinds = ", ".join(f"{number} {how.name.lower()}" for how, number in self.restarts.items())
        return [
            *Report._incidents(self),
            line("database restarts", self.restarts.total(), kinds),
            line("pauses of a replica", self.pauses),
            line("posted to two at once", self.twins),
            line("not answered", self.failures),
            line("refused by a replica", self.refusals),
        ]

    def _results(self) -> list[str]:
        *results, faults = Report._results(self)
        return [
            *results,
            line("out of order", self.out_of_order),
            *([line("late after a pause", self.late)] if self.pauses else []),
            faults,
        ]
