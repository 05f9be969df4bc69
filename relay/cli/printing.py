"""How commands print what people read: tables, numbers, instants, explanations. No command stands here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

_MARKS = {"matched": "+", "not matched": "-", "excepted": "-", "not reached": " "}
_KIBIBYTE = 1024


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows in columns as wide as their widest cell; None is a dash."""
    cells = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else printable(str(value))


def printable(text: str) -> str:
    """Return a text of the outside world as one line that can do nothing to a terminal."""
    return _escaped(text, "")


def printable_lines(text: str) -> str:
    """Return a text of the outside world that can do nothing to a terminal but begin lines and indent."""
    return _escaped(text, "\n\t")


def _escaped(text: str, but: str) -> str:
    return "".join(
        char if char.isprintable() or char in but else char.encode("unicode_escape").decode() for char in text
    )


def echo_body(body: bytes) -> None:
    """Print bytes of the outside world as they are, but on a terminal as a text that can do nothing to it."""
    if sys.stdout.isatty():
        click.echo(printable_lines(body.decode(errors="backslashreplace")))
    else:
        click.echo(body, nl=False)


def number_of(number: int, noun: str) -> str:
    """Return a number with its noun."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def size(number: float) -> str:
    """Return a number of bytes with a fitting unit."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < _KIBIBYTE:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= _KIBIBYTE
    return f"{number:.1f} GiB"


def instant(text: str | None) -> str | None:
    """Return an instant of the API without its fraction; it can be given to --since as it is."""
    return None if text is None else f"{text[:19]}Z"


def kind(record: Mapping[str, Any]) -> str:
    """Return the type and status of an event, or of a delivery's event."""
    return f"{record['event_type'] or '-'} {record['transaction_status'] or '-'}"


def listed(names: Sequence[str]) -> str:
    """Return destinations in a row."""
    return ", ".join(names) or "nowhere (unrouted)"


def counted(numbers: Mapping[str, int]) -> str:
    """Return numbers by destination in a row."""
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items()))


def explained(document: Mapping[str, Any]) -> list[str]:
    """Return what became of each route for a payload, and where it goes, a line each."""
    routes = document["routes"]
    width = max((len(route["name"]) for route in routes), default=0)
    lines = []
    for route in routes:
        adds = f" -> {', '.join(route['to'])}" if route["finding"] == "matched" else ""
        mark, finding = _MARKS[route["finding"]], route["finding"]
        lines.append(f"{mark} {route['name']:{width}}  {finding}: {route['why']}{adds}")
    return [printable(line) for line in (*lines, f"goes to: {listed(document['destinations'])}")]
