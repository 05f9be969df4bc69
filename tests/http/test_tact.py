"""Destinations are treated with tact: breaker, order, pacing, maintenance windows, pauses, fair shares."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from aiohttp import web

from relay import claims
from tests.http.conftest import StartRelay
from tests.http.world import Clock, Receiver, Running, drop, until
from tests.postgres import PostgresServer

FAST = {"initial": "1ms", "max": "5ms"}
AT_ONCE = 20  # webhooks posted at the same time


async def post_all(running: Running, *payloads: Mapping[str, object]) -> None:
    for start in range(0, len(payloads), AT_ONCE):
        answers = await asyncio.gather(*map(running.post, payloads[start : start + AT_ONCE]))
        assert {answer.status for answer in answers} == {200}


async def resting(running: Running) -> dict[str, float]:
    return {
        reason: await running.metric("itscope_relay_destination_resting", destination="erp", reason=reason)
        for reason in ("paused", "held", "breaker")
    }


async def rests_for(running: Running, *reasons: str) -> None:
    """Wait until the destination rests for just these reasons."""
    wanted = {reason: float(reason in reasons) for reason in ("paused", "held", "breaker")}

    async def check() -> bool:
        return await resting(running) == wanted

    await until(check)


def arrived_ids(receiver: Receiver) -> list[str]:
    return [json.loads(received.body)["eventId"] for received in receiver.requests]


# ---- the breaker


async def test_open_breaker_keeps_deliveries_from_spending_attempts(relay: StartRelay, erp: Receiver) -> None:
    erp.otherwise = drop
    running = await relay(
        destinations={
            "erp": {"concurrency": 1, "breaker": {"failures": 3, "cooldown": "1h", "max_cooldown": "1h"}}
        }
    )
    await running.post()
    await rests_for(running, "breaker")
    assert len(erp.requests) == 3
    await post_all(running, *({"eventId": f"later-{number}"} for number in range(50)))
    await until(lambda: {state for state, _ in running.deliveries()} == {"pending"})
    assert [attempts for _, attempts in running.deliveries()] == [3] + [0] * 50
    assert len(erp.requests) == 3


async def test_probe_closes_the_breaker_and_all_is_delivered(relay: StartRelay, erp: Receiver) -> None:
    erp.otherwise = 503
    running = await relay(
        destinations={"erp": {"breaker": {"failures": 2, "cooldown": "300ms", "max_cooldown": "300ms"}}}
    )
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(30)))
    await rests_for(running, "breaker")
    before = len(erp.requests)
    await until(lambda: len(erp.requests) >= before + 2)  # probes, one at a time
    erp.otherwise = 200
    await running.settled("delivered", number=30)
    await rests_for(running)


async def test_outage_costs_few_attempts_and_delivery_resumes_with_the_next_probe(
    relay: StartRelay, erp: Receiver
) -> None:
    """An hour at 1/2000 of its length: breaker 30 s to 10 min, retries 1 s to 10 min."""
    running = await relay(
        destinations={
            "erp": {
                "breaker": {"failures": 5, "cooldown": "15ms", "max_cooldown": "300ms"},
                "retry": {"initial": "1ms", "max": "300ms"},
            }
        }
    )
    await erp.stop()
    began = asyncio.get_running_loop().time()
    for number in range(90):  # traffic goes on all the while
        await running.post({"eventId": f"e-{number}"})
        await asyncio.sleep(0.02)
    await until(lambda: sum(attempts for _, attempts in running.deliveries()) >= 5)
    outage = asyncio.get_running_loop().time() - began
    await erp.start()
    await running.settled("delivered", number=90)
    failed = sum(attempts for _, attempts in running.deliveries()) - 90
    # Failures in a row, attempts under way with the last of them, probes at doubled pauses and then at the
    # longest one, and one that began before the receiver was back.
    assert 5 <= failed <= 5 + 7 + 5 + outage / 0.3 + 1


async def test_verdicts_on_events_never_open_the_breaker(relay: StartRelay, erp: Receiver) -> None:
    erp.otherwise = 422
    running = await relay(
        destinations={"erp": {"breaker": {"failures": 1, "cooldown": "1h", "max_cooldown": "1h"}}}
    )
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(20)))
    await running.settled("dead", number=20)
    assert await resting(running) == {"paused": 0, "held": 0, "breaker": 0}


async def test_only_one_probe_is_sent(relay: StartRelay, erp: Receiver) -> None:
    erp.otherwise = 500
    running = await relay(
        destinations={"erp": {"breaker": {"failures": 1, "cooldown": "100ms", "max_cooldown": "100ms"}}}
    )
    await running.post()
    await rests_for(running, "breaker")
    before = len(erp.requests)
    erp.otherwise = erp.hang
    await post_all(running, *({"eventId": f"p-{number}"} for number in range(30)))
    await erp.arrived(before + 1)
    await until(lambda: [state for state, _ in running.deliveries()].count("in_flight") == 1)
    await post_all(running, *({"eventId": f"f-{number}"} for number in range(30)))
    assert len(erp.requests) == before + 1
    erp.release.set()
    await running.settled("delivered", number=61)


# ---- order


async def test_events_of_one_key_arrive_in_order_and_never_overlap(relay: StartRelay, erp: Receiver) -> None:
    chance = random.Random(7)  # noqa: S311
    under_way: set[str] = set()
    overlaps: list[str] = []
    done: dict[str, list[str]] = defaultdict(list)

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        payload = json.loads(erp.requests[-1].body)
        key = payload["itscopeOrderId"]
        if key in under_way:
            overlaps.append(key)
        under_way.add(key)
        await asyncio.sleep(chance.random() * 0.004)
        under_way.discard(key)
        if chance.random() < 0.2:
            return web.Response(status=503)
        done[key].append(payload["eventId"])
        return web.Response()

    erp.otherwise = answer
    running = await relay(destinations={"erp": {"order_by": "itscopeOrderId", "concurrency": 8}})
    payloads = [
        {"eventId": f"event-{number}", "itscopeOrderId": f"key-{chance.randrange(100)}"}
        for number in range(10_000)
    ]
    await post_all(running, *payloads)
    await until(lambda: sum(map(len, done.values())) >= len(payloads), seconds=120)
    accepted: dict[str, list[str]] = defaultdict(list)
    for event_id, key in running.rows("SELECT event_id, itscope_order_id FROM events ORDER BY id"):
        accepted[key].append(event_id)
    assert done == accepted
    assert not overlaps
    assert len(erp.requests) > len(payloads)  # some were tried again


async def test_retry_that_its_timer_wakes_up_for_too_early_is_not_overlooked(
    relay: StartRelay, erp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 1e6)  # so nobody stumbles upon it
    erp.script.append(503)
    running = await relay(destinations={"erp": {"retry": {"initial": "100ms"}}})
    held = running.relay._dispatcher._lanes["erp"]._claims
    real, read = held._clock, 0

    def clock() -> float:
        """Pass the moment between two looks, once."""
        nonlocal read
        due_at = held.again.claim_at
        if read < 2 and real() > due_at - 0.01:
            read += 1
            return due_at - 0.0005 if read == 1 else due_at + 0.0005
        return real()

    monkeypatch.setattr(held, "_clock", clock)
    await running.post()
    await running.settled("delivered")
    assert read == 2


async def test_next_of_a_key_goes_as_soon_as_the_one_before_has_arrived(
    relay: StartRelay, erp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 1e6)  # so nobody stumbles upon it
    erp.otherwise = erp.hang
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    await post_all(running, *({"eventId": f"e-{number}", "orderId": "A"} for number in range(20)))
    await erp.arrived(1)
    erp.release.set()
    await running.settled("delivered", number=20)


async def test_what_came_with_a_duplicate_of_its_key_goes_at_once(
    relay: StartRelay, erp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_SECONDS", 1e6)  # so nobody stumbles upon it
    with PostgresServer() as server:
        server.start()
        url = server.create_database()
        running = await relay(store={"url": url}, destinations={"erp": {"order_by": "orderId"}})
        accepting = running.relay._store._accepting  # type: ignore[attr-defined]
        first = {"eventId": "first", "orderId": "A"}
        await running.post(first)
        await erp.arrived(1)
        with psycopg.connect(url, autocommit=True) as connection:
            sql = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"
            await until(lambda: connection.execute(sql).fetchone() == (1,))
            with connection.transaction():
                connection.execute("LOCK TABLE events IN EXCLUSIVE MODE")
                posts = [asyncio.create_task(running.post({"eventId": "waits", "orderId": "B"}))]
                await until(lambda: accepting.busy_seconds)
                posts += [asyncio.create_task(running.post(first))]
                await until(lambda: accepting.waiting == 1)
                posts += [asyncio.create_task(running.post({"eventId": "second", "orderId": "A"}))]
                await until(lambda: accepting.waiting == 2)
            answers = [answer.json["status"] for answer in await asyncio.gather(*posts)]
        assert answers == ["accepted", "duplicate", "accepted"]
        await erp.arrived(3)


async def test_failing_head_holds_only_its_own_key(relay: StartRelay, erp: Receiver) -> None:
    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        failing = json.loads(erp.requests[-1].body)["orderId"] == "A"
        return web.Response(status=503 if failing else 200)

    erp.otherwise = answer
    running = await relay(destinations={"erp": {"order_by": "orderId"}})
    for event_id, key in (("a1", "A"), ("a2", "A"), ("b1", "B"), ("b2", "B"), ("n", None)):
        await running.post({"eventId": event_id, "orderId": key})
    await until(lambda: [state for state, _ in running.deliveries()].count("delivered") == 3)
    assert "a2" not in arrived_ids(erp)


@pytest.mark.parametrize(("on_dead", "expected"), [("hold", ["a1"]), ("continue", ["a1", "a2"])])
async def test_dead_head_holds_the_rest_of_its_key_or_not(
    relay: StartRelay, erp: Receiver, on_dead: str, expected: list[str]
) -> None:
    erp.script.append(422)
    running = await relay(destinations={"erp": {"order_by": "orderId", "on_dead": on_dead}})
    await running.post({"eventId": "a1", "orderId": "A"})
    await until(lambda: running.deliveries() == [("dead", 1)])
    await running.post({"eventId": "a2", "orderId": "A"})
    await running.post({"eventId": "b1", "orderId": "B"})
    await until(lambda: "b1" in arrived_ids(erp) and set(expected) <= set(arrived_ids(erp)))
    assert [found for found in arrived_ids(erp) if found != "b1"] == expected


# ---- pacing


async def test_rate_limit_bounds_attempts_of_every_kind(relay: StartRelay, erp: Receiver) -> None:
    erp.otherwise = 503
    running = await relay(destinations={"erp": {"rate_limit": "5/h burst 5"}})
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(20)))
    await erp.arrived(5)
    await until(lambda: sum(attempts for _, attempts in running.deliveries()) == 5)
    assert len(erp.requests) == 5
    assert [state for state, _ in running.deliveries()].count("dead") == 0


async def test_retries_and_fresh_events_share_the_rate(relay: StartRelay, erp: Receiver) -> None:
    erp.otherwise = 503
    running = await relay(destinations={"erp": {"rate_limit": "20/s burst 20"}})
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(60)))
    await until(lambda: running.deliveries().count(("in_flight", 1)) >= 12)  # in the lane's memory again
    sent = len(erp.requests)
    await erp.arrived(sent + 12)
    first = [received.headers["X-Relay-Attempt"] == "1" for received in erp.requests[sent : sent + 12]]
    assert all(one is not other for one, other in pairwise(first))


async def test_storm_of_retries_leaves_a_share_to_fresh_events(relay: StartRelay, erp: Receiver) -> None:
    """Retries that hang take their slots for good; what is fresh goes through those kept for it."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if json.loads(erp.requests[-1].body)["eventId"].startswith("bad"):
            first = request.headers["X-Relay-Attempt"] == "1"
            return web.Response(status=503) if first else await erp.hang(request)
        return web.Response()

    erp.otherwise = answer
    running = await relay(destinations={"erp": {"concurrency": 4}})
    await post_all(running, *({"eventId": f"bad-{number}"} for number in range(20)))
    await until(lambda: len(erp.requests) == 20 + 3)  # all failed once, and three of four slots hang
    await post_all(running, *({"eventId": f"good-{number}"} for number in range(40)))
    await until(lambda: [state for state, _ in running.deliveries()].count("delivered") == 40)
    assert len(erp.requests) == 20 + 3 + 40


async def test_retries_and_fresh_events_take_turns(relay: StartRelay, erp: Receiver) -> None:
    gate = asyncio.Semaphore(0)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await gate.acquire()
        return web.Response(status=503 if request.headers["X-Relay-Attempt"] == "1" else 200)

    erp.otherwise = answer
    running = await relay(destinations={"erp": {"concurrency": 1}})
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(40)))
    for _ in range(10):
        gate.release()
    await erp.arrived(11)
    retried = [("in_flight", 1)] * 10 + [("in_flight", 0)] * 30  # all in the lane's memory, one being sent
    await until(lambda: sorted(running.deliveries(), reverse=True) == retried)
    for _ in range(10):
        gate.release()
    await erp.arrived(21)
    assert sum(received.headers["X-Relay-Attempt"] != "1" for received in erp.requests[11:21]) == 5


# ---- maintenance windows


async def test_nothing_is_sent_in_a_maintenance_window(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    begins = datetime.fromtimestamp(clock(), UTC) + timedelta(minutes=-5)
    ends = begins + timedelta(hours=1)
    window = f"daily {begins:%H:%M}-{ends:%H:%M} UTC"
    running = await relay(destinations={"erp": {"hold": [window]}})
    await rests_for(running, "held")
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(10)))
    await running.settled("pending", number=10)
    assert running.deliveries() == [("pending", 0)] * 10
    assert not erp.requests
    clock.moved_seconds += 3700
    running.relay._dispatcher._lanes["erp"]._look()  # or 30 seconds later, should the clock jump
    await running.settled("delivered", number=10)
    await rests_for(running)


# ---- pause


async def test_paused_destination_gets_nothing_and_goes_on_when_resumed(
    relay: StartRelay, erp: Receiver, crm: Receiver
) -> None:
    running = await relay(destinations={"crm": {"url": crm.url}}, routes=[{"to": ["erp", "crm"]}])
    running.relay._dispatcher.set_paused("erp", 1.0)
    await rests_for(running, "paused")
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(10)))
    await running.settled("delivered", "crm", number=10)
    assert running.deliveries() == [("pending", 0)] * 10
    assert not erp.requests
    running.relay._dispatcher.set_paused("erp", None)
    await running.settled("delivered", number=10)


async def test_pause_lets_attempts_under_way_end_and_puts_back_the_rest(
    relay: StartRelay, erp: Receiver
) -> None:
    erp.otherwise = erp.hang
    running = await relay(destinations={"erp": {"concurrency": 2}})
    await post_all(running, *({"eventId": f"e-{number}"} for number in range(10)))
    await erp.arrived(2)
    running.relay._dispatcher.set_paused("erp", 1.0)
    await until(lambda: [state for state, _ in running.deliveries()].count("pending") == 8)
    erp.release.set()
    await until(lambda: [state for state, _ in running.deliveries()].count("delivered") == 2)
    assert len(erp.requests) == 2
    running.relay._dispatcher.set_paused("erp", None)
    await running.settled("delivered", number=10)


async def test_pause_holds_across_a_reload(relay: StartRelay, erp: Receiver) -> None:
    running = await relay()
    running.relay._dispatcher.set_paused("erp", 1.0)
    await running.reload(destinations={"erp": {"timeout": "29s"}})
    await running.post()
    await rests_for(running, "paused")
    await running.settled("pending")
    assert not erp.requests
