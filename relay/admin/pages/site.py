"""What every page is made with: templates, words, headers, static files, and the way back after a change.

Owns the frame of the pages. What stands in it is left to the modules of the pages.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp_jinja2
import jinja2
from aiohttp import hdrs, web

from relay.admin.answers import REFUSED, Code
from relay.admin.pages import shown
from relay.admin.pages.asked import is_htmx, local_path, wants_page
from relay.admin.pages.course import newest_deliveries, replayed
from relay.admin.pages.why import why
from relay.admin.pages.words import COOKIE, NAMES, Words, word, words_for, words_of
from relay.admin.parameters import OPERATOR, ROLE
from relay.config import Config
from relay.history import History
from relay.listener import SERVER
from relay.repair import Repairs
from relay.store import Store

_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without it, browsers say `Origin: null` of our own forms
    hdrs.SERVER: SERVER,
}
_HTMX_CONFIG = json.dumps(
    {
        "allowEval": False,
        "includeIndicatorStyles": False,
        "selfRequestsOnly": True,
        "historyEnabled": False,  # it would keep pages in the browser's storage
    }
)
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_YEAR = "private, max-age=31536000, immutable"
_LANGUAGE_SECONDS = 365 * 86400
_MARK_LENGTH = 12
# What the first page that people open needs. Each takes up to 50 ms, and of these holds the interpreter for
# some: so they are few, with rests between them, and the others are compiled when somebody asks for them.
PREPARED = ("base.html", "parts.html", "_summary.html", "_overview.html", "overview.html")
PREPARATION_REST_SECONDS = 0.25

PAGES = (
    ("/", word("Overview")),
    ("/find", word("Find")),
    ("/dead", word("Dead letters")),
    ("/unrouted", word("Unrouted")),
    ("/quarantine", word("Quarantine")),
    ("/routes", word("Routes")),
    ("/audit", word("Audit")),
)
# What a page says after a change, by the word that its address carries; so nobody can write it into a link.
DONE = {
    "replayed": word("It is being delivered again."),
    "discarded": word("It was discarded."),
    "skipped": word("What waited behind it goes on."),
    "paused": word("The destination is paused."),
    "resumed": word("The destination is delivered to again."),
    "released": word("It was accepted as an event."),
    "duplicate": word("It is a duplicate of an event that was accepted before; it stays here."),
}
_WRONG = {
    Code.BAD_REQUEST: word("That can't be understood"),
    Code.UNAUTHORIZED: word("You have to log in"),
    Code.FORBIDDEN: word("That isn't allowed"),
    Code.NOT_FOUND: word("There is nothing here"),
    Code.METHOD_NOT_ALLOWED: word("That isn't possible here"),
    Code.CONFLICT: word("That can't be done as things stand"),
    Code.TOO_LARGE: word("That is too large"),
    Code.UNPROCESSABLE: word("That can't be done"),
    Code.UNAVAILABLE: word("The store can't be used now"),
}
_FAILED = word("That didn't work")


@dataclass(frozen=True, slots=True)
class _Static:
    """One static file. `mark`: changes with its content."""

    content: bytes
    mark: str
    content_type: str


class Site:
    """Makes pages, and holds what they show."""

    def __init__(
        self,
        store: Store,
        repairs: Repairs,
        now: Callable[[], float],
        config: Callable[[], Config],
        history: History,
    ) -> None:
        self.store = store
        self.repairs = repairs
        self.now = now
        self.config = config
        self.history = history
        self._static = _read_static()

    def set_up(self, application: web.Application) -> None:
        """Give an application the templates, of which it compiles the first once it runs."""
        aiohttp_jinja2.setup(
            application,
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            undefined=jinja2.StrictUndefined,
            autoescape=True,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        aiohttp_jinja2.get_env(application).filters.update(
            cut=shown.cut,
            visible=shown.visible,
            duration=shown.duration,
            newest=newest_deliveries,
            replayed=replayed,
        )
        application.cleanup_ctx.append(_prepared)

    def routes(self) -> list[web.RouteDef]:
        """Return what every page needs."""
        return [web.get("/static/{name}", self._get_static), web.get("/language", self._get_language)]

    # ---- answers

    async def page(
        self, request: web.Request, template: str, *, status: int = 200, **values: Any
    ) -> web.Response:
        """Return a page, or a part of one, with what its template names."""
        words = words_for(request)
        context = {**self._frame(request, words), **values}
        # In a thread: a long list, or a large payload, must not hold up webhooks.
        text = await asyncio.to_thread(aiohttp_jinja2.render_string, template, request, context)
        headers = {**_HEADERS, hdrs.CACHE_CONTROL: "no-store", "Content-Language": words.tag}
        return web.Response(text=text, status=status, content_type="text/html", headers=headers)

    def go_on(
        self, request: web.Request, to: str, done: str | None = None, /, **query: str | int
    ) -> web.Response:
        """Return the answer to a form: the browser goes on to a page, which says what was `DONE`."""
        asked = {"done": done, **query} if done else query
        location = f"{to}{'&' if '?' in to else '?'}{urlencode(asked)}" if asked else to
        headers = {**_HEADERS, hdrs.CACHE_CONTROL: "no-store", hdrs.LOCATION: location}
        if is_htmx(request):  # which would show the page that it is sent to inside of this one
            return web.Response(status=204, headers={**headers, "HX-Redirect": location})
        return web.Response(status=303, headers=headers)

    def _frame(self, request: web.Request, words: Words) -> dict[str, Any]:
        now = self.now()
        return {
            "_": words.say,
            "_n": words.count,
            "number": words.number,
            "why": partial(why, words),
            "lang": words.tag,
            "languages": NAMES,
            "pages": PAGES,
            "here": request.path,
            "address": request.path_qs if request.method in {"GET", "HEAD"} else "/",
            "operator": request.get(OPERATOR),
            "may_change": may_change(request),
            "htmx_config": _HTMX_CONFIG,
            "static": self._static_address,
            "path": shown.path,
            "order_path": shown.order_path,
            "query": partial(_query_address, request.path),
            "instant": shown.instant,
            "instant_text": shown.instant_text,
            "now": now,
            "done": DONE.get(request.query.get("done", "")),
        }

    # ---- what is no page

    @web.middleware
    async def errors_as_pages(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        """Show to a browser what went wrong as a page, with the code of the API."""
        response: web.StreamResponse = await handler(request)
        refused = response.get(REFUSED)
        if refused is None or not wants_page(request):
            return response
        code, sentence = refused
        heading = _WRONG.get(Code(code), _FAILED)
        page = await self.page(
            request, "error.html", status=response.status, heading=heading, sentence=sentence, code=code
        )
        for name in (hdrs.WWW_AUTHENTICATE, hdrs.RETRY_AFTER, hdrs.ALLOW, hdrs.CONNECTION):
            if name in response.headers:
                page.headers[name] = response.headers[name]
        return page

    def _static_address(self, name: str) -> str:
        return f"/static/{name}?{self._static[name].mark}"

    async def _get_static(self, request: web.Request) -> web.Response:
        file = self._static.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        caching = _YEAR if request.query_string == file.mark else "no-cache"
        headers = {
            **_HEADERS,
            hdrs.CACHE_CONTROL: caching,
            hdrs.ETAG: f'"{file.mark}"',
            hdrs.CONTENT_TYPE: file.content_type,
        }
        if request.headers.get(hdrs.IF_NONE_MATCH) == f'"{file.mark}"':
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.content, headers=headers)

    async def _get_language(self, request: web.Request) -> web.Response:
        response = self.go_on(request, local_path(request.query.get("back")))
        to = request.query.get("to", "")
        if to in NAMES:
            response.set_cookie(
                COOKIE, to, max_age=_LANGUAGE_SECONDS, path="/", httponly=True, samesite="Lax"
            )
        return response


async def _prepared(application: web.Application) -> AsyncIterator[None]:
    """Have what is needed first prepared while an application runs."""
    preparing = asyncio.create_task(_prepare(aiohttp_jinja2.get_env(application)))
    yield
    preparing.cancel()
    await asyncio.wait([preparing])


async def _prepare(templates: jinja2.Environment) -> None:
    """Read every language and compile the first page's templates, so that nobody waits who asks for it."""
    for tag in NAMES:
        await _prepare_one(words_of, tag)
    for name in PREPARED:
        await _prepare_one(templates.get_template, name)


async def _prepare_one(prepare: Callable[[str], Any], name: str) -> None:
    await asyncio.sleep(PREPARATION_REST_SECONDS)
    await asyncio.to_thread(prepare, name)


def may_change(request: web.Request) -> bool:
    """Tell whether whoever asks may change anything."""
    return request.get(ROLE) != "viewer"


def _query_address(path: str, asked: Mapping[str, str | None], **changed: str | None) -> str:
    """Return the address of a page with its parameters, some of them changed; None leaves one out."""
    kept = {name: value for name, value in {**asked, **changed}.items() if value is not None}
    return f"{path}?{urlencode(kept)}" if kept else path


def _read_static() -> dict[str, _Static]:
    files = {}
    for file in sorted((_HERE / "static").iterdir()):
        if file.suffix in _TYPES:
            content = file.read_bytes()
            mark = hashlib.sha256(content).hexdigest()[:_MARK_LENGTH]
            files[file.name] = _Static(content, mark, _TYPES[file.suffix])
    return files
