"""A repair in steps leaves the relay its time."""

from __future__ import annotations

import pytest

from relay.pace import parse_rate
from relay.repair import MAX_STEP, Goal


@pytest.mark.parametrize(
    ("pace", "made", "seconds"),
    [
        pytest.param("100/s", 10, 0.08, id="a little less than until the last one is due"),
        pytest.param("50/s", 5, 0.08, id="the default pace"),
        pytest.param("1000/h", 20, 1.0, id="whoever asks isn't kept waiting for long"),
        pytest.param("10000/s", 20, 0.05, id="webhooks come first whatever the pace"),
        pytest.param("50/s", 0, 0.05, id="nothing was made"),
    ],
)
def test_replays_are_made_a_little_faster_than_they_are_due(pace: str, made: int, seconds: float) -> None:
    assert Goal(None, by_routes=False, pace=parse_rate(pace)).rest_seconds(made) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("pace", "events"), [("100/min", 5), ("50/s", 5), ("200/s", 20), ("1000/s", 100), ("100000/s", MAX_STEP)]
)
def test_replays_are_made_in_steps_of_what_becomes_due_in_a_moment(pace: str, events: int) -> None:
    assert Goal(None, by_routes=False, pace=parse_rate(pace)).step == events
