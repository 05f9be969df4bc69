"""What a running relay remembers: the last hour, and how often each route matched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from relay import history
from relay.errors import StoreUnavailableError
from tests.http.conftest import StartRelay
from tests.http.world import ORDER, Clock, Receiver, Running, until

ROUTES: list[dict[str, Any]] = [
    {"name": "everything", "to": ["erp"]},
    {"match": {"eventType": "INVOICE"}, "to": ["erp"]},
    {"name": "orders", "match": {"eventType": "ORDER"}, "to": ["erp"]},
]
DAY = 86400.0


@pytest.fixture(autouse=True)
def short_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "EVERY_SECONDS", 0.02)


def day(clock: Clock) -> str:
    return datetime.fromtimestamp(clock(), UTC).date().isoformat()


async def matches(running: Running) -> dict[tuple[str, str], int]:
    return await running.relay._store.read_matches("2000-01-01")


async def become(running: Running, expected: dict[tuple[str, str], int]) -> None:
    """Wait until so many matches are stored."""

    async def stored() -> bool:
        return await matches(running) == expected

    await until(stored)


async def counted(running: Running, route: str) -> float:
    return await running.metric("itscope_relay_route_matches_total", route=route)


async def test_attempts_of_a_minute_are_remembered(running: Running, erp: Receiver) -> None:
    erp.script += [500, 422]
    await running.post({"eventId": "1"})
    await running.post({"eventId": "2"})
    await running.post({"eventId": "3"})

    def remembered() -> bool:
        minutes = running.relay._history.of("erp")
        return (sum(one.delivered for one in minutes), sum(one.failed for one in minutes)) == (2, 2)

    await until(remembered)


async def test_each_route_that_matched_is_counted_and_stored(relay: StartRelay, clock: Clock) -> None:
    running = await relay(routes=ROUTES)
    assert [await counted(running, name) for name in ("everything", "routes[1]", "orders")] == [0, 0, 0]
    await running.post(ORDER)
    await running.post({"eventId": "2"})
    assert [await counted(running, name) for name in ("everything", "routes[1]", "orders")] == [2, 0, 1]
    today = day(clock)
    await become(running, {(today, "everything"): 2, (today, "orders"): 1})
    await running.post({"eventId": "3"})
    await become(running, {(today, "everything"): 3, (today, "orders"): 1})


async def test_route_behind_one_that_stops_does_not_match(relay: StartRelay) -> None:
    running = await relay(routes=[{**ROUTES[0], "stop": True}, *ROUTES[1:]])
    await running.post(ORDER)
    assert [await counted(running, name) for name in ("everything", "orders")] == [1, 0]


async def test_duplicate_and_quarantined_request_match_nothing(running: Running) -> None:
    await running.post(ORDER)
    await running.post(ORDER)
    await running.post(b"nonsense")
    assert await counted(running, "everything") == 1


async def test_event_that_cannot_be_stored_matches_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: object) -> None:
        raise StoreUnavailableError("it is away")

    monkeypatch.setattr(running.relay._store, "accept", away)
    assert (await running.post(ORDER)).status == 503
    assert await counted(running, "everything") == 0


async def test_matches_of_the_last_minute_are_stored_at_the_end(
    relay: StartRelay, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "EVERY_SECONDS", 600.0)
    running = await relay()
    await running.post(ORDER)
    today = day(clock)
    assert await matches(running) == {}
    await running.restart()
    assert await matches(running) == {(today, "everything"): 1}
    await running.post({"eventId": "2"})
    await running.restart()
    assert await matches(running) == {(today, "everything"): 2}


async def test_matches_that_the_store_did_not_take_are_stored_later_each_for_its_day(
    running: Running, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    async def away(day: str, _matches: object) -> None:
        refused.append(day)
        raise StoreUnavailableError("it is away")

    with monkeypatch.context() as patched:
        patched.setattr(running.relay._store, "add_matches", away)
        await running.post(ORDER)
        first = day(clock)
        await until(lambda: first in refused)
        clock.moved_seconds += DAY
        await running.post({"eventId": "2"})
        before = len(refused)
        await until(lambda: len(refused) > before + 2)
        await running.post({"eventId": "3"})
    await become(running, {(first, "everything"): 1, (day(clock), "everything"): 2})
