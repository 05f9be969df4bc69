"""Everything on one machine: a relay, three example ERPs, and ITscope played in front of them.

Owns the example ERPs and what is said about them. The relay is the real one, on loopback, with a store in a
folder that is removed at the end.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from relay import samples
from relay.app import Relay
from relay.config import load
from relay.model import DeliveryState
from relay.payload import parse
from relay.send import Player

_DEADLINE_SECONDS = 60.0
_SLOW_SECONDS = 0.4
_HICCUPS = 2

_CONFIG = """
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
store: {url: "sqlite:///demo.db"}
sources:
  itscope:
    auth: [{username: itscope, password: "${DEMO_PASSWORD}"}]
destinations:
  erp: {url: "${ERP}", retry: {initial: 500ms}}
  accounting: {url: "${ACCOUNTING}", concurrency: 2}
  crm: {url: "${CRM}"}
routes:
  - name: everything-to-erp
    to: [erp]
  - name: invoices-to-accounting
    match: {eventType: INVOICE}
    to: [accounting]
  - name: trouble-to-crm
    match: {eventType: ORDERRESPONSE, transactionStatus: [CANCELLED, REJECTED]}
    to: [crm]
"""


@dataclass(slots=True)
class _Erp:
    """One example system on a port of its own.

    Attributes:
        hiccups: requests that it answers 503 before it takes any.
        delay_seconds: how long it thinks about each.
        took: event ids in the order in which they were accepted.
        refused: how many it answered 503.
    """

    name: str
    say: Callable[[str], None]
    hiccups: int = 0
    delay_seconds: float = 0.0
    took: list[str] = field(default_factory=list)
    refused: int = 0

    async def take(self, request: web.Request) -> web.Response:
        """Answer one delivery."""
        body = await request.read()
        await asyncio.sleep(self.delay_seconds)
        payload = parse(body)
        attempt = request.headers["X-Relay-Attempt"]
        what = f"{payload['eventType']} {payload['transactionStatus']}"
        if self.refused < self.hiccups:
            self.refused += 1
            self.say(f"  {self.name:<10}  503  {what:<24} attempt {attempt}: out of order, will be retried")
            return web.Response(status=503)
        self.took.append(request.headers["Idempotency-Key"])
        self.say(f"  {self.name:<10}  200  {what:<24} attempt {attempt}")
        return web.Response()

    async def start(self, stack: AsyncExitStack) -> str:
        """Listen on loopback and return the URL."""
        application = web.Application()
        application.router.add_post("/itscope", self.take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/itscope"


async def run(*, keep_running: bool, say: Callable[[str], None]) -> bool:
    """Run the demonstration and return whether everything arrived where it should, and nothing waits."""
    logging.getLogger().addHandler(logging.NullHandler())  # what happens is told by `say`
    erps = [
        _Erp("erp", say, hiccups=_HICCUPS),
        _Erp("accounting", say, delay_seconds=_SLOW_SECONDS),
        _Erp("crm", say),
    ]
    password = secrets.token_urlsafe(12)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="itscope-relay-demo-")))
        urls = {erp.name.upper(): await erp.start(stack) for erp in erps}
        path = folder / "config.yaml"
        path.write_text(_CONFIG, encoding="utf-8")
        environment = {"DEMO_PASSWORD": password, **urls}
        relay = await stack.enter_async_context(Relay(path, load(path, environment), environment, time.time))
        public, admin = relay.public.addresses[0][1], relay.admin.addresses[0][1]
        url = f"http://127.0.0.1:{public}/webhooks/itscope"
        say(f"relay on {url}, admin on http://127.0.0.1:{admin}")
        say("three example ERPs: erp (takes all, out of order at first), accounting (slow, invoices), crm\n")
        expected = await _play_itscope(url, password, say)
        arrived = await _arrived(erps, expected)
        waiting = await _waiting(admin)
        _summarize(erps, expected, waiting, say)
        if keep_running:
            say(
                f"\nstill running; Ctrl-C ends it. Try:\n  {sys.argv[0]} send {url} --user itscope:{password}"
            )
            say(f"  curl http://127.0.0.1:{admin}/metrics")
            await asyncio.Event().wait()
    return arrived and not waiting


async def _play_itscope(
    url: str, password: str, say: Callable[[str], None]
) -> dict[str, collections.Counter[str]]:
    """Post the webhooks and return which event ids each ERP must get, each once."""
    expected: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    bodies = [samples.DOCUMENTED_SAMPLE, *(samples.webhook(*kind) for kind in samples.one_of_each())]
    async with Player(url, aiohttp.encode_basic_auth("itscope", password)) as player:
        for body in [*bodies, bodies[0]]:
            payload = parse(body)
            answer = await player.post(body)
            outcome = parse(answer.text.encode()).get("status", "") if answer.status == 200 else answer.text
            what = f"{payload['eventType']} {payload['transactionStatus']}"
            say(f"ITscope  ->  {what:<24} {answer.status} {outcome}")
            if outcome != "accepted":
                continue
            for name in _wanted_by(payload["eventType"], payload["transactionStatus"]):
                expected[name][payload["eventId"]] += 1
    return expected


def _wanted_by(event_type: str, status: str) -> list[str]:
    """Say where an event must go, in words of its own: the routes are what is being shown."""
    wanted = ["erp"]
    if event_type == "INVOICE":
        wanted.append("accounting")
    if event_type == "ORDERRESPONSE" and status in {"CANCELLED", "REJECTED"}:
        wanted.append("crm")
    return wanted


async def _arrived(erps: list[_Erp], expected: dict[str, collections.Counter[str]]) -> bool:
    """Wait until every ERP has what it must get; tell whether that, and nothing else, came."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if all(set(erp.took) >= set(expected[erp.name]) for erp in erps):
            break
        await asyncio.sleep(0.05)
    return all(collections.Counter(erp.took) == expected[erp.name] for erp in erps)


async def _waiting(admin: int) -> int:
    """Return the backlog, once it is 0 or the time is up: what an ERP has is recorded a moment later."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{admin}/metrics") as response:
                waiting = _backlog(await response.text())
            if not waiting or time.monotonic() > deadline:
                return waiting
            await asyncio.sleep(0.05)


def _backlog(metrics: str) -> int:
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in metrics.splitlines()
        if line.startswith("itscope_relay_backlog{") and f'state="{DeliveryState.DEAD}"' not in line
    )


def _summarize(
    erps: list[_Erp],
    expected: dict[str, collections.Counter[str]],
    waiting: int,
    say: Callable[[str], None],
) -> None:
    say("\nsummary")
    for erp in erps:
        wanted = expected[erp.name].total()
        retried = f", after {erp.refused} answers of 503" if erp.refused else ""
        say(f"  {erp.name:<10}  {len(erp.took)} of {wanted} delivered{retried}")
    say(f"  waiting     {waiting}")
