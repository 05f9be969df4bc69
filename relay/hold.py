"""Maintenance windows: when a destination must be left alone. Pure: time is an argument.

Owns how a window is written, and its beginnings and ends across changes of the clock. The hours in
which events are expected are such windows, too. The rules of the time zones are `zoneinfo`'s, which reads
each once and keeps it. What waits meanwhile is left to `lane`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import BeforeValidator, WithJsonSchema

HORIZON = timedelta(days=7)  # no hold is said to last longer; ask again then
PATIENCE = timedelta(days=35)  # for time within windows to pass
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES = 24 * 60
_WINDOW = re.compile(r"([A-Za-z,-]+) ([0-9]{1,2}:[0-9]{2})-([0-9]{1,2}:[0-9]{2}) ([!-~]{1,64})")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_FORM = (
    "write a window as days, times and a time zone, such as Sun 02:00-05:00 Europe/Berlin,"
    " Mon-Fri 18:00-06:00 UTC or daily 22:30-23:00 Europe/Berlin"
)


@dataclass(frozen=True, slots=True)
class Window:
    """A span of local time on some days of the week.

    Attributes:
        days: on which it begins; 0 is Monday.
        start_minute: since midnight of that day.
        end_minute: since the same midnight, so above 1440 where it ends on the next day.
        zone: IANA name of the time zone.
        text: as it was written.
    """

    days: frozenset[int]
    start_minute: int
    end_minute: int
    zone: str
    text: str

    def __str__(self) -> str:
        return self.text


def parse_window(text: Any) -> Window:
    """Return the window written as days, times and a zone, such as `Sat,Sun 02:00-05:00 Europe/Berlin`.

    Days are `daily`, or days and ranges of them, with commas between; `Fri-Mon` goes over the week's end. An
    end at or before the start is on the next day; 24:00 may be an end.

    Raises:
        ValueError: not such a text, or no such day, time or zone, or an end that is the start.
    """
    if isinstance(text, Window):
        return text
    found = _WINDOW.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(_FORM)
    days, start, end = _days(found[1]), _minute(found[2]), _minute(found[3], is_end=True)
    if start == end:
        raise ValueError(f"{found[2]}-{found[3]} begins when it ends; write 00:00-24:00 for whole days")
    _check_zone(found[4])
    return Window(days, start, end if end > start else end + _DAY_MINUTES, found[4], str(text))


def held_until(windows: Sequence[Window], now: float) -> float | None:
    """Return when the hold that is in force at `now` ends, None if none is.

    Windows that overlap or adjoin make one hold. At its end nothing is held any more, unless it ran on for
    longer than `HORIZON`: then that much is returned, and the question is to be asked again.

    Args:
        windows: of the destination.
        now: UTC, as seconds since 1970; so is the result.
    """
    if not any(start <= now < end for start, end in _spans(windows, now, timedelta(0))):
        return None
    until = now
    for start, end in sorted(_spans(windows, now, HORIZON)):
        if start <= until:
            until = max(until, end)
    return min(until, now + HORIZON.total_seconds())


def next_start(windows: Sequence[Window], now: float) -> float | None:
    """Return the next moment after `now` at which a window begins, None without windows.

    One that begins while another holds counts, too.
    """
    starts = (start for start, _ in _spans(windows, now, 2 * HORIZON))  # a change of the clock may skip one
    return min((start for start in starts if start > now), default=None)


def elapses_at(windows: Sequence[Window], since: float, seconds: float) -> float | None:
    """Return when so much time within windows has passed since an instant; without windows, any time counts.

    Returns:
        UTC, as seconds since 1970; None if it isn't within `PATIENCE`.
    """
    if not windows:
        return since + seconds
    for ahead in (HORIZON, PATIENCE):
        left, counted_until = seconds, since
        for start, end in sorted(_spans(windows, since, ahead)):
            begin = max(start, counted_until)
            if left <= end - begin:
                return begin + left
            left -= max(0.0, end - begin)
            counted_until = max(counted_until, end)
    return None


def _spans(windows: Sequence[Window], now: float, ahead: timedelta) -> Iterator[tuple[float, float]]:
    """Yield beginning and end of each window that may hold at `now` or begin until `ahead` of it."""
    for window in windows:
        zone = ZoneInfo(window.zone)
        today = datetime.fromtimestamp(now, zone).date()
        for offset in range(-2, ahead.days + 2):  # a window lasts a day at most, and a change of the clock
            day = today + timedelta(days=offset)
            if day.weekday() not in window.days:
                continue
            start, end = _start(day, window.start_minute, zone), _end(day, window.end_minute, zone)
            if start < end:  # one such as 02:30-03:10 may find no time where the clock goes forward
                yield start, end


def _start(day: date, minute: int, zone: ZoneInfo) -> float:
    """Return the first time that a local time comes; one that is skipped comes later by the gap."""
    return _local(day, minute, zone).timestamp()


def _end(day: date, minute: int, zone: ZoneInfo) -> float:
    """Return the last time that a local time comes; one that is skipped comes later by the gap."""
    local = _local(day, minute, zone)
    return max(local.timestamp(), local.replace(fold=1).timestamp())


def _local(day: date, minute: int, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone) + timedelta(minutes=minute)  # on the wall clock


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for item in text.split(","):
        first, dash, last = item.partition("-")
        start, end = _day(first, text), _day(last if dash else first, text)
        days.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    return frozenset(days)


def _day(name: str, text: str) -> int:
    if name not in _DAYS:
        raise ValueError(f"{text!r} names no days; write daily, or days such as Mon-Fri or Sat,Sun")
    return _DAYS.index(name)


def _minute(text: str, *, is_end: bool = False) -> int:
    if is_end and text == "24:00":
        return _DAY_MINUTES
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is no time of the day; write 00:00 to 23:59, or 24:00 as an end")
    return int(found[1]) * 60 + int(found[2])


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        places = sorted(zone for zone in available_timezones() if "/" in zone)  # CEST isn't close to EST
        close = difflib.get_close_matches(name, places, n=1)
        hint = f"did you mean {close[0]}?" if close else "write one such as Europe/Berlin or UTC"
        raise ValueError(f"there is no time zone {name}; {hint}") from error


_DAY_PATTERN = f"({'|'.join(_DAYS)})"
_ITEM_PATTERN = f"{_DAY_PATTERN}(-{_DAY_PATTERN})?"
Hold = Annotated[
    Window,
    BeforeValidator(parse_window),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": rf"^(daily|{_ITEM_PATTERN}(,{_ITEM_PATTERN})*)"
            rf" {_TIME.pattern}-({_TIME.pattern}|24:00) [!-~]{{1,64}}$",
            "examples": ["Sun 02:00-05:00 Europe/Berlin", "Mon-Fri 18:00-06:00 UTC"],
        }
    ),
]
