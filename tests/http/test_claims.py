"""What a lane knows of the store before it looks there."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.claims import Claims
from relay.config import Destination
from relay.gate import Gate
from relay.store.sqlite import open_store
from tests.store.opened import START


@pytest.mark.parametrize(
    ("fresh", "first_attempts", "others"), [(True, True, False), (False, False, True), (None, True, True)]
)
async def test_what_a_lane_is_told_of_is_looked_for(
    tmp_path: Path, *, fresh: bool | None, first_attempts: bool, others: bool
) -> None:
    store = open_store(tmp_path / "relay.db", lambda _: None)
    destination = Destination(url="http://erp.example")
    claims = Claims("erp", destination, Gate(destination, None), store, lambda: START)
    claims.fresh.backlogged = claims.again.backlogged = False  # as after a look at an empty store
    claims.notice(fresh=fresh)
    assert (claims.fresh.backlogged, claims.again.backlogged) == (first_attempts, others)
    await store.close()
