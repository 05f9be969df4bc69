"""The OpenAPI 3.1 document of the whole admin listener: every path, parameter, body and answer."""

from __future__ import annotations

import json
from typing import Any

from relay.admin.answers import STATUS, Code
from relay.admin.schemas import CURSOR, FILTER, ID, QUERY_LIMIT, SCHEMAS, TEXT, Schema, ref
from relay.listener import JSON

_BYTES = "application/octet-stream"
_ANY = (Code.BAD_REQUEST, Code.EXPECTATION_FAILED, Code.INTERNAL)
_EVERY = (*_ANY, Code.UNAUTHORIZED, Code.FORBIDDEN, Code.UNAVAILABLE)
_POSTED = (Code.TIMEOUT, Code.TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE)
_WHY = {
    Code.BAD_REQUEST: "A parameter or the body has the wrong form",
    Code.UNAUTHORIZED: "No or wrong credentials",
    Code.FORBIDDEN: (
        "A viewer asked for a change; a page of another site sent it; or without logins, Host is no loopback"
        " address"
    ),
    Code.NOT_FOUND: "There is no such thing",
    Code.TIMEOUT: "The body took too long",
    Code.CONFLICT: "It isn't in a state in which this can be done",
    Code.TOO_LARGE: "The body is larger than 64 KiB",
    Code.UNSUPPORTED_MEDIA_TYPE: f"The body isn't {JSON}, or has a Content-Encoding",
    Code.EXPECTATION_FAILED: "Expect is something other than 100-continue",
    Code.INTERNAL: "The relay failed to handle this request",
    Code.UNPROCESSABLE: "No such destination is configured, or deliveries in this state can't be changed so",
    Code.UNAVAILABLE: "The store can't be used now",
}
_TEXT_HEADER: Schema = {"schema": {"type": "string"}}
_HEADERS = {
    Code.UNAUTHORIZED: {"WWW-Authenticate": {"required": True, **_TEXT_HEADER}},
    Code.UNAVAILABLE: {
        "Retry-After": {"required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}}
    },
}


def _errors(*codes: Code) -> dict[str, Any]:
    return {
        str(STATUS[code]): {
            "description": _WHY[code],
            "content": {
                JSON: {
                    "schema": ref("Error"),
                    "example": {"error": _WHY[code].lower(), "code": code.value},
                }
            },
            **({"headers": _HEADERS[code]} if code in _HEADERS else {}),
        }
        for code in sorted(codes, key=lambda code: STATUS[code])
    }


def _json(schema: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": ref(schema)}}}


def _query(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _path(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


_PAGE = (
    _query("limit", QUERY_LIMIT, "Items at the most. There may be fewer, also none, while next isn't null"),
    _query("cursor", CURSOR, "What the page before gave as next"),
)
_FILTER = tuple(_query(name, schema, text) for name, (schema, text) in FILTER.items())
_NUMBER = _path("id", ID, "Its number")
_DESTINATION = _path("name", TEXT, "Of the destination")
_ORDER = _query(
    "order", {"type": "string", "enum": ["newest", "oldest"], "default": "newest"}, "Which come first"
)
_WITH_PAYLOAD = _query("payload", {"type": "boolean", "default": False}, "Give each event's payload as well")


def _get(
    id_: str, summary: str, schema: str, *parameters: dict[str, Any], codes: tuple[Code, ...] = ()
) -> dict[str, Any]:
    """Return what a GET of the API is, by the method's name."""
    return {
        "get": {
            "operationId": id_,
            "summary": summary,
            "parameters": list(parameters),
            "responses": {"200": _json(schema, summary), **_errors(*_EVERY, *codes)},
        }
    }


def _download(id_: str, summary: str) -> dict[str, Any]:
    operation = _get(id_, summary, "Empty", _NUMBER, codes=(Code.NOT_FOUND,))
    operation["get"]["responses"]["200"] = {
        "description": summary,
        "headers": {"Content-Disposition": {"required": True, **_TEXT_HEADER}},
        "content": {_BYTES: {}},
    }
    return operation


def _post(
    id_: str,
    summary: str,
    schemas: tuple[str, str],
    *parameters: dict[str, Any],
    codes: tuple[Code, ...] = (),
) -> dict[str, Any]:
    """Return what a POST of the API is; `schemas` are those of the body and the answer."""
    body, answer = schemas
    return {
        "post": {
            "operationId": id_,
            "summary": summary,
            "parameters": list(parameters),
            "requestBody": {
                "required": bool(SCHEMAS[body].get("required")),
                "content": {JSON: {"schema": ref(body)}},
            },
            "responses": {"200": _json(answer, summary), **_errors(*_EVERY, *_POSTED, *codes)},
        }
    }


_GONE = (Code.NOT_FOUND,)
_CHANGED = (Code.NOT_FOUND, Code.CONFLICT)
_API: dict[str, Any] = {
    "/openapi.json": {
        "get": {
            "operationId": "getDocument",
            "summary": "This document",
            "responses": {
                "200": {"description": "OpenAPI 3.1", "content": {JSON: {"schema": {"type": "object"}}}},
                **_errors(*_ANY, Code.UNAUTHORIZED, Code.FORBIDDEN),
            },
        }
    },
    "/events": _get("findEvents", "Events, newest first", "Events", *_FILTER, *_PAGE, _ORDER, _WITH_PAYLOAD),
    "/events/{id}": _get(
        "readEvent",
        "An event with its payload, its deliveries and their attempts, and what the routes say now",
        "EventDetails",
        _NUMBER,
        codes=_GONE,
    ),
    "/events/{id}/body": _download("readEventBody", "The bytes of an event as they were received"),
    "/deliveries": _get(
        "findDeliveries", "Deliveries, those of the newest events first", "Deliveries", *_FILTER, *_PAGE
    ),
    "/deliveries/{id}": _get(
        "readDelivery", "A delivery with its attempts", "DeliveryDetails", _NUMBER, codes=_GONE
    ),
    "/deliveries/{id}/replay": _post(
        "replayDelivery",
        "Deliver again where it went; a dead one is discarded",
        ("Empty", "ReplayedOne"),
        _NUMBER,
        codes=(*_CHANGED, Code.UNPROCESSABLE),
    ),
    "/deliveries/{id}/discard": _post(
        "discardDelivery",
        "Give up a delivery that is pending or dead",
        ("Reason", "DiscardedOne"),
        _NUMBER,
        codes=_CHANGED,
    ),
    "/deliveries/{id}/skip": _post(
        "skipDelivery",
        "Let what waits behind a dead delivery in its order go on; it stays dead",
        ("Empty", "SkippedOne"),
        _NUMBER,
        codes=_CHANGED,
    ),
    "/replay": _post(
        "replay",
        "One step of delivering again all that a filter finds, in order of acceptance",
        ("ReplayStep", "Replayed"),
        codes=(Code.UNPROCESSABLE,),
    ),
    "/discard": _post(
        "discard",
        "One step of giving up all pending and dead deliveries that a filter finds",
        ("DiscardStep", "Discarded"),
        codes=(Code.UNPROCESSABLE,),
    ),
    "/skip": _post(
        "skip",
        "One step of letting go on what waits behind the dead deliveries that a filter finds",
        ("SkipStep", "SkippedOver"),
        codes=(Code.UNPROCESSABLE,),
    ),
    "/destinations": _get(
        "listDestinations",
        "What is configured, or is paused or owed something although it isn't any more",
        "Destinations",
    ),
    "/destinations/{name}/pause": _post(
        "pauseDestination",
        "Send nothing to it, also after a restart",
        ("Empty", "Paused"),
        _DESTINATION,
        codes=_GONE,
    ),
    "/destinations/{name}/resume": _post(
        "resumeDestination", "Send to it again", ("Empty", "Paused"), _DESTINATION, codes=_GONE
    ),
    "/quarantine": _get(
        "findQuarantined",
        "Quarantined requests, newest first",
        "Quarantine",
        _query("source", TEXT, "Where they came from"),
        *_PAGE,
    ),
    "/quarantine/{id}": _get(
        "readQuarantined",
        "A quarantined request with the beginning of its body as text",
        "QuarantinedDetails",
        _NUMBER,
        codes=_GONE,
    ),
    "/quarantine/{id}/body": _download("readQuarantinedBody", "The bytes of a quarantined request"),
    "/quarantine/{id}/release": _post(
        "releaseQuarantined",
        "Accept it as an event after all; its id is the hash of the body",
        ("Release", "Released"),
        _NUMBER,
        codes=(Code.NOT_FOUND, Code.UNPROCESSABLE),
    ),
    "/quarantine/{id}/discard": _post(
        "discardQuarantined", "Delete it", ("Reason", "DiscardedOne"), _NUMBER, codes=_GONE
    ),
    "/changes": _get("findChanges", "What was changed by hand, newest first", "Changes", *_PAGE),
}
_EXPOSITION = {"schema": {"type": "string"}}
_OPERATION: dict[str, Any] = {
    "/metrics": {
        "get": {
            "operationId": "getMetrics",
            "summary": "Metrics for Prometheus; OpenMetrics if Accept asks for it",
            "responses": {
                "200": {
                    "description": "All metrics",
                    "content": {"text/plain": _EXPOSITION, "application/openmetrics-text": _EXPOSITION},
                },
                **_errors(*_ANY, Code.UNAUTHORIZED),
            },
        }
    },
    "/-/healthy": {
        "get": {
            "operationId": "getHealthy",
            "summary": "The process lives",
            "security": [],
            "responses": {"200": _json("Healthy", "It does"), **_errors(*_ANY)},
        }
    },
    "/-/ready": {
        "get": {
            "operationId": "getReady",
            "summary": "A webhook could be accepted now",
            "security": [],
            "responses": {
                "200": _json("Ready", "It could"),
                "503": _json("Error", "It couldn't; the error says why"),
                **_errors(*_ANY),
            },
        }
    },
    "/-/reload": {
        "post": {
            "operationId": "reload",
            "summary": "Take the configuration anew, whole or not at all",
            "responses": {
                "200": _json("Reloaded", "It was taken"),
                "422": _json("Problems", "It has problems, and nothing has changed"),
                **_errors(*_ANY, Code.UNAUTHORIZED, Code.FORBIDDEN),
            },
        }
    },
}
PATHS: dict[str, Any] = {**_OPERATION, **{f"/api/v1{path}": item for path, item in _API.items()}}
DOCUMENT = json.dumps(
    {
        "openapi": "3.1.0",
        "info": {
            "title": "itscope-relay",
            "version": "1",
            "description": (
                "The admin listener: find events, replay deliveries, pause destinations. What isn't described"
                " here is answered 404, another method 405 with Allow; both as Error."
            ),
        },
        "servers": [{"url": "/"}],
        "security": [{"login": []}, {}],
        "paths": PATHS,
        "components": {
            "securitySchemes": {
                "login": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "An account of admin.auth, where the configuration has that",
                }
            },
            "schemas": SCHEMAS,
        },
    }
)
