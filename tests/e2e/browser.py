"""A Chromium of this machine for tests of the pages, which fails where a page does anything it mustn't."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, async_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = resources.files("axe_playwright_python") / "axe.min.js"
_SERIOUS = {"serious", "critical"}


class Watched:
    """A browser window and all that went wrong in it."""

    def __init__(self, context: BrowserContext, page: Page, hosts: set[str]) -> None:
        self.context = context
        self.page = page
        self.wrong: list[str] = []
        self._hosts = hosts
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", self._requested)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.wrong.append(f"console: {message.text}")

    def _requested(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme != "data" and address.netloc not in self._hosts:
            self.wrong.append(f"request: {request.url}")

    async def findings(self) -> list[str]:
        """Return what axe-core finds serious on the page as it is."""
        await self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found: Any = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{one['id']}: {[node['html'] for node in one['nodes']]}"
            for one in found["violations"]
            if one["impact"] in _SERIOUS
        ]


@contextlib.asynccontextmanager
async def browser(host: str, *arguments: str, **options: Any) -> AsyncIterator[Watched]:
    """Open a window; at its end, nothing may have gone wrong in it.

    Args:
        host: with its port, the only one that may be asked for anything.
        arguments: of Chromium.
        options: of the window, as Playwright names them.
    """
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *arguments]
        )
        context = await chromium.new_context(**{"locale": "en-GB", "reduced_motion": "reduce", **options})
        watched = Watched(context, await context.new_page(), {host})
        yield watched
        await context.close()
        await chromium.close()
        assert watched.wrong == []
