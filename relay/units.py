"""Durations, sizes and status codes as people write them in a configuration: text to value.

Owns the syntax of the units. What the values mean is left to the options that use them.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d{1,15})(B|KiB|MiB|GiB)")
_SIZE_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_STATUS_CLASS = re.compile(r"([1-5])xx")
_LONGEST = timedelta(days=36500)  # a century: beyond it arithmetic with dates may overflow


def parse_duration(value: Any) -> timedelta:
    """Return the duration written as a number and a unit, such as `500ms`, `30s`, `10m`, `2h`, `3d`.

    Raises:
        ValueError: not such a text, zero, or longer than a century.
    """
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("write a duration as a number and a unit, such as 500ms, 30s, 10m, 2h or 3d")
    seconds = float(found[1]) * _DURATION_SECONDS[found[2]]
    duration = timedelta(seconds=min(seconds, _LONGEST.total_seconds() + 1))  # rounds to microseconds
    if not timedelta(0) < duration <= _LONGEST:
        raise ValueError("a duration must be longer than zero and at most 36500d")
    return duration


def parse_size(value: Any) -> int:
    """Return the number of bytes written as a whole number and a unit, such as `64KiB` or `1MiB`.

    Raises:
        ValueError: not such a text, or zero.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError("write a size as a whole number above zero and a unit, such as 64KiB or 1MiB")
    return int(found[1]) * _SIZE_BYTES[found[2]]


def parse_statuses(value: Any) -> frozenset[int]:
    """Return the HTTP status codes named by a list of codes and classes, such as `[2xx, 409]`.

    Raises:
        ValueError: not a list, or an entry that is neither a code nor a class.
    """
    if isinstance(value, frozenset):
        return value
    if not isinstance(value, list):
        raise ValueError("write a list of status codes, such as [2xx, 409]")  # noqa: TRY004 (pydantic's way)
    codes: set[int] = set()
    for entry in value:
        if isinstance(entry, int) and not isinstance(entry, bool) and 100 <= entry <= 599:
            codes.add(entry)
        elif isinstance(entry, str) and (found := _STATUS_CLASS.fullmatch(entry)):
            codes.update(range(int(found[1]) * 100, int(found[1]) * 100 + 100))
        else:
            raise ValueError(f"{entry!r} is neither a status code such as 409 nor a class such as 2xx")
    return frozenset(codes)


def format_duration(seconds: float) -> str:
    """Return a duration in seconds as a person would say it, such as `1.5s` or `3d`."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["500ms", "30s", "3d"]}
    ),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_SIZE.pattern}$", "examples": ["64KiB", "1MiB"]},
                {"type": "integer", "minimum": 1},
            ]
        }
    ),
]
Statuses = Annotated[
    frozenset[int],
    BeforeValidator(parse_statuses),
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "integer", "minimum": 100, "maximum": 599},
                    {"type": "string", "pattern": f"^{_STATUS_CLASS.pattern}$"},
                ]
            },
        }
    ),
]
