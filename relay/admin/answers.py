"""What the admin listener answers where it can't do what it was asked: one shape, with a stable code."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from enum import StrEnum

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from relay.errors import StoreUnavailableError, TooManyLoginsError
from relay.listener import JSON, SERVER
from relay.repair import Refusal, RepairRefusedError

_log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = "5"
_HEADERS = {hdrs.CACHE_CONTROL: "no-store", "X-Content-Type-Options": "nosniff"}  # a 404 may be kept, too
REFUSED = web.ResponseKey("refused", tuple[str, str])  # code and sentence of an error answer, for the pages


class Code(StrEnum):
    """What went wrong, for programs."""

    BAD_REQUEST = "bad-request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    EXPECTATION_FAILED = "expectation-failed"
    UNPROCESSABLE = "unprocessable"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


STATUS = {
    Code.BAD_REQUEST: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.TIMEOUT: 408,
    Code.CONFLICT: 409,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.EXPECTATION_FAILED: 417,
    Code.UNPROCESSABLE: 422,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}
_CODES = {status: code for code, status in STATUS.items()}
_REFUSALS = {
    Refusal.BAD_REQUEST: Code.BAD_REQUEST,
    Refusal.NOT_FOUND: Code.NOT_FOUND,
    Refusal.CONFLICT: Code.CONFLICT,
    Refusal.UNPROCESSABLE: Code.UNPROCESSABLE,
}


class RefusedError(Exception):
    """A request ends with this answer."""

    def __init__(self, code: Code, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers = headers


def json_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer with a JSON text."""
    return web.Response(
        body=text.encode(),
        status=status,
        headers={hdrs.CONTENT_TYPE: JSON, hdrs.SERVER: SERVER, **(headers or {})},
    )


def refusal(
    code: Code, message: str, headers: Mapping[str, str] | None = None, **more: object
) -> web.Response:
    """Return an error answer: one sentence, a code, and nothing about the inside."""
    text = json.dumps({"error": message, "code": code, **more})
    response = json_response(STATUS[code], text, {**_HEADERS, **(headers or {})})
    response[REFUSED] = code.value, message
    return response


def refuse(status: int, message: str) -> web.Response:
    """Return an error answer by its status; by 400 or 500 where there is no code for it."""
    other = Code.INTERNAL if status >= STATUS[Code.INTERNAL] else Code.BAD_REQUEST
    return refusal(_CODES.get(status, other), message)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer whatever ends a request early in the one shape of errors."""
    try:
        response = await handler(request)
    except RefusedError as refused:
        return refusal(refused.code, refused.message, refused.headers)
    except RepairRefusedError as refused:
        return refusal(_REFUSALS[refused.refusal], str(refused))
    except StoreUnavailableError as error:
        _log.warning("request.not_answered", extra={"fields": {"error": str(error)}})
        return refusal(
            Code.UNAVAILABLE,
            "the store can't be used now; try again",
            {hdrs.RETRY_AFTER: RETRY_AFTER_SECONDS},
        )
    except TooManyLoginsError as error:
        return refusal(Code.UNAVAILABLE, str(error), {hdrs.RETRY_AFTER: RETRY_AFTER_SECONDS})
    except web.HTTPMethodNotAllowed as error:
        message = "this method is not allowed here"
        return refusal(Code.METHOD_NOT_ALLOWED, message, {hdrs.ALLOW: error.headers[hdrs.ALLOW]})
    except web.HTTPException as error:
        return refuse(error.status, error.reason.lower())
    except Exception:  # noqa: BLE001 (logged; aiohttp would answer with a page of its own)
        _log.exception("request.failed")
        return refusal(Code.INTERNAL, "the relay failed to handle this request")
    response.headers[hdrs.SERVER] = SERVER
    return response
