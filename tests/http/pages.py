"""The operator's pages as a browser without scripts gets them, read by an HTML parser: safe, and harmless."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from urllib.parse import urlencode

from aiohttp import web

from tests.http.world import Answer, Running

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FORM = {**HTML, "Content-Type": "application/x-www-form-urlencoded"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SCRIPT = "<script>alert(1)</script>"
LINK = "javascript:alert(2)"
TURNED = "\u202ekaerbtuo\u202c"
IMAGE = "\"'><img src=x onerror=alert(3)>"
NASTY = f"{SCRIPT}{LINK}{TURNED}{IMAGE}{{{{7*7}}}}"


class Page(HTMLParser):
    """What an HTML parser finds in a page."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = answer.body.decode()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def links(self) -> list[str]:
        return [attributes["href"] or "" for attributes in self.all("a")]

    @property
    def forms(self) -> list[str]:
        return [attributes["action"] or "" for attributes in self.all("form")]


async def page(
    running: Running, path: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Page:
    return read(await running.ask(path, headers={**HTML, **(headers or {})}), status)


def read(answer: Answer, status: int = 200) -> Page:
    """Return the page that was answered, which is safe and harmless."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert_safe(answer)
    found = Page(answer)
    assert_harmless(found)
    return found


async def send_form(
    running: Running, path: str, headers: Mapping[str, str] | None = None, **fields: str
) -> Answer:
    return await running.ask(
        path, method="POST", headers={**FORM, **(headers or {})}, data=urlencode(fields).encode()
    )


def assert_safe(answer: Answer) -> None:
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"


def assert_harmless(found: Page) -> None:
    """Check that a page has no script, link, style or handler but the pages' own."""
    for tag, attributes in found.tags:
        assert tag in {
            *("html", "head", "meta", "title", "link", "script", "body", "a", "header", "div", "nav", "ul"),
            *("li", "main", "h1", "h2", "h3", "p", "span", "bdi", "time", "section", "article", "form"),
            *("label", "input", "select", "option", "button", "table", "caption", "thead", "tbody", "tr"),
            *("th", "td", "dl", "dt", "dd", "code", "pre", "details", "summary", "ol", "blockquote", "svg"),
            *("line", "rect", "strong", "textarea", "fieldset", "legend", "progress", "noscript"),
        }, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", (tag, value)
            if name in {"href", "src", "action", "hx-get", "hx-post"}:
                assert re.match(r"/(?!/)|#|data:,$", value or ""), (tag, name, value)
    assert [(one["src"] or "").partition("?")[0] for one in found.all("script")] == [
        "/static/htmx-2.0.11.min.js",
        "/static/relay.js",
    ] or not found.all("html")
    # What is in a field stays in it, and is to be sent back as it was.
    shown = [value for _, attributes in found.tags for name, value in attributes.items() if name != "value"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f]", f"{found.text}{shown}")


async def refuse(_request: web.BaseRequest) -> web.StreamResponse:
    """Answer as an ERP does that refuses everything, in nasty words."""
    return web.Response(status=422, text=NASTY)
