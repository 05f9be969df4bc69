"""How values read on pages: what nobody sees is made visible, what is long is cut, charts are to scale."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.admin.pages import shown
from relay.admin.pages.asked import local_path
from relay.admin.pages.chart import HEIGHT, MINUTES, chart
from relay.admin.pages.course import kinds, newest_deliveries, order_ids
from relay.admin.pages.states import BREAKER, DELIVERING, HELD, PAUSED, UNCONFIGURED, WAITING, lane_state
from relay.history import Minute
from relay.model import DeliveryState, LaneState, References
from relay.store.repair import DeliveryRecord, EventRecord

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain\n\ttext äß😀 مرحبا", "plain\n\ttext äß😀 مرحبا"),
        ("\u202eevil\u202c", "[U+202E]evil[U+202C]"),
        ("a\u200bb\u2066c\ufeff", "a[U+200B]b[U+2066]c[U+FEFF]"),
        ("a\0b\x1b[31m\x9b", "a[U+0000]b[U+001B][31m[U+009B]"),
        ("\ud800", "[U+D800]"),
        ("\U000e0041", "[U+E0041]"),
    ],
)
def test_what_nobody_sees_is_made_visible(text: str, seen: str) -> None:
    assert shown.visible(text) == seen


def test_long_text_is_cut_and_says_how_long_it_is() -> None:
    assert shown.cut("x" * 10, 10) == shown.Cut("x" * 10, None)
    assert shown.cut("x" * 11, 10) == shown.Cut("x" * 10, 11)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (61, "1 min 1 s")),
        *((3600, "1 h"), (3601, "1 h"), (7500, "2 h 5 min"), (200_000, "2 d 7 h")),
    ],
)
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert shown.duration(seconds) == text


@given(JSON)
def test_readable_json_is_the_same_json(value: Any) -> None:
    assert json.loads(shown.readable_json(json.dumps(value))) == value


def test_readable_json_has_a_line_for_each_value_and_numbers_as_they_were_sent() -> None:
    readable = shown.readable_json('{"a":[1.50,1e999],"b":{},"c":"\\u00e4\\"<"}')
    assert readable == '{\n  "a": [\n    1.50,\n    1e999\n  ],\n  "b": {\n  },\n  "c": "ä\\"<"\n}'


@pytest.mark.parametrize("text", ["", "{", '"', '{"a": "unclosed', "]]]]", "[" * 70_000, "\\", '{"a" 1}'])
def test_readable_json_takes_any_text(text: str) -> None:
    assert len(shown.readable_json(text)) < 6_000_000


def test_long_string_in_readable_json_is_cut() -> None:
    readable = shown.readable_json(json.dumps({"note": "x" * 50_000}))
    assert len(readable) < 2100
    assert "… (50,000)" in readable


def test_string_that_the_payload_was_cut_in_tells_no_length() -> None:
    readable = shown.readable_json('{"note": "' + "x" * 50_000)
    assert readable.endswith("x…")
    assert len(readable) < 2100


@pytest.mark.parametrize(
    ("id_", "path"),
    [
        ("4711", "/orders/4711"),
        ("a/b?c#d%", "/orders/a%2Fb%3Fc%23d%25"),
        ("..", "/find?q=.."),
        ("ä", "/orders/%C3%A4"),
    ],
)
def test_order_of_any_name_has_an_address(id_: str, path: str) -> None:
    assert shown.order_path(id_) == path


@pytest.mark.parametrize("path", ["/", "/find?q=4711", "/orders/a%20b#event-1"])
def test_path_of_this_site_is_taken_as_it_is(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path", [None, "", "//evil", "/\\evil", "/\t/evil", "http://evil", "evil", "/a b", "/a\\b", "/a\n", "/ä"]
)
def test_any_other_path_is_none(path: str | None) -> None:
    assert local_path(path, "/here") == "/here"


# ---- the chart


def test_present_minute_is_on_the_right_and_old_ones_are_left_out() -> None:
    minutes = [Minute(at, 1, 0) for at in (-5000.0, 10.0, 3590.0)]
    found = chart(minutes, now=3600.0)
    assert [bar.x for bar in found.bars] == [0, 236]
    assert found.delivered == 2


def test_bars_are_to_scale_and_failures_stand_on_deliveries() -> None:
    found = chart([Minute(0, 30, 10), Minute(60, 10, 0)], now=100)
    delivered, failed, half = found.bars
    assert (delivered.kind, failed.kind, half.kind) == ("delivered", "failed", "delivered")
    assert delivered.height == pytest.approx(HEIGHT * 0.75)
    assert failed.y == pytest.approx(0)
    assert failed.y + failed.height == pytest.approx(delivered.y)
    assert half.height == pytest.approx(HEIGHT * 0.25)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=MINUTES))
def test_bars_stay_in_the_chart_and_a_single_failure_is_seen(numbers: list[tuple[int, int]]) -> None:
    minutes = [Minute(60.0 * place, *number) for place, number in enumerate(numbers)]
    found = chart(minutes, now=60.0 * MINUTES)
    assert all(
        bar.y >= -0.01 and bar.y + bar.height <= HEIGHT + 0.02 and bar.height > 0 for bar in found.bars
    )
    failing = [minute for minute in minutes if minute.failed and minute.at > 0]
    assert len([bar for bar in found.bars if bar.kind == "failed"]) >= len(failing)
    assert found.is_known == any(minute.at > 0 for minute in minutes)


# ---- states


@pytest.mark.parametrize(
    ("lane", "paused_at", "counts", "state"),
    [
        (LaneState(), None, (0, 0), DELIVERING),
        (LaneState(), None, (1, 5), DELIVERING),
        (LaneState(), None, (0, 5), WAITING),
        (LaneState(held_until=2.0), None, (0, 5), HELD),
        (LaneState(held_until=2.0, probe_at=3.0), None, (0, 5), BREAKER),
        (LaneState(paused_at=1.0, probe_at=3.0), 1.0, (0, 5), PAUSED),
        (None, None, (0, 5), UNCONFIGURED),
        (None, 1.0, (0, 0), PAUSED),
    ],
)
def test_lane_says_what_rests_it_first(
    lane: LaneState | None, paused_at: float | None, counts: tuple[int, int], state: object
) -> None:
    in_flight, pending = counts
    assert lane_state(lane, paused_at, in_flight=in_flight, pending=pending) == state


def delivery(id_: int, destination: str, state: DeliveryState) -> DeliveryRecord:
    return DeliveryRecord(
        *(id_, 1, "e", "itscope", None, None, destination, state, 0.0, 0.0, 1, None, False, None, None),
        received_at=0.0,
        references=References(),
    )


def an_event(
    id_: int, event_type: str | None, *deliveries: DeliveryRecord, order: str = "4711"
) -> EventRecord:
    references = References(order_id=order, itscope_order_id="600-1")
    return EventRecord(
        id_,
        "itscope",
        f"e-{id_}",
        float(id_),
        "",
        event_type,
        None,
        references,
        "",
        not deliveries,
        2,
        deliveries,
    )


DEAD, DELIVERED, PENDING = DeliveryState.DEAD, DeliveryState.DELIVERED, DeliveryState.PENDING


def test_order_says_of_each_kind_the_worst_that_became_of_it() -> None:
    events = [
        an_event(1, "ORDER", delivery(1, "erp", DELIVERED)),
        an_event(2, "DELIVERY", delivery(2, "erp", DELIVERED), delivery(3, "crm", DEAD)),
        an_event(3, "INVOICE", delivery(4, "erp", PENDING)),
        an_event(4, "OTHER"),
    ]
    assert [(kind.event_type, kind.state[1]) for kind in kinds(events)] == [
        ("ORDER", "delivered"),
        ("ORDERRESPONSE", "has not come"),
        ("DELIVERY", "came, but was not delivered"),
        ("INVOICE", "came, and is being delivered"),
        ("OTHER", "came, but no route wanted it"),
    ]


def test_replay_stands_for_what_it_repeats() -> None:
    discarded = delivery(1, "erp", DeliveryState.DISCARDED)
    event = an_event(1, "ORDER", discarded, delivery(2, "crm", DELIVERED), delivery(3, "erp", DELIVERED))
    assert [(one.id, one.destination) for one in newest_deliveries(event)] == [(3, "erp"), (2, "crm")]
    assert kinds([event])[0].state == ("good", "delivered")


def test_order_has_the_ids_of_all_its_events_once() -> None:
    assert order_ids([an_event(1, None), an_event(2, None, order="4712")]) == ["4711", "600-1", "4712"]
