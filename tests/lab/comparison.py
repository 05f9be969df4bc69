"""What was acknowledged beside what was taken: losses, and repetitions that nothing explains."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from tests.lab.receivers import Receiver
from tests.lab.report import Report
from tests.lab.store_file import Pair


def compare(
    report: Report,
    acknowledged: AbstractSet[str],
    receivers: Mapping[str, Receiver],
    died_with: Mapping[int, AbstractSet[Pair]],
) -> None:
    """Add to a report what a comparison comes to.

    Args:
        report: of figures and faults.
        acknowledged: ids of webhooks.
        receivers: by the name of their destination; each ought to have taken all of them.
        died_with: what was in flight at the end of a life, by its number.
    """
    report.acknowledged = len(acknowledged)
    for name, receiver in receivers.items():
        lost = acknowledged - receiver.taken_in.keys()
        report.lost += len(lost)
        report.delivered += len(acknowledged) - len(lost)
        report.retried += receiver.refusals
        report.faults += [f"{name} never got {event_id}" for event_id in sorted(lost)]
        report.faults += [f"{name} got what nobody posted"] * receiver.altered
        _count_duplicates(report, name, receiver, died_with)
    for life, pairs in died_with.items():
        number = sum(life in receivers[name].taken_in.get(event_id, ()) for event_id, name in pairs)
        report.repeatable += number
        report.most_repeatable = max(report.most_repeatable, number)


def _count_duplicates(
    report: Report, name: str, receiver: Receiver, died_with: Mapping[int, AbstractSet[Pair]]
) -> None:
    """Count what was taken again, and find what no kill explains."""
    for event_id, lives in receiver.taken_in.items():
        repetitions = len(lives) - 1
        report.duplicates += repetitions
        if repetitions > sum((event_id, name) in died_with.get(life, ()) for life in set(lives)):
            report.faults.append(f"{name} took {event_id} in the lives {lives}, which no kill explains")
