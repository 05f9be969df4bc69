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

from relay.auth import FREE_FAILURES, Authenticator, Throttle, network
from relay.config import Account
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

    def penalty_seconds(self, address: str, now: float) -> float:
        pause = super().penalty_seconds(address, now)
        self.pauses.append(pause)
        return pause / 1000


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


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def login(made: Authenticator, password: str, address: str = HERE) -> bool:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await made.authenticate(request(password, address))


def start(made: Authenticator, passwords: Sequence[str], address: str = HERE) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(login(made, password, address)) for password in passwords]


async def test_guesses_at_once_wait_for_each_other_and_each_for_longer() -> None:
    throttle = NotedThrottle()
    made = authenticator("right", throttle, Bench())
    guesses = start(made, [f"guess-{number}" for number in range(FREE_FAILURES + 4)])
    assert set(await asyncio.gather(*guesses)) == {False}
    assert throttle.pauses == [*[0.0] * FREE_FAILURES, 0.1, 0.2, 0.4, 0.8]


async def test_right_plain_login_passes_while_guesses_from_its_address_wait() -> None:
    throttle = Throttle()
    made = authenticator("right", throttle, Bench())
    for _ in range(FREE_FAILURES + 3):
        throttle.failed(HERE, 1000.0)
    async with throttle.turn(HERE):  # as a guess does that is being checked
        guesses = start(made, ["wrong"] * 5)
        await settle()
        assert await login(made, "right")
        assert not any(guess.done() for guess in guesses)
        for guess in guesses:
            guess.cancel()
    await asyncio.gather(*guesses, return_exceptions=True)


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
    gone, right = start(made, ["guess", "right"])
    await settle()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await settle()
    bench.work.pop(0)
    bench.do_one()
    assert await right


async def test_turn_that_nobody_waits_for_is_forgotten() -> None:
    throttle = Throttle()
    made = authenticator("right", throttle, Bench())
    assert await asyncio.gather(*start(made, ["wrong"] * 3)) == [False] * 3
    await settle()
    assert len(throttle._turns) == 0


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
