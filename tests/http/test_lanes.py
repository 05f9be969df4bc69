"""Lanes keep what they hold, lose nothing by what befalls the store or the clock, and never stop."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import apsw
import pytest
from aiohttp import web

from relay import app, claims, dispatcher
from relay.intake import ROOM
from relay.store import Claimed
from tests.http.conftest import StartRelay
from tests.http.operator import Operator
from tests.http.world import DEADLINE_SECONDS, Clock, Receiver, Running, lives, until
from tests.locked import locked

HOURS = 6 * 3600.0
FAR = 1e9  # seconds; beyond every lease


class Counting:
    """A destination's answer, given when `release` is set; knows how many requests it had at once."""

    def __init__(self, release: asyncio.Event) -> None:
        self.most = 0
        self._release = release
        self._at_once = 0

    async def __call__(self, _request: web.BaseRequest) -> web.StreamResponse:
        self._at_once += 1
        self.most = max(self.most, self._at_once)
        try:
            await self._release.wait()
        finally:
            self._at_once -= 1
        return web.Response()


def lease_until(running: Running) -> float:
    ((instant,),) = running.rows("SELECT coalesce(lease_until, 0) FROM deliveries")
    return float(instant)


# ---- leases


@pytest.fixture
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", 0.02)


async def leases_run_out(running: Running, clock: Clock) -> None:
    """Set the clock forward beyond every lease, and wait until a whole round has looked after them."""
    clock.moved_seconds += HOURS
    await until(lambda: lease_until(running) > clock())
    renewed = lease_until(running)
    await until(lambda: lease_until(running) > renewed)


@pytest.mark.usefixtures("quick_leases")
async def test_clock_that_jumps_forward_frees_nothing_that_is_held(
    running: Running, erp: Receiver, clock: Clock
) -> None:
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    await leases_run_out(running, clock)
    erp.release.set()
    await running.settled("delivered")
    assert len(erp.requests) == 1
    assert running.attempts() == [(200, None, "delivered")]
    assert lives(running)


@pytest.mark.usefixtures("quick_leases")
async def test_leases_of_a_lane_that_leaves_are_kept(running: Running, erp: Receiver, clock: Clock) -> None:
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    await running.reload(destinations={"erp": {"timeout": "29s"}})
    await leases_run_out(running, clock)
    erp.release.set()
    await running.settled("delivered")
    assert len(erp.requests) == 1
    assert lives(running)


async def test_claim_that_is_lost_while_held_is_sent_again_and_stops_nothing(
    running: Running, erp: Receiver, clock: Clock
) -> None:
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    assert await running.relay._store.expire(clock() + FAR) == 1
    await erp.arrived(2)  # by the same lane, which still holds the first claim
    erp.release.set()
    await running.settled("delivered")
    assert running.attempts() == [(200, None, "delivered")]
    assert (await running.post({"eventId": "e-2"})).status == 200
    await running.settled("delivered", number=2)
    assert len(erp.requests) == 3
    assert lives(running)
    await until(lambda: not running.relay._dispatcher._lanes["erp"].held)


async def test_claim_that_is_lost_while_held_is_put_back_by_a_stop(
    running: Running, erp: Receiver, clock: Clock
) -> None:
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    await running.relay._store.expire(clock() + FAR)
    await erp.arrived(2)
    await running.drain()
    assert running.deliveries() == [("pending", 0)]


# ---- looking at the store


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 1e6)


def note_claims(running: Running, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return for each claim from now on, as it comes, whether it is of first attempts."""
    store, noted = running.relay._store, list[bool]()
    claim = store.claim

    async def noting(destination: str, *, fresh: bool, **wish: Any) -> Claimed:
        noted.append(fresh)
        return await claim(destination, fresh=fresh, **wish)

    monkeypatch.setattr(store, "claim", noting)
    return noted


@pytest.mark.usefixtures("no_polls")
async def test_events_for_a_lane_without_room_have_it_look_at_nothing(
    running: Running, erp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    erp.otherwise = erp.hang
    for number in range(ROOM):
        await running.post({"eventId": str(number)})
    noted = note_claims(running, monkeypatch)
    for number in range(20):
        await running.post({"eventId": f"more-{number}"})
    assert [state for state, _ in running.deliveries()] == ["in_flight"] * ROOM + ["pending"] * 20
    assert noted == []


@pytest.mark.usefixtures("no_polls")
async def test_replay_leaves_fresh_deliveries_on_their_way(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.post({"eventId": "old"})
    await running.settled("delivered")
    noted = note_claims(running, monkeypatch)
    await Operator(running).post("/deliveries/1/replay")
    await running.settled("delivered", number=2)
    await running.post({"eventId": "fresh"})
    await running.settled("delivered", number=3)
    assert noted
    assert not any(noted)


# ---- attempts that can't be stored


async def test_attempt_that_the_store_refuses_for_good_stops_nothing(
    running: Running, erp: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    erp.otherwise = erp.hang
    for number in range(3):
        await running.post({"eventId": str(number)})
    await erp.arrived(3)
    raw = apsw.Connection(str(running.folder / "relay.db"))
    raw.set_busy_timeout(5000)
    raw.execute(  # the second delivery's attempt is there already, by whatever bug
        "INSERT INTO attempts SELECT id, 1, 0, 0, 200, NULL, 'pending', NULL FROM deliveries"
        " ORDER BY id LIMIT 1, 1"
    ).fetchall()
    with caplog.at_level(logging.CRITICAL, "relay.recorder"):
        erp.release.set()
        await until(lambda: [state for state, _ in running.deliveries()].count("delivered") == 2)
        await until(lambda: "attempt.refused" in caplog.messages)
    raw.close()
    assert running.deliveries() == [("delivered", 1), ("in_flight", 0), ("delivered", 1)]
    await running.post({"eventId": "after"})
    await until(lambda: running.deliveries()[-1] == ("delivered", 1))
    assert lives(running)


# ---- a reload


async def test_no_more_requests_at_once_than_configured_while_a_destination_changes(
    relay: StartRelay, erp: Receiver, crm: Receiver
) -> None:
    running = await relay(destinations={"erp": {"concurrency": 1}})
    counting = erp.otherwise = Counting(erp.release)
    for number in range(3):
        await running.post({"eventId": str(number)})
    await erp.arrived(1)
    for timeout in ("29s", "28s"):
        answer = await running.reload(
            destinations={"erp": {"timeout": timeout}, "crm": {"url": crm.url}},
            routes=[{"to": ["crm"], "match": {"eventType": "ORDER"}}, {"to": ["erp"]}],
        )
        assert answer.status == 200
    await running.post()  # for both; the other one shows that a lane had the time to start
    await running.settled("delivered", "crm")
    await until(lambda: [state for state, _ in running.deliveries()] == ["in_flight", *["pending"] * 3])
    assert len(erp.requests) == 1
    erp.release.set()
    await running.settled("delivered", number=4)
    assert (len(erp.requests), counting.most) == (4, 1)
    assert lives(running)


# ---- the end


async def test_stop_is_bounded_though_the_store_hangs(
    relay: StartRelay, erp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CLOSE_SECONDS", 0.1)
    running = await relay()
    erp.otherwise = erp.hang
    for number in range(3):
        await running.post({"eventId": str(number)})
    await erp.arrived(3)
    await until(lambda: made_patient(running))
    with locked(running.folder / "relay.db"):
        erp.release.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await running.drain()
    # What waited for the store all the while is stored after all.
    await until(lambda: set(running.deliveries()) <= {("delivered", 1), ("pending", 0)})


def made_patient(running: Running) -> bool:
    """Have the store wait ten minutes for a lock instead of five seconds, if it rests at this moment."""
    try:
        running.relay._store._commits._connection.set_busy_timeout(600_000)  # type: ignore[attr-defined]
    except apsw.ThreadingViolationError:
        return False
    return True
