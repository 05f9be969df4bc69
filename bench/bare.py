"""The ceiling: what a good engineer writes in an afternoon. Basic check, JSON parse, three POSTs; no store,
no retries, no metrics. It answers when the three are answered.

Run as `python -m bench.bare PORT URL URL URL`; user and password are those of `bench.harness`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys

import aiohttp
import uvloop
from aiohttp import web

from bench.harness import AUTHORIZATION


async def serve(port: int, urls: list[str]) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def forward(url: str, body: bytes) -> None:
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                await response.read()

        async def accept(request: web.Request) -> web.Response:
            if not hmac.compare_digest(request.headers.get("Authorization", ""), AUTHORIZATION):
                return web.Response(status=401)
            body = await request.read()
            json.loads(body)
            await asyncio.gather(*(forward(url, body) for url in urls))
            return web.json_response({"status": "accepted"})

        app = web.Application()
        app.router.add_post("/webhooks/itscope", accept)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(f"listening on {port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:]))
