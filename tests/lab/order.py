"""Whether the deliveries of one key come one after the other, as they were accepted. Judges, and no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.lab.webhook import Webhook


@dataclass(slots=True)
class _Key:
    """How far one key has come.

    Attributes:
        taken: number of the last webhook that was taken first, 0 for none.
        taken_in: the life of the relay in which that was.
        open_in: the lives whose requests are under way.
    """

    taken: int
    taken_in: int
    open_in: list[int]


class OrderWatch:
    """Looks at everything that comes to one receiver.

    Of each key, the next webhook may come, or the last one taken again if a kill lies between; and never
    while another request of the same relay is under way.

    Attributes:
        violations: a sentence for each.
        late: requests that were not judged, see `excuse`.
    """

    def __init__(self, *, lives_overlap: bool = True) -> None:
        """Begin to look.

        Args:
            lives_overlap: whether a request of a relay that was killed may still be under way when the next
                one begins. It may not where a lease lies between.
        """
        self.violations: list[str] = []
        self.late = 0
        self._lives_overlap = lives_overlap
        self._keys: dict[str, _Key] = {}
        self._excused: set[tuple[int, str]] = set()

    def excuse(self, life: int, event_ids: Iterable[str]) -> None:
        """Don't judge when these come in a life: it slept longer than it may hold what it had claimed."""
        self._excused |= {(life, event_id) for event_id in event_ids}

    def arrived(self, webhook: Webhook, life: int) -> None:
        key = self._keys.setdefault(webhook.key, _Key(0, 0, []))
        if (life, webhook.event_id) in self._excused:
            self.late += 1
            return
        if life in key.open_in or (key.open_in and not self._lives_overlap):
            self.violations.append(f"{webhook.event_id} came while another of its key was under way")
        elif webhook.number == key.taken and life == key.taken_in:
            self.violations.append(f"{webhook.event_id} came again without a kill between")
        elif webhook.number not in {key.taken, key.taken + 1}:
            self.violations.append(f"{webhook.event_id} came after {webhook.key}/{key.taken}")
        key.open_in.append(life)

    def ended(self, webhook: Webhook, life: int, *, taken: bool) -> None:
        key = self._keys[webhook.key]
        if life in key.open_in:
            key.open_in.remove(life)
        if taken:
            key.taken, key.taken_in = max(key.taken, webhook.number), life
