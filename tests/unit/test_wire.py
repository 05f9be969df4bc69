"""How an event looks in headers, and what a Retry-After means."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Delivery, Event
from relay.wire import MAX_HEADER_CHARACTERS, event_lines, header_text, parse_retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT

# Whatever a payload or a received header can hold: all of Unicode, and bytes that weren't UTF-8.
TEXTS = st.text(
    st.characters(codec="utf-8") | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=300
)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("", ""),
        ("ORDER", "ORDER"),
        ("a b", "a b"),
        ('100% "ok"; \\ \'~', '100% "ok"; \\ \'~'),
        ("a\r\nX-Evil: 1", "a%0D%0AX-Evil: 1"),
        ("a\x00b\x7f", "a%00b%7F"),
        ("a\tb", "a%09b"),
        ("Größe", "Gr%C3%B6%C3%9Fe"),
        ("€\U0001f600", "%E2%82%AC%F0%9F%98%80"),
        (" a ", "%20a%20"),
        ("  ", "%20%20"),
        ("a\udcff", "a%FF"),
        ("\N{NO-BREAK SPACE}a", "%C2%A0a"),
        ("\N{LINE SEPARATOR}", "%E2%80%A8"),
    ],
)
def test_text_is_encoded_where_it_is_not_printable_ascii(text: str, header: str) -> None:
    assert header_text(text) == header


def test_text_is_cut_at_255_characters() -> None:
    assert MAX_HEADER_CHARACTERS == 255
    assert header_text("x" * 256) == "x" * 255
    assert header_text("ü" * 256) == "%C3%BC" * 255


@given(TEXTS)
def test_header_is_always_printable_ascii(text: str) -> None:
    header = header_text(text)
    assert header.isascii()
    assert header.isprintable()
    assert header == header.strip()


@given(TEXTS.filter(lambda text: "%" not in text))
def test_header_can_be_decoded(text: str) -> None:
    assert unquote(header_text(text), errors="surrogateescape") == text[:255]


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=255))
def test_printable_ascii_stays_as_it_is(text: str) -> None:
    assert header_text(text) == text


def delivery(event_type: str | None, status: str | None) -> Delivery:
    event = Event("itscope", "ä-1", NOW, "application/json", event_type, status, "ab" * 16, b"{}")
    return Delivery(7, "erp", NOW, 2, 1, event)


def test_delivery_tells_event_delivery_and_attempt() -> None:
    assert event_lines(delivery("ORDER", "SENT\n"), 255).split("\r\n") == [
        "Content-Type: application/json",
        "Idempotency-Key: %C3%A4-1",
        "X-ITscope-Event-Id: %C3%A4-1",
        "X-ITscope-Event-Type: ORDER",
        "X-ITscope-Transaction-Status: SENT%0A",
        "X-Relay-Delivery-Id: 7",
        "X-Relay-Attempt: 3",
        f"traceparent: 00-{'ab' * 16}-00000000000000ff-01",
        "",
    ]


def test_absent_type_and_status_have_no_header() -> None:
    lines = event_lines(delivery(None, None), 1)
    assert "Type" not in lines.replace("Content-Type", "")
    assert "Status" not in lines


def test_span_id_is_never_zero_which_w3c_forbids() -> None:
    assert f"traceparent: 00-{'ab' * 16}-0000000000000001-01\r\n" in event_lines(delivery(None, None), 0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("9" * 5000, 999_999_999),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 09:50:37 +0100", 60),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value", ["", "-5", "+5", "1.5", "1e3", "soon", "٣", "²", "Sun, 99 Nov 1994 08:50:37 GMT", "1, 2", "\x00"]
)
def test_retry_after_that_makes_no_sense_is_ignored(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.text() | st.text("0123456789:+-, JanMonGTZ.", max_size=40))
def test_retry_after_never_fails_and_never_asks_for_the_past(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
