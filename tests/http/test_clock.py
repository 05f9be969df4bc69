"""The wall clock is set forward or back: nothing is lost, sent twice or held up, whatever was under way."""

from __future__ import annotations

import pytest

from relay import dispatcher
from relay.store.steps import LEASE_SECONDS
from tests.http.conftest import StartRelay
from tests.http.world import Clock, Receiver, Running, lives, until

HOUR = 3600.0
DAY = 24 * HOUR
LONG_RETRY = {"initial": "1h", "max": "2h", "factor": 1, "give_up_after": "30d"}


@pytest.fixture(autouse=True)
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", 0.02)


async def busy(relay: StartRelay, erp: Receiver) -> Running:
    """Return a relay that is sending the first of three deliveries, while the others wait in memory."""
    running = await relay(destinations={"erp": {"concurrency": 1}})
    erp.otherwise = erp.hang
    for number in range(3):
        assert (await running.post({"eventId": f"before-{number}"})).status == 200
    await erp.arrived(1)
    return running


def lease_until(running: Running) -> float:
    """Return when the first lease ends of what is in flight."""
    ((instant,),) = running.rows("SELECT min(lease_until) FROM deliveries WHERE state = 'in_flight'")
    return float(instant)


async def a_round_of_leases(running: Running, clock: Clock) -> None:
    """Wait until what is in flight was looked after by the new time, and once more after that."""
    await until(lambda: abs(lease_until(running) - clock()) < 2 * LEASE_SECONDS)
    renewed = lease_until(running)
    await until(lambda: lease_until(running) > renewed)


def due_in(running: Running, clock: Clock) -> list[float]:
    """Return in how many seconds what waits is due."""
    return [due - clock() for (due,) in running.rows("SELECT due_at FROM deliveries WHERE state = 'pending'")]


def retried(running: Running, number: int) -> bool:
    return running.deliveries() == [("pending", 1)] * number


# ---- forward


@pytest.mark.parametrize("hours", [2, 5 * 24])
async def test_clock_set_forward_loses_nothing_of_what_waits_and_what_is_in_flight(
    relay: StartRelay, erp: Receiver, clock: Clock, hours: int
) -> None:
    running = await busy(relay, erp)
    clock.moved_seconds += hours * HOUR
    await a_round_of_leases(running, clock)
    assert (await running.post({"eventId": "after"})).status == 200
    erp.release.set()
    await running.settled("delivered", number=4)
    assert [request.headers["Idempotency-Key"] for request in erp.requests] == [
        *("before-0", "before-1", "before-2", "after")
    ]
    assert running.attempts() == [(200, None, "delivered")] * 4
    assert lives(running)


async def test_clock_set_forward_makes_retries_come_early_and_no_more(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": LONG_RETRY}})
    erp.script.extend([500] * 3)
    for number in range(3):
        await running.post({"eventId": str(number)})
    await until(lambda: retried(running, 3))
    clock.moved_seconds += 3 * HOUR
    await running.settled("delivered", number=3)
    assert [attempts for _, attempts in running.deliveries()] == [2, 2, 2]
    assert len(erp.requests) == 6
    assert lives(running)


async def test_clock_set_forward_beyond_give_up_after_still_tries_once_more(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": LONG_RETRY}})
    erp.script.append(500)
    await running.post()
    await until(lambda: retried(running, 1))
    clock.moved_seconds += 40 * DAY
    await running.settled("delivered")
    assert [next_state for _, _, next_state in running.attempts()] == ["pending", "delivered"]


async def test_renewed_claim_is_sent_after_its_first_lease(
    relay: StartRelay, erp: Receiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relay.claims")
    running = await busy(relay, erp)
    for _ in range(3):
        clock.moved_seconds += LEASE_SECONDS / 2
        await a_round_of_leases(running, clock)
    erp.release.set()
    await running.settled("delivered", number=3)
    assert not {"deliveries.released", "claims.lost"} & {record.msg for record in caplog.records}


# ---- back


async def test_clock_set_back_holds_up_no_fresh_delivery(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await busy(relay, erp)
    clock.moved_seconds -= DAY
    await a_round_of_leases(running, clock)
    assert (await running.post({"eventId": "after"})).status == 200
    erp.release.set()
    await running.settled("delivered", number=4)
    assert running.attempts() == [(200, None, "delivered")] * 4
    assert lives(running)


async def test_clock_set_back_while_the_relay_is_down_holds_up_no_fresh_delivery(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await busy(relay, erp)
    await running.drain()
    erp.otherwise = 200
    clock.moved_seconds -= DAY
    await running.restart()
    await running.post({"eventId": "after"})
    await running.settled("delivered", number=4)
    assert {attempts for _, attempts in running.deliveries()} == {1}


@pytest.mark.parametrize("down", [False, True], ids=["while it runs", "while it is down"])
async def test_retries_that_a_clock_set_back_leaves_far_in_the_future_are_brought_forward(
    relay: StartRelay, erp: Receiver, clock: Clock, *, down: bool
) -> None:
    running = await relay(destinations={"erp": {"retry": LONG_RETRY}})
    erp.script.extend([500] * 2)
    for number in range(2):
        await running.post({"eventId": str(number)})
    await until(lambda: retried(running, 2))
    if down:
        await running.drain()
    clock.moved_seconds -= DAY
    assert min(due_in(running, clock)) > DAY - HOUR
    if down:
        await running.restart()
    await running.settled("delivered", number=2)
    assert [attempts for _, attempts in running.deliveries()] == [2, 2]
    assert lives(running)


async def test_retry_that_is_due_as_late_as_it_may_be_is_left_where_it_is(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": LONG_RETRY}})
    erp.script.extend([(503, {"Retry-After": "3600"}), erp.hang])
    await running.post({"eventId": "asked for an hour"})
    await until(lambda: retried(running, 1))
    before = running.rows("SELECT due_at FROM deliveries")
    await running.post({"eventId": "hangs"})
    await erp.arrived(2)
    clock.moved_seconds -= HOUR / 4  # a jump, but no retry is due later now than one could be
    await a_round_of_leases(running, clock)
    assert running.rows("SELECT due_at FROM deliveries WHERE state = 'pending'") == before
    assert len(erp.requests) == 2
