"""What clients of the API may send: query parameters and JSON bodies, read strictly.

Owns their forms, bounds and the sentences for what is wrong with them. What they are for is the handlers'.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar, get_args

from aiohttp import hdrs, web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from relay.admin.answers import Code, RefusedError
from relay.config import suggestion
from relay.errors import BadPayloadError
from relay.listener import JSON
from relay.model import DeliveryState
from relay.payload import parse
from relay.repair import MAX_ID, MAX_STEP, USUAL_STEP, a_cursor, a_pace
from relay.store.repair import Filter, Page
from relay.units import parse_duration

MAX_BODY_BYTES = 64 << 10
BODY_SECONDS = 10.0
MAX_TEXT = 255  # of a field of an event as the store keeps it
MAX_REASON = 500
MAX_CURSOR = 512
MAX_LINE_BYTES = 32 << 10  # of a request: all parameters at their longest, percent-encoded
DEFAULT_LIMIT = 50
UNROUTED = "unrouted"
State = Literal["pending", "in_flight", "delivered", "dead", "discarded", "unrouted"]
STATES: tuple[str, ...] = get_args(State)
OPERATOR = web.RequestKey("operator", str)
ROLE = web.RequestKey("role", str)  # of `Role`

_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LAST_INSTANT = 253402300799.0  # the last second of the year 9999; a float can't hold much after it
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_WRONG = {
    "missing": "is required",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "literal_error": "must be {expected}",
    "int_type": "must be a whole number from 1 to {most}",
    "greater_than_equal": "must be a whole number from 1 to {most}",
    "less_than_equal": "must be a whole number from 1 to {most}",
    "value_error": "{error}",
}
_INSTANT_FORM = (
    "write an instant such as 2026-11-22T11:01:36Z (in a URL + is %2B), or a duration before now such as 7d"
)


def _instant(value: Any) -> float | timedelta:
    """Return an instant in seconds, or a duration before now."""
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        try:
            at = datetime.fromisoformat(value.upper()).astimezone(UTC).timestamp()
        except (ValueError, OverflowError) as error:  # the 30th of February; before the year 1
            raise ValueError(_INSTANT_FORM) from error
        return min(at, _LAST_INSTANT)
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(_INSTANT_FORM) from error


def _number(value: Any) -> Any:
    """Return the whole number that a query parameter writes."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value


def _whole(value: Any) -> Any:
    """Return a whole number as such also where JSON writes it as 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _truth(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _store_cursor(value: str) -> str:
    try:
        return a_cursor(value)
    except ValueError as error:
        raise ValueError("send back what the page before gave as next") from error


Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Reason = Annotated[str, Field(min_length=1, max_length=MAX_REASON)]
Cursor = Annotated[str, Field(min_length=1, max_length=MAX_CURSOR)]
StoreCursor = Annotated[Cursor, AfterValidator(_store_cursor)]
Instant = Annotated[float | timedelta, BeforeValidator(_instant)]
Pace = Annotated[str, Field(max_length=64), AfterValidator(a_pace)]
Limit = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_STEP)]
QueryLimit = Annotated[int, BeforeValidator(_number), Field(ge=1, le=MAX_STEP)]
QueryTruth = Annotated[bool, BeforeValidator(_truth)]


class Nothing(BaseModel):
    """No parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Wanted(Nothing):
    """The filter: all that is given must hold."""

    id: Text | None = None
    type: Text | None = None
    status: Text | None = None
    source: Text | None = None
    since: Instant | None = None
    until: Instant | None = None
    state: State | None = None
    destination: Text | None = None

    def filter(self, now: float) -> Filter:
        """Return the store's filter; durations are before `now`."""
        return Filter(
            any_id=self.id,
            event_type=self.type,
            transaction_status=self.status,
            source=self.source,
            since=_before(self.since, now),
            until=_before(self.until, now),
            unrouted=self.state == UNROUTED,
            state=None if self.state in {None, UNROUTED} else DeliveryState(self.state),
            destination=self.destination,
        )


class Paged(Nothing):
    """Which part of a list."""

    limit: QueryLimit = DEFAULT_LIMIT
    cursor: StoreCursor | None = None

    def page(self, *, newest_first: bool = True) -> Page:
        """Return the store's page."""
        return Page(self.limit, self.cursor, newest_first)


class DeliveriesQuery(Paged, Wanted):
    """Of `GET /api/v1/deliveries`."""


class EventsQuery(DeliveriesQuery):
    """Of `GET /api/v1/events`."""

    order: Literal["newest", "oldest"] = "newest"
    payload: QueryTruth = False


class QuarantineQuery(Paged):
    """Of `GET /api/v1/quarantine`."""

    source: Text | None = None


class Because(Nothing):
    """The body of what needs a reason."""

    reason: Reason


class SweepBody(Nothing):
    """What the bulk repairs have in common."""

    filter: Wanted
    dry_run: bool = False
    cursor: Cursor | None = None
    limit: Limit = USUAL_STEP


class ReplayBody(SweepBody):
    """Of `POST /api/v1/replay`."""

    to: Text | None = None
    by_routes: bool = False
    pace: Pace | None = None


class DiscardBody(SweepBody):
    """Of `POST /api/v1/discard`."""

    reason: Reason


class ReleaseBody(Nothing):
    """Of `POST /api/v1/quarantine/{id}/release`."""

    to: Annotated[list[Text], Field(min_length=1, max_length=100)] | None = None


M = TypeVar("M", bound=Nothing)


def query_of(request: web.Request, model: type[M]) -> M:
    """Return the query parameters of a request.

    Raises:
        RefusedError: there is something wrong with them.
    """
    return validated(model, texts_of(request.query.items()), "parameter")


def texts_of(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the values of parameters or of a form's fields by their names.

    Raises:
        RefusedError: a name is given twice, or a value is one that no store can hold.
    """
    given: dict[str, str] = {}
    for name, value in items:
        if name in given:
            raise _bad(f"{_shortened(name)}: is given twice")
        if UNSTORABLE.search(value):
            raise _bad(f"{_shortened(name)}: holds a character that no text can hold")
        given[name] = value
    return given


async def body_of(request: web.Request, model: type[M]) -> M:
    """Return the JSON body of a request; none at all is an empty object.

    Raises:
        RefusedError: there is something wrong with it.
    """
    query_of(request, Nothing)
    body = await bytes_of(request)
    if not body:
        return validated(model, {}, "key")
    if request.content_type != JSON:
        raise RefusedError(Code.UNSUPPORTED_MEDIA_TYPE, f"send the body as {JSON}")
    try:
        return validated(model, parse(body), "key")
    except BadPayloadError as error:
        raise _bad(str(error)) from error


async def bytes_of(request: web.Request) -> bytes:
    """Return the body of a request as it was sent.

    Raises:
        RefusedError: it is encoded, too large or too slow, or no HTTP.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise RefusedError(Code.UNSUPPORTED_MEDIA_TYPE, "a Content-Encoding is not supported")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise RefusedError(Code.TIMEOUT, "the body took too long", {hdrs.CONNECTION: "close"}) from error
    except web.HTTPRequestEntityTooLarge as error:
        message = f"the body is larger than {MAX_BODY_BYTES} bytes"
        raise RefusedError(Code.TOO_LARGE, message, {hdrs.CONNECTION: "close"}) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise RefusedError(
            Code.BAD_REQUEST, "the body is not valid HTTP", {hdrs.CONNECTION: "close"}
        ) from error


def id_of(request: web.Request, what: str) -> int:
    """Return the number in the path.

    Raises:
        RefusedError: nothing can have it.
    """
    text = request.match_info["id"]
    if re.fullmatch("[0-9]{1,19}", text) and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise RefusedError(Code.NOT_FOUND, f"there is no {what} {_shortened(text)}")


def _before(value: float | timedelta | None, now: float) -> float | None:
    return now - value.total_seconds() if isinstance(value, timedelta) else value


def validated(model: type[M], given: Mapping[str, Any], noun: str) -> M:
    """Return what was given as a model; `noun`: what its keys are called.

    Raises:
        RefusedError: there is something wrong with it.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _bad(_sentence(error.errors(include_url=False)[0], model, noun)) from error


def _sentence(error: ErrorDetails, model: type[Nothing], noun: str) -> str:
    """Return what is wrong as one sentence that begins with the place."""
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        known = Wanted.model_fields if place[:-1] == ["filter"] else model.model_fields
        return f"there is no {noun} {_shortened('.'.join(place))}{suggestion(_shortened(place[-1]), known)}"
    context = error.get("ctx", {})
    wrong = _WRONG.get(error["type"], "has the wrong form").format(**context, most=MAX_STEP)
    return f"{'.'.join(place)}: {wrong}"


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _bad(message: str) -> RefusedError:
    return RefusedError(Code.BAD_REQUEST, message)
