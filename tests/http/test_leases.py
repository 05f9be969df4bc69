"""Claims that end while a lane holds them: nothing is sent beside whoever may have it by then."""

from __future__ import annotations

import asyncio

import pytest

from relay import dispatcher
from relay.dispatcher import GRACE_SECONDS
from relay.model import Claim, Event, Owed, References
from relay.store.steps import LEASE_SECONDS
from tests.http.conftest import StartRelay
from tests.http.world import Clock, Receiver, Running, until
from tests.locked import locked

HOUR = 3600.0
STEP = 25.0  # of the clock, in which a relay still counts as one that looked after its claims


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are looked after all the time."""
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", 0.02)


@pytest.fixture
def no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are looked after at the start, and when somebody asks for it."""
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", HOUR)


def leases(running: Running, destination: str = "erp") -> list[float]:
    """Return when the leases end of what is in flight to a destination."""
    rows = running.rows(
        "SELECT lease_until FROM deliveries WHERE destination = ? AND state = 'in_flight'", destination
    )
    return [until for (until,) in rows]


def keys(erp: Receiver) -> list[str]:
    return [request.headers["Idempotency-Key"] for request in erp.requests]


async def busy(relay: StartRelay, erp: Receiver, number: int, **options: str) -> Running:
    """Return a relay that is sending the first of so many deliveries, while the others wait in memory."""
    running = await relay(destinations={"erp": {"concurrency": 1, **options}})
    erp.otherwise = erp.hang
    for each in range(number):
        await running.post({"eventId": str(each)})
    await erp.arrived(1)
    return running


async def claimed_elsewhere(running: Running, clock: Clock) -> None:
    """Have another relay, with a destination of its own, claim something as it accepts it."""
    event = Event("itscope", "theirs", clock(), "application/json", None, None, "0" * 32, b"{}")
    await running.relay._store.accept(event, References(), {"their-erp": Owed(claim=True)})


@pytest.mark.usefixtures("no_rounds")
async def test_claim_whose_lease_ran_out_is_sent_once_it_is_renewed(
    relay: StartRelay, erp: Receiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    running = await busy(relay, erp, 3)
    clock.moved_seconds += LEASE_SECONDS + 1
    erp.release.set()
    await running.settled("delivered", number=3)
    assert keys(erp) == ["0", "1", "2"]
    assert "claims.lost" not in [record.msg for record in caplog.records]


@pytest.mark.usefixtures("no_rounds")
async def test_claim_that_somebody_else_has_by_now_is_not_sent(
    relay: StartRelay, erp: Receiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    running = await busy(relay, erp, 3)
    store = running.relay._store
    clock.moved_seconds += LEASE_SECONDS + 1
    freed, theirs = await asyncio.gather(
        store.expire(clock()), store.claim("erp", fresh=True, limit=9, max_bytes=9999, now=clock())
    )
    assert (freed, len(theirs.deliveries)) == (3, 3)
    erp.release.set()
    await until(lambda: "claims.lost" in [record.msg for record in caplog.records])
    assert keys(erp) == ["0"]
    await store.release(theirs.deliveries)
    await running.settled("delivered", number=3)
    assert keys(erp) == ["0", "0", "1", "2"]


@pytest.mark.usefixtures("no_rounds")
@pytest.mark.parametrize(("answers_within", "renews"), [("30s", True), ("2m", True), ("5s", False)])
async def test_attempt_begins_only_with_a_claim_that_outlasts_it(
    relay: StartRelay, erp: Receiver, clock: Clock, answers_within: str, *, renews: bool
) -> None:
    running = await busy(relay, erp, 2, timeout=answers_within)
    before = max(leases(running))
    clock.moved_seconds += LEASE_SECONDS - 20
    answered, erp.release = erp.release, asyncio.Event()
    answered.set()
    await erp.arrived(2)
    assert ([until for until in leases(running) if until > before] != []) == renews


@pytest.mark.usefixtures("rounds")
async def test_claims_of_another_relay_are_freed_a_while_after_their_end(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await busy(relay, erp, 1)
    await claimed_elsewhere(running, clock)

    async def passes(seconds: float) -> None:
        clock.moved_seconds += seconds
        await until(lambda: leases(running)[0] > clock() + LEASE_SECONDS - 1)
        renewed = leases(running)[0]
        await until(lambda: leases(running)[0] > renewed)

    await passes(STEP)
    await passes(STEP)
    await passes(LEASE_SECONDS + GRACE_SECONDS - 2 * STEP - 2)
    assert len(leases(running, "their-erp")) == 1
    await passes(3)
    await until(lambda: not leases(running, "their-erp"))


@pytest.mark.usefixtures("no_rounds")
async def test_after_a_sleep_of_the_machine_others_have_time_to_renew_their_claims(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await busy(relay, erp, 2)
    await claimed_elsewhere(running, clock)
    clock.moved_seconds += LEASE_SECONDS + GRACE_SECONDS + 1
    answered, erp.release = erp.release, asyncio.Event()
    answered.set()
    await erp.arrived(2)  # so leases were looked after
    await until(lambda: len(leases(running)) == 1)  # and the first attempt is recorded
    (renewed,) = leases(running)
    clock.moved_seconds += 1
    running.relay._dispatcher._lapsing.set()  # another round, at once
    await until(lambda: leases(running) > [renewed])
    assert len(leases(running, "their-erp")) == 1


@pytest.mark.usefixtures("rounds")
async def test_leases_that_can_not_be_renewed_are_told_once(
    relay: StartRelay, erp: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "RETRY_SECONDS", 0.01)
    running = await busy(relay, erp, 1)
    commits = running.relay._store._commits  # type: ignore[attr-defined]
    await commits.submit(
        lambda _: [commits._connection.set_busy_timeout(1)], None
    )  # in the thread that uses it

    async def tells(fact: str, number: int) -> None:
        await until(lambda: [record.msg for record in caplog.records].count(fact) >= number)

    for _outage in range(2):
        caplog.clear()
        with locked(running.folder / "relay.db"):
            await tells("leases.not_renewed", 1)
            await tells("store.unavailable", 5)
        assert [record.msg for record in caplog.records].count("leases.not_renewed") == 1
        renewed = leases(running)
        await until(lambda: leases(running) > renewed)  # noqa: B023 (it is awaited here)


@pytest.mark.usefixtures("rounds")
async def test_leases_are_kept_until_the_last_attempt_of_a_drain_has_ended(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(server={"drain_timeout": "20s"})
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    draining = asyncio.ensure_future(running.drain())
    await until(lambda: running.relay._ingress.draining)
    clock.moved_seconds += HOUR
    await until(lambda: leases(running)[0] > clock())
    erp.release.set()
    await draining
    assert running.deliveries() == [("delivered", 1)]


@pytest.mark.usefixtures("no_rounds")
async def test_claims_that_are_renewed_while_a_lane_that_closes_puts_them_back_are_not_lost(
    relay: StartRelay, erp: Receiver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    running = await busy(relay, erp, 3)
    store, lanes = running.relay._store, running.relay._dispatcher
    lane = lanes._lanes["erp"]
    draining = asyncio.ensure_future(lanes.drain(0))  # so that some still wait when the time is up
    lost: set[Claim] = set()
    while held := list(lane.held):  # a renewal is under way at any time, so one comes right after the release
        kept = {delivery.claim: delivery for delivery in await store.renew(held, clock())}
        gone = {delivery.claim for delivery in held} - kept.keys()
        lane.renewed(kept, gone)
        lost |= gone
    await draining
    assert len(lost) == 3
    assert not lanes.crashed.done()
    assert "claims.lost" not in [record.msg for record in caplog.records]
    assert running.deliveries() == [("pending", 0)] * 3
