"""How values read on a page: instants, durations, and texts of strangers made harmless. Pure.

Escaping is the templates' own. Here it is what escaping leaves: characters that nobody sees, or that turn
the text around them, and texts that are too long.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

MAX_TEXT = 300  # characters of a stranger's text in a list
MAX_PAYLOAD = 64 << 10  # characters of a payload on a page
MAX_STRING = 2000  # characters of one string in a readable payload
# What nobody sees or what turns text around: C0 without tab and newline, DEL and C1, marks, embeddings and
# isolates of direction, what has no width, line separators, halves of characters, tags (Unicode 16, Cf, Zl).
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# Strings, which may be unclosed, brackets and commas, and everything between them.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def visible(text: str) -> str:
    """Return a text in which everything can be seen: what can't is written as `[U+202E]`."""
    return _INVISIBLE.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


@dataclass(frozen=True, slots=True)
class Cut:
    """A text to be shown. `length`: of all of it in characters where it was cut, else None."""

    text: str
    length: int | None


def cut(text: str, most: int = MAX_TEXT) -> Cut:
    """Return a text of a stranger as it can be shown: visible, and with no more characters than `most`."""
    return Cut(visible(text[:most]), len(text) if len(text) > most else None)


def instant(at: float) -> str:
    """Return an instant as RFC 3339 has it, in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant_text(at: float) -> str:
    """Return an instant for people, in UTC; a browser writes it anew in its own zone."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as `2 h 5 min`."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in _UNITS:
        number, left = divmod(left, size)
        if number or parts:
            parts.append(f"{number} {unit}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0 ")) or "0 s"


def path(*parts: object) -> str:
    """Return a path of this site whose parts may be any text."""
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def order_path(id_: str) -> str:
    """Return where an order is shown; browsers would take a name of dots for a step up."""
    return f"/find?q={id_}" if id_ in {".", ".."} else path("orders", id_)


def readable_json(text: str) -> str:
    """Return JSON with a line for each value, as far as the text is JSON.

    Numbers stay as they were sent; strings are shown as what they mean, and cut where they are long.
    """
    lines: list[str] = []
    line, depth = "", 0
    for token in _TOKENS.findall(text):
        match token:
            case "{" | "[":
                lines.append(line + token)
                depth += 1
                line = _indent(depth)
            case "}" | "]":
                depth = max(0, depth - 1)
                lines += [line] if line.strip() else []
                line = _indent(depth) + token
            case ",":
                lines.append(line + token)
                line = _indent(depth)
            case ":":
                line += ": "
            case _:
                line += _readable(token)
    return "\n".join([*lines, line])


def _indent(depth: int) -> str:
    return "  " * min(depth, 12)


def _readable(token: str) -> str:
    if not token.startswith('"'):
        return token
    try:
        string = json.loads(token, strict=False)
    except ValueError:  # the payload was cut in it, so nobody knows how long it is
        return f'"{token[1:MAX_STRING]}…'
    shown = json.dumps(string[:MAX_STRING], ensure_ascii=False)
    return shown if len(string) <= MAX_STRING else f'{shown[:-1]}… ({len(string):,})"'
