"""From the bytes of a request to its payload, or to the reason why it can't be one.

Owns what counts as a JSON object here, the event's id, and how a payload's scalar reads as text.
Authentication, size and time are the ingress's; what to do with the payload is the router's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from relay.errors import BadPayloadError
from relay.model import References

MAX_DEPTH = 100  # levels of nesting; ITscope's webhooks have one
MAX_ID_LENGTH = 255
MAX_KEPT_LENGTH = 255  # of a field that is kept beside the body: as long as a header may be
KNOWN_EVENT_TYPES = ("ORDER", "ORDERRESPONSE", "DELIVERY", "INVOICE")

# An unclosed string matches too, or looking for one would cost quadratic time.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_BLANKS = " \t\n\r"  # of JSON
_UNSTORABLE_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAX_DIGITS = 400  # a longer integer keeps its text: converting it costs quadratic time


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object that the body holds.

    Raises:
        BadPayloadError: not UTF-8, not JSON (RFC 8259: no NaN), not an object, nested deeper than
            MAX_DEPTH, a key given twice, or text that no store can hold (NUL, lone surrogates).
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadPayloadError("not-utf-8", f"the body is not UTF-8 (byte {error.start})") from error
    _check_depth(body)
    try:
        # `decode` looks for blanks before and behind; nearly all bodies have none, and begin like this.
        payload, end = _DECODER.raw_decode(text) if text.startswith("{") else (None, None)
        if end is None or text[end:].strip(_BLANKS):
            payload = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadPayloadError(
            "not-json", f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    if not isinstance(payload, dict):
        raise BadPayloadError("not-an-object", "the body is JSON, but not an object")
    if _UNSTORABLE_ESCAPE.search(body) and _holds_unstorable(payload):
        raise BadPayloadError(
            "unstorable-text", "the body holds a NUL or a lone surrogate, which is not text"
        )
    return payload


def event_id(payload: Mapping[str, Any], body: bytes) -> str:
    """Return the payload's `eventId`, or `sha256:<hex of the body>` where it has no usable one."""
    given = payload.get("eventId")
    if isinstance(given, str) and 0 < len(given) <= MAX_ID_LENGTH:
        return given
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def kept_text(payload: Mapping[str, Any], field: str) -> str | None:
    """Return a scalar field as kept beside the body, cut at MAX_KEPT_LENGTH; None where there is none."""
    value = payload.get(field)
    text = value if type(value) is str else scalar_text(value)  # as nearly all are
    return None if text is None else text[:MAX_KEPT_LENGTH]


def references(payload: Mapping[str, Any]) -> References:
    """Return the ids that an event can be found by, as ITscope names them."""
    return References(
        kept_text(payload, "orderId"),
        kept_text(payload, "itscopeOrderId"),
        kept_text(payload, "documentId"),
        kept_text(payload, "transactionId"),
    )


def order_key(payload: Mapping[str, Any], field: str | None) -> str | None:
    """Return the key in whose order an event is delivered, by the destination's `order_by`.

    None, so no order: without such an option, or where the field is absent or no scalar. Not cut: keys that
    begin alike are different ones.
    """
    if field is None or (text := scalar_text(payload.get(field))) is None:
        return None
    return text if len(text) <= MAX_KEPT_LENGTH else hashlib.sha256(text.encode()).hexdigest()


def scalar_text(value: Any) -> str | None:
    """Return a JSON scalar as the text that routes compare; None for null, arrays and objects.

    Numbers and booleans read as in JSON (`true`, `5`), and 1.0 as `1`, so a route's `5` matches 5 and "5".
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return str(value)
        case _:
            return None


def integer(digits: str) -> int | str:
    """Return an integer of JSON, or its text where it has so many digits that nobody counts with it."""
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _check_depth(body: bytes) -> None:
    """Refuse deep nesting before the recursive parser sees it; nearly free for ordinary bodies."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS)
    if any(depth > MAX_DEPTH for depth in accumulate(map(_STEP.__getitem__, brackets))):
        raise BadPayloadError("too-deep", f"the body is nested deeper than {MAX_DEPTH} levels")


def _holds_unstorable(value: Any) -> bool:
    """Tell whether any string of a value (bounded in depth) holds a NUL or a lone surrogate."""
    match value:
        case str():
            return _UNSTORABLE.search(value) is not None
        case dict():
            return any(_holds_unstorable(key) or _holds_unstorable(item) for key, item in value.items())
        case list():
            return any(map(_holds_unstorable, value))
        case _:
            return False


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise BadPayloadError("duplicate-keys", "the body gives a key twice")
    return keys


def _refuse_constant(name: str) -> None:
    raise BadPayloadError("not-json", f"the body is not JSON: {name} is not a JSON value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_int=integer
)
