"""How an event looks in HTTP headers, and what a receiver's Retry-After means. Pure.

Values from a payload can never break a header: what isn't printable ASCII is percent-encoded.
"""

from __future__ import annotations

import email.utils
import string
from datetime import UTC
from urllib.parse import quote

from relay.model import Delivery

MAX_HEADER_CHARACTERS = 255
_PRINTABLE = string.punctuation + " "


def header_text(value: str) -> str:
    """Return any text as it can stand in a header.

    Cut at MAX_HEADER_CHARACTERS, then percent-encoded as UTF-8 where it isn't printable ASCII; so are blanks
    at either end, which HTTP would drop.
    """
    value = value[:MAX_HEADER_CHARACTERS]
    core = value.strip(" ")
    if value.isascii() and value.isprintable() and core == value:
        return value
    leading = len(value) - len(value.lstrip(" "))
    encoded = quote(core, safe=_PRINTABLE, errors="surrogateescape")
    return "%20" * leading + encoded + "%20" * (len(value) - leading - len(core))


def event_lines(delivery: Delivery, span_id: int) -> str:
    """Return the lines that tell a receiver which event, delivery and attempt this is, each with its end.

    Args:
        delivery: about to be tried.
        span_id: of this attempt, 64 random bits (W3C Trace Context).
    """
    event = delivery.event
    event_id = header_text(event.event_id)
    lines = (
        f"Content-Type: {event.content_type}\r\n"
        f"Idempotency-Key: {event_id}\r\n"
        f"X-ITscope-Event-Id: {event_id}\r\n"
    )
    if event.event_type is not None:
        lines += f"X-ITscope-Event-Type: {header_text(event.event_type)}\r\n"
    if event.transaction_status is not None:
        lines += f"X-ITscope-Transaction-Status: {header_text(event.transaction_status)}\r\n"
    return (
        f"{lines}X-Relay-Delivery-Id: {delivery.id}\r\n"
        f"X-Relay-Attempt: {delivery.attempts + 1}\r\n"
        f"traceparent: 00-{event.trace_id}-{span_id or 1:016x}-01\r\n"
    )


def parse_retry_after(value: str, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, None where it makes no sense (RFC 9110)."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return None
