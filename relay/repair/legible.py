"""What can be read of a body whatever it is: of an event released from quarantine, or before it is. Pure.

Routes, orders and replays all read it so, or a released request would go one way now and another later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from relay import payload as payloads
from relay.errors import BadPayloadError

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NESTED_TOO_DEEP = "too-deep"


def legible(body: bytes) -> Mapping[str, Any]:
    """Return what can be read of a body that needn't be a proper payload; of a key given twice the last."""
    try:
        return payloads.parse(body)
    except BadPayloadError as error:
        if error.reason == _NESTED_TOO_DEEP:
            return {}
    try:
        found = json.loads(body.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):  # a number may also have too many digits
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if not _is_unstorable(value)}


def _is_unstorable(value: Any) -> bool:
    return isinstance(value, str) and _UNSTORABLE.search(value) is not None
