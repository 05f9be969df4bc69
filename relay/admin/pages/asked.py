"""What browsers send to pages: the parameters of a page, and forms.

Read by the rules of the API, with two differences: a field that was left empty is one that wasn't sent, and
what a page doesn't know is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, ClassVar, TypeVar
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from pydantic import Field

from relay.admin.answers import Code, RefusedError
from relay.admin.parameters import Nothing, bytes_of, texts_of, validated

HTMX = "HX-Request"
MAX_ADDRESS = 4000  # characters
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 120  # as many destinations as the API takes, and some more
_LOCAL = re.compile(r"/(?:[\x21-\x2e\x30-\x5b\x5d-\x7e][\x21-\x5b\x5d-\x7e]*)?")


class Asked(Nothing):
    """The parameters of a page, or the fields of a form. Everything is text.

    Attributes:
        LISTS: what may be given several times.
    """

    LISTS: ClassVar[frozenset[str]] = frozenset()


class GoBack(Asked):
    """Where a form was sent from."""

    back: Annotated[str, Field(max_length=MAX_ADDRESS)] | None = None


M = TypeVar("M", bound=Nothing)


def query_of(request: web.Request, model: type[M]) -> M:
    """Return a page's parameters.

    Raises:
        RefusedError: there is something wrong with them.
    """
    return _validated(model, request.query.items(), "parameter")


async def form_of(request: web.Request, model: type[M]) -> M:
    """Return a form's fields.

    Raises:
        RefusedError: there is something wrong with them, or it is no form.
    """
    body = await bytes_of(request)
    if body and request.content_type != _FORM:
        raise RefusedError(Code.UNSUPPORTED_MEDIA_TYPE, f"send the form as {_FORM}")
    try:
        fields = parse_qsl(body.decode(), True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise RefusedError(Code.BAD_REQUEST, "the form can't be read") from error
    return _validated(model, fields, "field")


def is_htmx(request: web.Request) -> bool:
    """Tell whether htmx asks, which wants a part of a page."""
    return request.headers.get(HTMX) == "true"


def local_path(text: str | None, otherwise: str = "/") -> str:
    """Return a path of this site as it was sent; another one where the text is none."""
    return text if text is not None and _LOCAL.fullmatch(text) else otherwise


def wants_page(request: web.Request) -> bool:
    """Tell whether a browser asks that shows what it gets."""
    if request.path.startswith(("/api/", "/-/", "/metrics", "/static/")):
        return False
    return "text/html" in request.headers.get(hdrs.ACCEPT, "")


def _validated(model: type[M], items: Iterable[tuple[str, str]], noun: str) -> M:
    given = [(name, text) for name, value in items if name in model.model_fields and (text := value.strip())]
    lists: dict[str, list[str]] = {name: [] for name in getattr(model, "LISTS", ())}
    for name, text in given:
        if name in lists:
            lists[name].append(text)
    once = texts_of((name, text) for name, text in given if name not in lists)
    return validated(model, {**once, **{name: texts for name, texts in lists.items() if texts}}, noun)
