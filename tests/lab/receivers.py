"""The destinations: each refuses a share of what comes, takes its time, and remembers what it took."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass

from aiohttp import web

from tests.lab.order import OrderWatch
from tests.lab.points import Axe, Point
from tests.lab.webhook import Webhook, read


@dataclass(frozen=True, slots=True)
class Character:
    """How a receiver behaves.

    Attributes:
        refused: share of the requests that are answered 503.
        thinks_seconds: time for each request.
    """

    refused: float = 0.0
    thinks_seconds: float = 0.0


class Receiver:
    """One destination on a port of its own.

    Attributes:
        taken_in: event id to the lives of the relay in which it was taken; more than one is a repetition.
        refusals: how many requests were answered 503.
        altered: how many requests were not what had been posted.
    """

    def __init__(self, character: Character, axe: Axe, chance: random.Random, watch: OrderWatch) -> None:
        self._character = character
        self._axe = axe
        self._chance = chance
        self._watch = watch
        self.taken_in: dict[str, list[int]] = {}
        self.refusals = 0
        self.altered = 0
        self.url = ""
        application = web.Application()
        application.router.add_post("/hook", self._answer)
        application.router.add_post("/hook/{life}", self._answer)  # where several relays live at a time
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        life = int(request.match_info.get("life", self._axe.life))
        webhook = read(await request.read())
        if webhook is None or request.headers.get("Idempotency-Key") != webhook.event_id:
            self.altered += 1
            return web.Response(status=200)
        takes = self._chance.random() >= self._character.refused
        self._watch.arrived(webhook, life)
        self._axe.passed(Point.RECEIVED, life)
        await asyncio.sleep(self._character.thinks_seconds)
        self._watch.ended(webhook, life, taken=takes)
        self._remember(webhook, life, takes=takes)
        response = web.Response(status=200 if takes else 503)
        with contextlib.suppress(ConnectionError):  # it was killed meanwhile
            await response.prepare(request)
            await response.write_eof()
        if takes:
            self._axe.passed(Point.REPLIED, life)
        return response

    def _remember(self, webhook: Webhook, life: int, *, takes: bool) -> None:
        if takes:
            self.taken_in.setdefault(webhook.event_id, []).append(life)
        else:
            self.refusals += 1
