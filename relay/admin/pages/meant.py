"""Which ones: the filter that a list has in common with the repairs of all that stands in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from relay.admin import representation
from relay.admin.pages.asked import Asked
from relay.admin.pages.find import SINCE, UNTIL, Choice, choice
from relay.admin.pages.words import word
from relay.admin.parameters import Instant, StoreCursor, Text, Wanted, validated
from relay.payload import KNOWN_EVENT_TYPES
from relay.store.repair import Filter

NAMES = {
    "id": word("Any id"),
    "destination": word("Destination"),
    "type": word("Kind"),
    "status": word("Status"),
    "since": word("Received in"),
    "until": word("Age"),
}


class Meant(Asked):
    """The filter, as an address or a form has it; all that is given must hold."""

    id: Text | None = None
    destination: Text | None = None
    type: Text | None = None
    status: Text | None = None
    since: Instant | None = None
    until: Instant | None = None

    def texts(self, now: float) -> dict[str, str]:
        """Return what is given as texts that mean the same later: instants for durations before now."""
        given = {name: getattr(self, name) for name in NAMES}
        return {name: _text(value, now) for name, value in given.items() if value is not None}

    def filter(self, state: str, now: float) -> Filter:
        """Return the store's filter for what is in a state."""
        return validated(Wanted, {**self.texts(now), "state": state}, "field").filter(now)


class MeantQuery(Meant):
    """The filter of a list."""

    cursor: StoreCursor | None = None


def given(texts: Mapping[str, str]) -> dict[str, str]:
    """Return those parameters that are the filter's, as they were sent."""
    return {name: texts[name] for name in NAMES if texts.get(name)}


def choices(asked: Mapping[str, str], destinations: Iterable[str] | None = None) -> tuple[Choice, ...]:
    """Return the lists of the form; destinations only where there are any to choose from."""
    lists = [
        ("destination", [(name, name) for name in destinations or ()]),
        ("type", [(name, name) for name in KNOWN_EVENT_TYPES]),
        ("since", SINCE),
        ("until", UNTIL),
    ]
    return tuple(
        choice(name, NAMES[name], asked.get(name), options)
        for name, options in lists
        if name != "destination" or destinations is not None
    )


def _text(value: str | float | timedelta, now: float) -> str:
    if isinstance(value, str):
        return value
    at = now - value.total_seconds() if isinstance(value, timedelta) else value
    return representation.instant(at, "microseconds") or ""
