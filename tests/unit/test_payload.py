"""What counts as a payload, and what each bad body is called."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import BadPayloadError
from relay.payload import KNOWN_EVENT_TYPES, MAX_DEPTH, MAX_ID_LENGTH, event_id, parse, scalar_text


def nested(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    """Return an object of so many levels, itself included."""
    return f'{{"a":{opening * (levels - 1)}1{closing * (levels - 1)}}}'.encode()


BAD_BODIES = [
    ("empty", b"", "not-json"),
    ("blank", b" \r\n\t", "not-json"),
    ("a word", b"hello", "not-json"),
    ("a form", b"eventId=1&eventType=ORDER", "not-json"),
    ("xml", b"<event/>", "not-json"),
    ("cut off", b'{"a": 1', "not-json"),
    ("cut off in a string", b'{"a": "[[[', "not-json"),
    ("cut off in an escape", b'{"a": "\\u12', "not-json"),
    ("unknown escape", b'{"a": "\\x41"}', "not-json"),
    ("comma at the end", b'{"a": 1,}', "not-json"),
    ("comment", b'{"a": 1} // done', "not-json"),
    ("single quotes", b"{'a': 1}", "not-json"),
    ("a blank that JSON doesn't know", '{"a": 1}\u00a0'.encode(), "not-json"),
    ("two objects", b'{"a": 1}{"a": 1}', "not-json"),
    ("key without quotes", b"{a: 1}", "not-json"),
    ("key that is a number", b'{1: "a"}', "not-json"),
    ("leading zero", b'{"a": 01}', "not-json"),
    ("plus", b'{"a": +1}', "not-json"),
    ("hexadecimal", b'{"a": 0x1}', "not-json"),
    ("raw line break in a string", b'{"a": "1\n2"}', "not-json"),
    ("raw NUL in a string", b'{"a": "\x00"}', "not-json"),
    ("NUL behind", b'{"a": 1}\x00', "not-json"),
    ("byte order mark", b'\xef\xbb\xbf{"a": 1}', "not-json"),
    ("NaN", b'{"a": NaN}', "not-json"),
    ("Infinity", b'{"a": Infinity}', "not-json"),
    ("-Infinity", b'{"a": [-Infinity]}', "not-json"),
    ("NaN alone", b"NaN", "not-json"),
    ("array", b'[{"eventId": "1"}]', "not-an-object"),
    ("empty array", b"[]", "not-an-object"),
    ("text", b'"hello"', "not-an-object"),
    ("number", b"5", "not-an-object"),
    ("true", b"true", "not-an-object"),
    ("null", b"null", "not-an-object"),
    ("Latin-1", '{"a": "ü"}'.encode("latin-1"), "not-utf-8"),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), "not-utf-8"),
    ("overlong UTF-8", b'{"a": "\xc0\x80"}', "not-utf-8"),
    ("surrogate in UTF-8", b'{"a": "\xed\xa0\x80"}', "not-utf-8"),
    ("cut off UTF-8", b'{"a": "\xe2\x82', "not-utf-8"),
    ("key twice", b'{"a": 1, "a": 1}', "duplicate-keys"),
    ("key twice, once escaped", b'{"a": 1, "\\u0061": 2}', "duplicate-keys"),
    ("key twice inside", b'{"a": {"b": [{"c": 1, "c": 2}]}}', "duplicate-keys"),
    ("escaped NUL", b'{"a": "\\u0000"}', "unstorable-text"),
    ("escaped NUL in a key", b'{"a\\u0000": 1}', "unstorable-text"),
    ("escaped NUL inside", b'{"a": [1, {"b": ["x\\u0000"]}]}', "unstorable-text"),
    ("lone high surrogate", b'{"a": "\\ud83d"}', "unstorable-text"),
    ("lone low surrogate", b'{"a": "\\uDE00"}', "unstorable-text"),
    ("surrogates in the wrong order", b'{"a": "\\ude00\\ud83d"}', "unstorable-text"),
    ("lone surrogate in a key", b'{"\\uD800": 1}', "unstorable-text"),
    ("one level too deep", nested(MAX_DEPTH + 1), "too-deep"),
    ("objects one level too deep", nested(MAX_DEPTH + 1, '{"a":', "}"), "too-deep"),
    ("10,000 levels", nested(10_000), "too-deep"),
    ("10,000 levels that never end", b"[" * 10_000, "too-deep"),
    ("10,000 levels behind a text", b'{"a\\"]": ' + b"[" * 10_000, "too-deep"),
    ("half a million quotes that never close", b"[" * 101 + b'\\"' * 500_000, "too-deep"),
    ("a million levels", b'{"a":' * 1_000_000, "too-deep"),
]


@pytest.mark.parametrize(("body", "reason"), [pytest.param(b, r, id=i) for i, b, r in BAD_BODIES])
def test_bad_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(BadPayloadError) as refused:
        parse(body)
    assert refused.value.reason == reason
    assert str(refused.value).startswith("the body ")


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        pytest.param(b"{}", {}, id="empty object"),
        pytest.param(b' \r\n\t{"a": 1}\n', {"a": 1}, id="blanks around"),
        pytest.param(b'{"a": null, "b": [true, {}]}', {"a": None, "b": [True, {}]}, id="values"),
        pytest.param('{"ü": "€"}'.encode(), {"ü": "€"}, id="UTF-8"),
        pytest.param(b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}, id="surrogate pair"),
        pytest.param(b'{"a": "\\\\u0000"}', {"a": "\\u0000"}, id="escaped backslash before u0000"),
        pytest.param(b'{"a": "\\\\ud800"}', {"a": "\\ud800"}, id="escaped backslash before ud800"),
        pytest.param(b'{"a": "\\u0001"}', {"a": "\x01"}, id="other control character"),
        pytest.param(b'{"a": {"k": 1}, "b": {"k": 1}}', {"a": {"k": 1}, "b": {"k": 1}}, id="key again"),
        pytest.param(b'{"a": 1, "A": 2}', {"a": 1, "A": 2}, id="keys that differ in case"),
        pytest.param(b'{"": 1}', {"": 1}, id="empty key"),
        pytest.param(b'{"a": "' + b"[" * 500 + b'"}', {"a": "[" * 500}, id="brackets in a text"),
        pytest.param(
            b'{"a": "\\"' + b"{" * 500 + b'"}', {"a": '"' + "{" * 500}, id="brackets behind a quote in a text"
        ),
        pytest.param(b'{"a": [' + b"[]," * 500 + b"[]]}", {"a": [[]] * 501}, id="wide, not deep"),
        pytest.param(b'{"a": 1e999}', {"a": float("inf")}, id="number above a double"),
        pytest.param(b'{"a": ' + b"9" * 300 + b"}", {"a": int("9" * 300)}, id="300 digits"),
        pytest.param(b'{"a": -' + b"9" * 5000 + b"}", {"a": "-" + "9" * 5000}, id="5,000 digits"),
    ],
)
def test_json_object_is_accepted(body: bytes, payload: dict[str, Any]) -> None:
    assert parse(body) == payload


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_deepest_allowed_nesting_is_accepted(brackets: tuple[str, str]) -> None:
    assert parse(nested(MAX_DEPTH, *brackets)).keys() == {"a"}


def test_bad_bodys_place_is_named() -> None:
    with pytest.raises(BadPayloadError, match=r"not JSON: Expecting value at line 2, column 6$"):
        parse(b'{\n"a": }')
    with pytest.raises(BadPayloadError, match=r"not UTF-8 \(byte 7\)$"):
        parse(b'{"a": "\xff"}')


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('abc\\"[]{}ü'), inner),
        max_leaves=20,
    ),
    st.booleans(),
)
def test_what_json_writes_is_read_back(value: Any, ascii_only: bool) -> None:  # noqa: FBT001
    payload = {"value": value}
    assert parse(json.dumps(payload, ensure_ascii=ascii_only).encode()) == payload


@given(st.binary() | st.text('{}[]":,\\u0d8 1eE.-', max_size=60).map(str.encode))
def test_any_body_is_a_payload_or_refused_with_a_known_reason(body: bytes) -> None:
    try:
        payload = parse(body)
    except BadPayloadError as error:
        assert error.reason in {reason for _, _, reason in BAD_BODIES}  # noqa: PT017
    else:
        event_id(payload, body).encode()
        assert isinstance(payload, dict)


@pytest.mark.parametrize("given_id", ["x", " ", "ü" * MAX_ID_LENGTH, "e2a6a466-3b62", "sha256:1"])
def test_usable_event_id_is_taken_as_it_is(given_id: str) -> None:
    assert event_id({"eventId": given_id}, b"body") == given_id


@pytest.mark.parametrize("given_id", ["", "x" * (MAX_ID_LENGTH + 1), None, 5, True, 1.5, ["x"], {"x": "y"}])
def test_unusable_event_id_becomes_the_bodys_hash(given_id: Any) -> None:
    assert event_id({"eventId": given_id}, b"body") == f"sha256:{hashlib.sha256(b'body').hexdigest()}"


def test_missing_event_id_becomes_the_bodys_hash() -> None:
    empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert event_id(parse(b"{}"), b"{}") == empty


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("ORDER", "ORDER"),
        (" 5 ", " 5 "),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1, "1"),
        (-5, "-5"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e300, str(int(1e300))),
        (float("inf"), "inf"),
        (None, None),
        ([], None),
        (["ORDER"], None),
        ({}, None),
    ],
)
def test_scalar_reads_as_in_json(value: Any, text: str | None) -> None:
    assert scalar_text(value) == text


def test_itscopes_documented_event_types_are_known() -> None:
    assert set(KNOWN_EVENT_TYPES) == {"ORDER", "ORDERRESPONSE", "DELIVERY", "INVOICE"}
