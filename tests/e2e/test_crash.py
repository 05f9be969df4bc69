"""kill -9 at any moment: whatever was answered 200 arrives. A short run of `tests/lab`."""

from __future__ import annotations

from pathlib import Path

from tests.lab.laboratory import Plan, run
from tests.lab.points import Point
from tests.lab.series import Terms
from tests.lab.webhook import ORDER_FIELD

KILLS_AT_EACH_POINT = 2
SEED = 20231017


async def test_no_acknowledged_event_is_lost_when_the_relay_is_killed_under_load(tmp_path: Path) -> None:
    kills = KILLS_AT_EACH_POINT * len(Point)
    report = await run(Plan(kills, SEED, 2, Terms(order_by=ORDER_FIELD)), tmp_path, print)
    assert report.faults == []
    assert report.lost == 0
    assert report.duplicates <= report.repeatable
    # And the rounds were what they claim to be: deliveries and retries were under way when the axe fell.
    assert report.killed == kills
    assert report.owing.total() > kills // 2
    assert report.acknowledged > 10 * kills
    assert report.retried > 0


async def test_laboratory_finds_the_losses_of_a_relay_that_answers_before_it_commits(tmp_path: Path) -> None:
    terms = Terms(order_by=None, postpones_commits=True)
    report = await run(Plan(5, SEED, 2, terms), tmp_path, print)
    assert report.lost > 0
    assert len(report.faults) >= report.lost
