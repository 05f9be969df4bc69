"""A repair in steps leaves the relay its time."""

from __future__ import annotations

import pytest

from relay.pace import parse_rate
from relay.repair import Goal


@pytest.mark.parametrize(
    ("pace", "made", "seconds"),
    [
        pytest.param("100/s", 50, 0.4, id="a little less than until the last one is due"),
        pytest.param("50/s", 50, 0.8, id="the default pace"),
        pytest.param("1000/h", 20, 1.0, id="whoever asks isn't kept waiting for long"),
        pytest.param("10000/s", 20, 0.05, id="webhooks come first whatever the pace"),
        pytest.param("50/s", 0, 0.05, id="nothing was made"),
    ],
)
def test_replays_are_made_a_little_faster_than_they_are_due(pace: str, made: int, seconds: float) -> None:
    assert Goal(None, by_routes=False, pace=parse_rate(pace)).rest_seconds(made) == pytest.approx(seconds)
