"""The throttle for guesses: whom it slows down, and whom it must not."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from relay import auth
from relay.auth import (
    FREE_FAILURES,
    MAX_CHECKS,
    MAX_CHECKS_IN_ALL,
    MAX_DELAYED,
    Authenticator,
    Throttle,
    network,
)
from relay.config import Account
from relay.errors import TooManyLoginsError
from relay.passwords import Costs, PasswordHash

DEADLINE_SECONDS = 15.0
COSTS = Costs(ln=10, r=1, p=1)
HASH = PasswordHash(COSTS, b"s" * 16, COSTS.derive(b"right", b"s" * 16, 32))
HERE, THERE = "203.0.113.9", "198.51.100.1"


class NotedThrottle(Throttle):
    """Notes each pause, and makes it a thousandth as long."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def delay(self, penalty_seconds: float) -> None:
        self.pauses.append(penalty_seconds)
        await super().delay(penalty_seconds / 1000)


class Bench(Executor):
    """Takes work, and does the next piece when a test says so."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.taken = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        done: Future[Any] = Future()
        self.work.append(lambda: done.set_result(function(*arguments)))
        self.taken += 1
        return done

    def do_one(self) -> None:
        self.work.pop(0)()


def request(password: str, address: str) -> web.Request:
    credentials = base64.b64encode(f"itscope:{password}".encode()).decode()
    return make_mocked_request(
        "POST", "/", headers={"Authorization": f"Basic {credentials}", "X-Address": address}
    )


def authenticator(secret: str | PasswordHash, throttle: Throttle, bench: Executor) -> Authenticator:
    account = Account.model_validate(
        {
            "username": "itscope",
            "password_hash" if isinstance(secret, PasswordHash) else "password": str(secret),
        }
    )
    return Authenticator([account], throttle, bench, lambda given: given.headers["X-Address"], lambda: 1000.0)


def many_failures() -> Throttle:
    """Return a throttle that knows of so many that each further one costs the longest pause."""
    throttle = Throttle()
    for _ in range(FREE_FAILURES + 10):
        throttle.failed(HERE, 1000.0)
    return throttle


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not check():  # noqa: ASYNC110 (polls what is no event)
            await asyncio.sleep(0.01)


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def login(made: Authenticator, password: str, address: str = HERE) -> bool:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await made.authenticate(request(password, address))


def start(made: Authenticator, passwords: Sequence[str], address: str = HERE) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(login(made, password, address)) for password in passwords]


async def test_guesses_at_once_wait_each_for_longer() -> None:
    throttle = NotedThrottle()
    made = authenticator("right", throttle, Bench())
    guesses = start(made, [f"guess-{number}" for number in range(FREE_FAILURES + 4)])
    assert set(await asyncio.gather(*guesses)) == {False}
    assert throttle.pauses == [*[0.0] * FREE_FAILURES, 0.1, 0.2, 0.4, 0.8]


async def test_right_plain_login_passes_while_guesses_from_its_address_wait() -> None:
    made = authenticator("right", many_failures(), Bench())
    guesses = start(made, ["wrong"] * 5)
    await settle()
    assert await login(made, "right")
    assert not any(guess.done() for guess in guesses)
    await cancel(guesses)


async def test_right_hashed_login_waits_for_no_penalty_of_a_guess() -> None:
    bench = Bench()
    made = authenticator(HASH, many_failures(), bench)
    guess, right = start(made, ["guess", "right"])
    await settle()
    bench.do_one()
    await until(lambda: bench.work)  # after a short rest
    assert not guess.done()
    bench.do_one()
    assert await right
    assert not guess.done()
    await cancel([guess])


async def test_hashes_of_guesses_leave_the_processor_some_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REST_SECONDS", 1e6)
    bench = Bench()
    made = authenticator(HASH, many_failures(), bench)
    guesses = start(made, ["guess", "another"])
    await settle()
    bench.do_one()
    await settle()
    assert not bench.work
    await cancel([*guesses, *(check.right for check in made._checks.values())])


async def test_same_login_at_the_same_time_is_checked_once() -> None:
    bench = Bench()
    made = authenticator(HASH, Throttle(), bench)
    logins = start(made, ["right"] * (2 * MAX_CHECKS))
    await settle()
    bench.do_one()
    assert all(await asyncio.gather(*logins))
    assert bench.taken == 1


async def test_right_hashed_login_is_next_whatever_many_guesses_wait() -> None:
    bench = Bench()
    made = authenticator(HASH, Throttle(), bench)
    guesses = start(made, [f"guess-{number}" for number in range(2 * MAX_CHECKS)])
    await settle()
    (right,) = start(made, ["right"])
    await settle()
    bench.do_one()  # it was under way
    await settle()
    bench.do_one()
    assert await right
    await cancel(guesses)


async def test_login_that_was_cancelled_makes_room_for_the_next() -> None:
    throttle = Throttle()

    async def take_turn() -> None:
        async with throttle.turn(HERE):
            await asyncio.Event().wait()

    turns = [asyncio.create_task(take_turn()) for _ in range(1 + MAX_CHECKS)]
    await settle()
    turns.append(asyncio.create_task(take_turn()))
    turns[1].cancel()  # before that one's first step, and noticed by its own after it
    await settle()
    assert [turn.done() for turn in turns] == [number == 1 for number in range(2 + MAX_CHECKS)]
    await cancel(turns)


async def test_login_that_is_given_up_while_it_is_cancelled_passes_nothing_on() -> None:
    throttle, under_way = Throttle(), 0

    async def take_turn() -> None:
        nonlocal under_way
        async with throttle.turn(HERE):
            under_way += 1
            await asyncio.Event().wait()

    turns = [asyncio.create_task(take_turn()) for _ in range(1 + MAX_CHECKS)]
    await settle()
    turns.append(asyncio.create_task(take_turn()))
    await asyncio.sleep(0)  # its first step makes the longest give up
    turns[1].cancel()
    await settle()
    assert under_way == 1
    await cancel(turns)


@pytest.mark.parametrize("there", [HERE, THERE])
async def test_guesses_that_wait_for_their_check_are_bounded_by_address(there: str) -> None:
    made = authenticator(HASH, Throttle(), Bench())
    guesses = start(made, [f"guess-{number}" for number in range(1 + MAX_CHECKS)])
    await settle()
    assert not any(guess.done() for guess in guesses)
    (one_more,) = start(made, ["one more"], there)
    await settle()
    assert [guess.done() for guess in guesses] == [
        number == 1 and there == HERE for number in range(1 + MAX_CHECKS)
    ]
    if there == HERE:
        with pytest.raises(TooManyLoginsError):
            await guesses[1]  # which has waited longest
    await cancel([*guesses, one_more])


async def test_guesses_that_wait_for_their_check_are_bounded_in_all() -> None:
    throttle = Throttle()

    async def take_turn(address: str) -> None:
        async with throttle.turn(address):
            await asyncio.Event().wait()

    addresses = [str(number) for number in range(MAX_CHECKS_IN_ALL // MAX_CHECKS)]
    turns = [asyncio.create_task(take_turn(address)) for address in addresses for _ in range(1 + MAX_CHECKS)]
    await settle()
    assert not any(turn.done() for turn in turns)
    async with throttle.turn("elsewhere"):
        pass  # needn't wait
    with pytest.raises(TooManyLoginsError):
        async with throttle.turn(addresses[0]):
            pass
    for turn in turns[:: 1 + MAX_CHECKS]:
        turn.cancel()
    await settle()
    assert throttle._waiting == MAX_CHECKS_IN_ALL - len(addresses)
    await cancel(turns)


async def test_cancelled_wait_leaves_the_turn_and_the_place_to_others() -> None:
    throttle, taken, done = Throttle(), [], asyncio.Event()

    async def take_turn(name: int) -> None:
        async with throttle.turn(HERE):
            taken.append(name)
            await done.wait()

    turns = [asyncio.create_task(take_turn(number)) for number in range(1 + MAX_CHECKS)]
    await settle()
    turns[-1].cancel()
    await settle()
    turns.append(asyncio.create_task(take_turn(-1)))
    await settle()
    assert not turns[1].done()  # which has waited longest: there was a place
    turns[0].cancel()
    turns[-1].cancel()  # which notices only after it would be its turn
    await settle()
    assert taken == [0, MAX_CHECKS - 1]
    turns[-3].cancel()
    await asyncio.sleep(0)  # so that the next has been given the turn
    turns[-4].cancel()  # but has not noticed
    await settle()
    assert taken == [0, MAX_CHECKS - 1, MAX_CHECKS - 3]
    done.set()
    await asyncio.gather(*turns, return_exceptions=True)
    assert len(taken) == MAX_CHECKS - 1


async def test_checks_that_wait_end_with_their_authenticator() -> None:
    made = authenticator(HASH, Throttle(), Bench())
    logins = start(made, [f"guess-{number}" for number in range(3)])
    await settle()
    made.close()
    ends = await asyncio.gather(*logins, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
    await settle()
    assert made._throttle._waiting == 0


async def test_answers_that_wait_are_bounded() -> None:
    throttle = Throttle()
    delays = [asyncio.create_task(throttle.delay(1e6)) for _ in range(MAX_DELAYED)]
    await settle()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await throttle.delay(1e6)  # not at all
    assert not any(delay.done() for delay in delays)
    await cancel(delays)


async def test_hashed_login_from_elsewhere_waits_for_one_check_at_the_most() -> None:
    bench = Bench()
    made = authenticator(HASH, Throttle(), bench)
    guesses = start(made, [f"guess-{number}" for number in range(FREE_FAILURES)])
    await settle()
    assert bench.taken == 1  # the others wait for their turn, and not in the queue
    (right,) = start(made, ["right"], THERE)
    await settle()
    assert bench.taken == 2
    bench.do_one()
    await settle()
    assert [guess.done() for guess in guesses].count(True) == 1
    bench.do_one()
    assert await right
    while bench.work:
        bench.do_one()
        await settle()
    assert [await guess for guess in guesses] == [False] * FREE_FAILURES


async def test_right_hashed_login_is_checked_once_and_then_remembered() -> None:
    bench = Bench()
    made = authenticator(HASH, Throttle(), bench)
    (first,) = start(made, ["right"])
    await settle()
    bench.do_one()
    assert await first
    assert await login(made, "right", THERE)
    assert bench.taken == 1


async def test_guess_that_went_away_keeps_nobody_waiting() -> None:
    bench = Bench()
    made = authenticator(HASH, Throttle(), bench)
    requests = [request(f"guess-{number}", HERE) for number in range(MAX_CHECKS - 1)]
    guesses = [asyncio.create_task(made.authenticate(guess)) for guess in requests]
    (right,) = start(made, ["right"])
    await settle()
    for guess in requests:
        guess._protocol.transport = None  # as aiohttp does when the connection ends
    bench.do_one()  # it was under way
    await settle()
    bench.do_one()
    assert await right
    ends = await asyncio.gather(*guesses, return_exceptions=True)
    assert [type(end) for end in ends] == [bool] + [TooManyLoginsError] * (MAX_CHECKS - 2)
    assert bench.taken == 2
    assert made._throttle._failures == {HERE: (1, 1000.0)}  # nothing is known of the others


async def test_who_comes_after_a_guess_went_away_is_checked() -> None:
    bench = Bench()
    made = authenticator(HASH, Throttle(), bench)
    first, gone = (request(password, HERE) for password in ("guess", "right"))
    asked = [asyncio.create_task(made.authenticate(one)) for one in (first, gone)]
    await settle()
    (again,) = start(made, ["right"])
    await settle()
    gone._protocol.transport = None
    bench.do_one()
    await settle()
    bench.do_one()
    assert await again
    assert await asyncio.gather(*asked) == [False, True]


async def test_what_nobody_waits_for_is_forgotten() -> None:
    bench, throttle = Bench(), Throttle()
    made = authenticator(HASH, throttle, bench)
    guesses = start(made, ["a", "b", "c"])
    for _ in guesses:
        await settle()
        bench.do_one()
    assert await asyncio.gather(*guesses) == [False] * 3
    await settle()
    assert [len(throttle._turns), throttle._waiting, throttle._delayed, len(made._checks)] == [0] * 4


@pytest.mark.parametrize(
    ("address", "throttled"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_ipv6_host_is_throttled_with_all_of_its_network(address: str, throttled: str) -> None:
    assert network(address) == throttled


async def test_guesses_from_one_ipv6_network_count_together() -> None:
    throttle = NotedThrottle()
    made = authenticator("right", throttle, Bench())
    for number in range(FREE_FAILURES + 1):
        assert not await login(made, "wrong", f"2001:db8::{number:x}")
    assert throttle.pauses[-1] > 0
    assert not await login(made, "wrong", "2001:db8:0:1::1")
    assert throttle.pauses[-1] == 0
