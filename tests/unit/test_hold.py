"""When maintenance windows hold a destination, across changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.hold import Window, held_until, next_start, parse_window

EVERY_DAY = frozenset(range(7))
FORM = (
    "write a window as days, times and a time zone, such as Sun 02:00-05:00 Europe/Berlin,"
    " Mon-Fri 18:00-06:00 UTC or daily 22:30-23:00 Europe/Berlin"
)
DAY_SECONDS = 86400.0
WEEK_SECONDS = 7 * DAY_SECONDS


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def at(text: str) -> float:
    """Return an instant written as `2027-03-28 01:00`, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def said(instant: float | None) -> str | None:
    return None if instant is None else f"{datetime.fromtimestamp(instant, UTC):%Y-%m-%d %H:%M}"


SPRING, AUTUMN = at("2027-03-27 12:00"), at("2027-10-30 12:00")  # the day before the clock changes in Berlin
NOW = st.floats(1.6e9, 2.2e9) | st.floats(SPRING, SPRING + 86400) | st.floats(AUTUMN, AUTUMN + 86400)
ZONES = ("Europe/Berlin", "UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")
A_WINDOW = st.builds(
    lambda days, start, minutes, zone: parse_window(
        f"{days} {clock(start)}-{clock((start + minutes) % 1440)} {zone}"
    ),
    st.sampled_from(["daily", "Sun", "Sat,Sun", "Fri-Mon", "Mon-Fri", "Wed"]),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sampled_from(ZONES),
)
WINDOWS = st.lists(A_WINDOW, max_size=4)


# ---- as it is written


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ("daily", EVERY_DAY),
        ("Mon", {0}),
        ("Sun", {6}),
        ("Mon,Wed,Fri", {0, 2, 4}),
        ("Mon-Fri", {0, 1, 2, 3, 4}),
        ("Sat,Sun", {5, 6}),
        ("Fri-Mon", {4, 5, 6, 0}),
        ("Mon-Sun", EVERY_DAY),
        ("Tue-Mon", EVERY_DAY),
        ("Wed-Wed", {2}),
        ("Mon-Tue,Fri-Sat", {0, 1, 4, 5}),
        ("Mon-Wed,Tue-Thu,Tue", {0, 1, 2, 3}),
    ],
)
def test_days_are_names_ranges_and_lists(days: str, expected: set[int]) -> None:
    assert parse_window(f"{days} 02:00-05:00 UTC").days == expected


@pytest.mark.parametrize(
    ("times", "start", "end"),
    [
        ("02:00-05:00", 120, 300),
        ("00:00-24:00", 0, 1440),
        ("00:00-00:01", 0, 1),
        ("22:00-24:00", 1320, 1440),
        ("22:00-00:00", 1320, 1440),
        ("23:00-01:00", 1380, 1500),
        ("00:01-00:00", 1, 1440),
        ("23:59-23:58", 1439, 2878),
    ],
)
def test_end_before_the_start_is_on_the_next_day(times: str, start: int, end: int) -> None:
    window = parse_window(f"daily {times} Europe/Berlin")
    assert (window.start_minute, window.end_minute) == (start, end)
    assert window.zone == "Europe/Berlin"
    assert str(window) == window.text == f"daily {times} Europe/Berlin"


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "daily",
            "02:00-05:00",
            "Sun 02:00-05:00",
            "02:00-05:00 Europe/Berlin",
            "Sun 2-5 Europe/Berlin",
        ),
        *("Sun 02:00 - 05:00 UTC", "Sun  02:00-05:00 UTC", " Sun 02:00-05:00 UTC", "Sun 02:00-05:00 UTC\n"),
        *(
            "Sat, Sun 02:00-05:00 UTC",
            "Sun 02:00-05:00 UTC daily",
            "Sun 02:00-05:00 Zürich",
            "Sun 2am-5am UTC",
        ),
        *(
            "Sun 02:00-05:00 \0",
            f"Sun 02:00-05:00 {'x' * 65}",
            "Sun \u0660\u0662:00-05:00 UTC",
            5,
            True,
            None,
            ["Sun"],
        ),
    ],
)
def test_anything_else_is_no_window(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^write a window") as refused:
        parse_window(value)
    assert str(refused.value) == FORM


@pytest.mark.parametrize(
    "days", ["Sunday", "sun", "SUN", "So", "Sat,", ",Sat", "Sat-", "-Sat", "Mon-daily", "-"]
)
def test_wrong_days_are_named(days: str) -> None:
    with pytest.raises(ValueError, match="names no days") as refused:
        parse_window(f"{days} 02:00-05:00 UTC")
    assert str(refused.value) == f"{days!r} names no days; write daily, or days such as Mon-Fri or Sat,Sun"


@pytest.mark.parametrize(
    ("times", "wrong"),
    [
        ("24:00-05:00", "24:00"),
        ("2:00-05:00", "2:00"),
        ("02:00-5:00", "5:00"),
        ("02:60-05:00", "02:60"),
        ("02:00-24:01", "24:01"),
        ("25:00-26:00", "25:00"),
    ],
)
def test_wrong_time_is_named(times: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="is no time of the day") as refused:
        parse_window(f"Sun {times} UTC")
    assert str(refused.value) == f"{wrong} is no time of the day; write 00:00 to 23:59, or 24:00 as an end"


@pytest.mark.parametrize("time", ["00:00", "02:00"])
def test_end_that_is_the_start_is_refused(time: str) -> None:
    with pytest.raises(ValueError, match="begins when it ends") as refused:
        parse_window(f"Sun {time}-{time} UTC")
    assert str(refused.value) == f"{time}-{time} begins when it ends; write 00:00-24:00 for whole days"


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin?"),
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("Berlin", "did you mean Europe/Berlin?"),
        ("CEST", "write one such as Europe/Berlin or UTC"),
        ("MEZ", "write one such as Europe/Berlin or UTC"),
        ("../../etc/passwd", "write one such as Europe/Berlin or UTC"),
        ("/etc/localtime", "write one such as Europe/Berlin or UTC"),
    ],
)
def test_unknown_zone_is_named_and_a_close_one_suggested(zone: str, hint: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone") as refused:
        parse_window(f"Sun 02:00-05:00 {zone}")
    assert str(refused.value) == f"there is no time zone {zone}; {hint}"


def test_folder_of_zones_is_no_zone() -> None:
    with pytest.raises(ValueError, match=r"^there is no time zone Europe; did you mean "):
        parse_window("Sun 02:00-05:00 Europe")


def test_parsed_window_is_taken_as_it_is() -> None:
    window = parse_window("Sun 02:00-05:00 UTC")
    assert parse_window(window) is window


# ---- holds


def test_nothing_is_held_without_windows() -> None:
    assert held_until([], SPRING) is None
    assert next_start([], SPRING) is None


def test_window_holds_from_its_start_until_before_its_end() -> None:
    windows = [parse_window("Wed 10:00-11:30 UTC")]  # 2027-03-31
    assert held_until(windows, at("2027-03-31 10:00") - 0.001) is None
    assert said(held_until(windows, at("2027-03-31 10:00"))) == "2027-03-31 11:30"
    assert said(held_until(windows, at("2027-03-31 11:30") - 0.001)) == "2027-03-31 11:30"
    assert held_until(windows, at("2027-03-31 11:30")) is None
    assert held_until(windows, at("2027-04-01 10:30")) is None


def test_next_start_is_after_now() -> None:
    windows = [parse_window("Wed 10:00-11:30 UTC"), parse_window("daily 20:00-21:00 UTC")]
    assert said(next_start(windows, at("2027-03-30 20:00") - 0.001)) == "2027-03-30 20:00"
    assert said(next_start(windows, at("2027-03-30 20:00"))) == "2027-03-31 10:00"
    assert said(next_start(windows, at("2027-03-31 10:00"))) == "2027-03-31 20:00"
    assert said(next_start(windows[:1], at("2027-03-31 10:00"))) == "2027-04-07 10:00"


def test_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    windows = [parse_window("Sun 23:00-01:00 UTC")]  # 2027-04-04 is a Sunday
    assert held_until(windows, at("2027-04-04 00:30")) is None
    assert said(held_until(windows, at("2027-04-05 00:30"))) == "2027-04-05 01:00"


def test_days_are_those_of_the_zone() -> None:
    windows = [parse_window("Mon 00:00-01:00 Pacific/Auckland")]  # a Sunday in UTC
    assert said(next_start(windows, at("2027-06-01 00:00"))) == "2027-06-06 12:00"
    assert said(held_until(windows, at("2027-06-06 12:30"))) == "2027-06-06 13:00"


@pytest.mark.parametrize(
    "texts",
    [
        ["Fri 18:00-24:00 UTC", "Sat 00:00-12:00 UTC"],  # adjoining
        ["Fri 18:00-03:00 UTC", "Sat 02:00-12:00 UTC"],  # overlapping
        ["Fri 18:00-12:00 UTC", "Sat 01:00-02:00 UTC"],  # one within the other
        ["Fri 18:00-24:00 UTC", "Sat 01:00-04:00 Europe/Berlin", "Sat 03:00-12:00 UTC"],  # of two zones
    ],
)
def test_windows_that_overlap_or_adjoin_make_one_hold(texts: list[str]) -> None:
    for windows in (texts, texts[::-1]):
        held = held_until([parse_window(text) for text in windows], at("2027-01-08 20:00"))
        assert said(held) == "2027-01-09 12:00"


def test_gap_of_a_minute_ends_a_hold() -> None:
    windows = [parse_window("Fri 18:00-23:59 UTC"), parse_window("Sat 00:00-12:00 UTC")]
    assert said(held_until(windows, at("2027-01-08 20:00"))) == "2027-01-08 23:59"


def test_hold_without_an_end_is_said_to_last_a_week() -> None:
    windows = [parse_window("daily 00:00-24:00 Europe/Berlin")]
    assert held_until(windows, SPRING) == SPRING + WEEK_SECONDS
    assert said(held_until([parse_window("Tue-Sun 00:00-24:00 UTC")], at("2027-01-05 12:00"))) == (
        "2027-01-11 00:00"
    )


# ---- changes of the clock: 2027 in Berlin on 28 March, 01:00 UTC, and on 31 October, 01:00 UTC


def assert_next_hold(text: str, now: float, start: str, end: str) -> None:
    """Check that a window holds from exactly this start until exactly this end."""
    windows = [parse_window(text)]
    begin = next_start(windows, now)
    assert begin is not None
    assert held_until(windows, begin - 0.001) is None
    assert (said(begin), said(held_until(windows, begin))) == (start, end)
    assert said(held_until(windows, at(end) - 0.001)) == end
    assert held_until(windows, at(end)) is None


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("Sun 02:00-05:00", "2027-03-28 01:00", "2027-03-28 03:00"),  # 03:00-05:00, two hours
        ("Sun 02:15-02:45", "2027-03-28 01:15", "2027-03-28 01:45"),  # 03:15-03:45
        ("Sun 01:30-02:30", "2027-03-28 00:30", "2027-03-28 01:30"),  # until 03:30
        ("Sun 01:00-02:00", "2027-03-28 00:00", "2027-03-28 01:00"),
        ("Sun 03:00-04:00", "2027-03-28 01:00", "2027-03-28 02:00"),
        ("Sun 02:30-04:00", "2027-03-28 01:30", "2027-03-28 02:00"),  # from 03:30
        ("Sun 00:00-24:00", "2027-03-27 23:00", "2027-03-28 22:00"),  # 23 hours
        ("daily 22:30-23:00", "2027-03-27 21:30", "2027-03-27 22:00"),
        ("daily 23:00-01:00", "2027-03-27 22:00", "2027-03-28 00:00"),
        ("daily 23:00-03:00", "2027-03-27 22:00", "2027-03-28 01:00"),  # three hours
        ("Sat 20:00-02:30", "2027-03-27 19:00", "2027-03-28 01:30"),
        ("Sun 02:30-03:10", "2027-04-04 00:30", "2027-04-04 01:10"),  # no time for it on 28 March
    ],
)
def test_hold_when_the_clock_goes_forward(text: str, start: str, end: str) -> None:
    assert_next_hold(f"{text} Europe/Berlin", SPRING, start, end)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("Sun 02:00-05:00", "2027-10-31 00:00", "2027-10-31 04:00"),  # four hours
        ("Sun 02:15-02:45", "2027-10-31 00:15", "2027-10-31 01:45"),  # from the first until the second
        ("Sun 01:30-02:30", "2027-10-30 23:30", "2027-10-31 01:30"),
        ("Sun 02:30-03:30", "2027-10-31 00:30", "2027-10-31 02:30"),
        ("Sun 01:00-02:00", "2027-10-30 23:00", "2027-10-31 01:00"),
        ("Sun 03:00-04:00", "2027-10-31 02:00", "2027-10-31 03:00"),
        ("Sun 00:00-24:00", "2027-10-30 22:00", "2027-10-31 23:00"),  # 25 hours
        ("daily 22:30-23:00", "2027-10-30 20:30", "2027-10-30 21:00"),
        ("daily 23:00-01:00", "2027-10-30 21:00", "2027-10-30 23:00"),
        ("daily 23:00-03:00", "2027-10-30 21:00", "2027-10-31 02:00"),  # five hours
    ],
)
def test_hold_when_the_clock_goes_back(text: str, start: str, end: str) -> None:
    assert_next_hold(f"{text} Europe/Berlin", AUTUMN, start, end)


@pytest.mark.parametrize(
    ("day", "utc"),
    [
        ("2027-03-27", "21:30"),
        ("2027-03-28", "20:30"),
        ("2027-03-29", "20:30"),
        ("2027-10-30", "20:30"),
        ("2027-10-31", "21:30"),
        ("2027-11-01", "21:30"),
    ],
)
def test_daily_window_stays_at_its_time_of_the_wall_clock(day: str, utc: str) -> None:
    windows = [parse_window("daily 22:30-23:00 Europe/Berlin")]
    start = next_start(windows, at(f"{day} 12:00"))
    assert said(start) == f"{day} {utc}"
    assert start is not None
    assert held_until(windows, start) == start + 1800


# ---- whatever happens


@given(WINDOWS, NOW)
def test_hold_ends_after_now_and_nothing_is_held_then(windows: list[Window], now: float) -> None:
    until = held_until(windows, now)
    if until is not None:
        assert now < until <= now + WEEK_SECONDS
        assert until == now + WEEK_SECONDS or held_until(windows, until) is None


@given(A_WINDOW, NOW)
def test_single_window_holds_exactly_by_the_wall_clock_where_the_clock_does_not_change(
    window: Window, now: float
) -> None:
    zone = ZoneInfo(window.zone)
    local = datetime.fromtimestamp(now, zone)
    if len({(local + timedelta(days=days)).utcoffset() for days in (-3, -2, -1, 0, 1, 2, 3)}) > 1:
        return
    minute = local.hour * 60 + local.minute
    since = [(local.weekday(), minute), ((local.weekday() - 1) % 7, minute + 1440)]  # today's, yesterday's
    inside = any(
        day in window.days and window.start_minute <= passed < window.end_minute for day, passed in since
    )
    assert (held_until([window], now) is not None) == inside


@given(WINDOWS, NOW)
def test_hold_begins_at_the_next_start_and_not_before(windows: list[Window], now: float) -> None:
    start = next_start(windows, now)
    assert (start is None) == (not windows)
    if start is None:
        return
    assert now < start <= now + 2 * WEEK_SECONDS + DAY_SECONDS
    assert held_until(windows, start) is not None
    between = (now + start) / 2
    if held_until(windows, now) is None and between < start:
        assert held_until(windows, between) is None
