"""How rows are read from SQLite: a statement gathers them into one JSON value.

Each row of its own would have to win Python's global lock back from the event loop, which costs far more than
the row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import apsw


def gathered(connection: apsw.Connection, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
    """Return the value that a statement gathers its rows into."""
    return json.loads(connection.execute(sql, bindings).get)
