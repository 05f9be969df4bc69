"""How a search says where its next page begins: the position of the last item it looked at, as text.

Owns the text's form. What the positions mean in SQL is left to the stores.
"""

from __future__ import annotations

import base64
import math
import struct
from typing import NamedTuple

LAST_ID = (1 << 63) - 1
_FORM = struct.Struct(">dqq")
_UNKNOWN = "this is no cursor that a search gave"


class Position(NamedTuple):
    """A place in the order by acceptance, which lies between items or on one.

    Attributes:
        at: when the event was accepted.
        id: of the event.
        delivery: of it; 0 is before all of them, `LAST_ID` after all.
    """

    at: float
    id: int
    delivery: int


def beginning(*, newest_first: bool) -> Position:
    """Return the position before everything."""
    return Position(math.inf, LAST_ID, LAST_ID) if newest_first else Position(-math.inf, 0, 0)


def encode(position: Position) -> str:
    """Return a position as text that a URL can hold as it is."""
    return base64.urlsafe_b64encode(_FORM.pack(*position)).decode()  # 24 bytes: no padding


def decode(text: str) -> Position:
    """Return the position that a text stands for.

    Raises:
        ValueError: it is no cursor.
    """
    try:
        position = Position(*_FORM.unpack(base64.urlsafe_b64decode(text)))
    except (ValueError, struct.error) as error:
        raise ValueError(_UNKNOWN) from error
    if math.isnan(position.at) or encode(position) != text:
        raise ValueError(_UNKNOWN)
    return position
