"""Durations, sizes and statuses as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.units import format_duration, parse_duration, parse_size, parse_statuses

DURATION_HINT = "write a duration as a number and a unit, such as 500ms, 30s, 10m, 2h or 3d"
DURATION_BOUNDS = "a duration must be longer than zero and at most 36500d"
SIZE_HINT = "write a size as a whole number above zero and a unit, such as 64KiB or 1MiB"


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("10m", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
        ("1.5s", timedelta(milliseconds=1500)),
        ("0.5h", timedelta(minutes=30)),
        ("0.001ms", timedelta(microseconds=1)),
        ("36500d", timedelta(days=36500)),
    ],
)
def test_duration_is_a_number_and_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "value",
    [
        "",
        "30",
        "s",
        "30 s",
        " 30s",
        "30s\n",
        "-1s",
        "+1s",
        "1e3s",
        ".5s",
        "1.s",
        "30S",
        "30sec",
        "1m30s",
        30,
        1.5,
        True,
        None,
        ["30s"],
    ],
)
def test_anything_else_is_no_duration(value: Any) -> None:
    with pytest.raises(ValueError, match=DURATION_HINT):
        parse_duration(value)


@pytest.mark.parametrize("text", ["0s", "0.0d", "0.0001ms", "36500.1d", "36501d", "9" * 400 + "s"])
def test_duration_is_longer_than_zero_and_at_most_a_century(text: str) -> None:
    with pytest.raises(ValueError, match=DURATION_BOUNDS):
        parse_duration(text)


def test_parsed_duration_is_taken_as_it_is() -> None:
    assert parse_duration(timedelta(seconds=7)) == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("value", "size"),
    [("1B", 1), ("64KiB", 65536), ("1MiB", 1048576), ("2GiB", 2147483648), ("007KiB", 7168), (4096, 4096)],
)
def test_size_is_a_whole_number_of_bytes(value: Any, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "1KB",
        "1 KiB",
        "1.5MiB",
        "-1B",
        "0B",
        "0MiB",
        "1kib",
        "9" * 5000 + "B",
        0,
        -1,
        1.5,
        True,
        None,
    ],
)
def test_anything_else_is_no_size(value: Any) -> None:
    with pytest.raises(ValueError, match=SIZE_HINT):
        parse_size(value)


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        ([], set()),
        (["2xx"], set(range(200, 300))),
        ([409, 410], {409, 410}),
        (["1xx", 599], {*range(100, 200), 599}),
        (["2xx", 200], set(range(200, 300))),
    ],
)
def test_statuses_are_codes_and_classes(value: Any, codes: set[int]) -> None:
    assert parse_statuses(value) == codes


@pytest.mark.parametrize("entry", ["6xx", "0xx", "2XX", "2x", "200", 99, 600, True, None, 2.0, [200]])
def test_wrong_status_is_named(entry: Any) -> None:
    with pytest.raises(ValueError, match="is neither a status code such as 409 nor a class such as 2xx") as e:
        parse_statuses([200, entry])
    assert str(e.value).startswith(repr(entry))


@pytest.mark.parametrize("value", ["2xx", 200, {"2xx": True}, None])
def test_statuses_are_a_list(value: Any) -> None:
    with pytest.raises(ValueError, match=r"write a list of status codes, such as \[2xx, 409\]"):
        parse_statuses(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "500ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m"), (90, "90s"), (7200, "2h"), (259200, "3d")],
)
def test_duration_is_said_as_a_person_would(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 99_999), st.sampled_from([0.001, 1, 60, 3600]))
def test_said_duration_reads_as_itself(number: int, unit: float) -> None:
    seconds = number * unit
    read = parse_duration(format_duration(seconds)).total_seconds()
    assert read == pytest.approx(seconds, rel=1e-5)
