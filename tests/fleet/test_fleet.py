"""Replicas on one PostgreSQL: whatever was answered 200 arrives, whoever is killed. A short run of it all."""

from __future__ import annotations

from pathlib import Path

from tests.fleet.database import Restart
from tests.fleet.laboratory import Laboratory, Plan

KILLS = 4
SEED = 20231017


async def test_no_acknowledged_event_is_lost_when_replicas_and_their_database_are_killed(
    tmp_path: Path,
) -> None:
    plan = Plan(2, KILLS, [Restart.IMMEDIATE], pauses=0, seed=SEED, fsync=False)
    report = await Laboratory(plan, tmp_path, print).run()
    assert report.faults == []
    assert report.lost == 0
    assert report.out_of_order == 0
    assert report.duplicates <= report.repeatable
    # And the run was what it claims to be.
    assert report.killed == KILLS
    assert report.restarts == {Restart.IMMEDIATE: 1}
    assert report.owing.total() > 0
    assert report.acknowledged > 10 * KILLS
    assert report.twins > 0
    assert report.retried > 0
