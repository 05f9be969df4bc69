"""The JSON Schemas of what the API takes and gives, for its OpenAPI document."""

from __future__ import annotations

from typing import Any

from relay.admin.answers import STATUS
from relay.admin.parameters import (
    DEFAULT_LIMIT,
    MAX_CURSOR,
    MAX_REASON,
    MAX_TEXT,
    STATES,
)
from relay.model import DeliveryState
from relay.repair import MAX_ID, MAX_STEP, USUAL_STEP
from relay.routing import Finding

Schema = dict[str, Any]

ID: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
NAME: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
INSTANT: Schema = {"type": "string", "format": "date-time", "examples": ["2026-11-22T11:01:36.123Z"]}
TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": r"^[^\u0000]*$"}
REASON: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_REASON,
    "pattern": r"^[^\u0000]*$",
    "description": "Why; kept with the change",
    "examples": ["the ERP was set back to yesterday"],
}
LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_STEP}
CURSOR: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_CURSOR}
DURATION: Schema = {
    "type": "string",
    "pattern": r"^[0-9]{1,3}(\.[0-9]{1,3})?(ms|s|m|h|d)$",
    "not": {"pattern": r"^0+(\.0*)?[a-z]"},
    "examples": ["7d", "30m"],
    "description": "Before now",
}
WHEN: Schema = {"anyOf": [{"type": "string", "format": "date-time"}, DURATION]}
STATE: Schema = {"type": "string", "enum": [state.value for state in DeliveryState]}
PACE: Schema = {
    "type": "string",
    "pattern": "^[1-9][0-9]{0,4}/(s|min|h)$",
    "examples": ["50/s"],
    "description": "At most so many deliveries become due in a time; 50/s by default",
}


def ref(name: str) -> Schema:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """Return a schema that takes null as well."""
    if "type" in schema and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def thing(properties: dict[str, Schema], **more: Any) -> Schema:
    """Return an object that always has all of its properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def given(properties: dict[str, Schema], required: tuple[str, ...] = (), **more: Any) -> Schema:
    """Return an object that a client sends; it may leave out what isn't required."""
    return thing(properties, **more) | {"required": list(required)}


def page(key: str, items: str) -> Schema:
    """Return a page of a list."""
    following = {**nullable({"type": "string"}), "description": "The cursor of the next page"}
    return thing({key: {"type": "array", "items": ref(items)}, "next": following})


FILTER: dict[str, tuple[Schema, str]] = {
    "id": (TEXT, "Exactly the event's id, or any of its order, ITscope order, document or transaction ids"),
    "type": (TEXT, "The event's type, such as ORDER"),
    "status": (TEXT, "Its transaction status"),
    "source": (TEXT, "Where it came from"),
    "since": (WHEN, "Received at or after it"),
    "until": (WHEN, "Received before it"),
    "state": ({"type": "string", "enum": list(STATES)}, "With a delivery in this state; or unrouted"),
    "destination": (TEXT, "With a delivery to it"),
}
_REFERENCES: dict[str, Schema] = {
    "order_id": nullable(NAME),
    "itscope_order_id": nullable(NAME),
    "document_id": nullable(NAME),
    "transaction_id": nullable(NAME),
}
_DELIVERY: dict[str, Schema] = {
    "id": ID,
    "event": {**ID, "description": "The number of its event"},
    "event_id": NAME,
    "source": NAME,
    "event_type": nullable(NAME),
    "transaction_status": nullable(NAME),
    "destination": NAME,
    "state": STATE,
    "accepted_at": {**INSTANT, "description": "Since when it is owed"},
    "due_at": {**INSTANT, "description": "Pending: not before it; finished: since"},
    "attempt_count": COUNT,
    "order_key": {**nullable(NAME), "description": "It has a place in the order of this key"},
    "blocked": {"type": "boolean", "description": "It waits for another delivery of its key"},
    "replay_of": {**nullable(ID), "description": "The delivery that it repeats"},
    "reason": {**nullable(NAME), "description": "Why it was discarded"},
    "received_at": {**INSTANT, "description": "When its event was received"},
    **_REFERENCES,
}
_ATTEMPTS: Schema = {"type": "array", "items": ref("Attempt")}
_EVENT: dict[str, Schema] = {
    "id": ID,
    "source": NAME,
    "event_id": NAME,
    "received_at": INSTANT,
    "content_type": NAME,
    "event_type": nullable(NAME),
    "transaction_status": nullable(NAME),
    **_REFERENCES,
    "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "unrouted": {"type": "boolean", "description": "It was never owed to anybody"},
    "size": {**COUNT, "description": "Of the body in bytes"},
    "deliveries": {"type": "array", "items": ref("Delivery")},
}
_PAYLOAD: Schema = {"type": ["object", "null"], "description": "null where the body is no proper JSON object"}
_LEGIBLE: Schema = {
    "type": "object",
    "additionalProperties": NAME,
    "description": "Where the payload is null: what routes read of the body all the same, as texts",
}
_EVENT_DETAILS: dict[str, Schema] = _EVENT | {
    "deliveries": {"type": "array", "items": ref("DeliveryDetails")},
    "payload": _PAYLOAD,
    "routes": {**ref("Routing"), "description": "What the routes in force say now"},
}
_QUARANTINED: dict[str, Schema] = {
    "id": ID,
    "source": NAME,
    "reason": {**NAME, "examples": ["not-json"]},
    "detail": NAME,
    "content_type": NAME,
    "received_at": INSTANT,
    "last_received_at": INSTANT,
    "times": {**COUNT, "description": "How often the same bytes came"},
    "size": {**COUNT, "description": "Of the body in bytes"},
}
_SWEEP: dict[str, Schema] = {
    "filter": ref("Filter"),
    "dry_run": {"type": "boolean", "default": False, "description": "Count what would be done"},
    "cursor": {**nullable(CURSOR), "description": "What the step before gave as next"},
    "limit": {**LIMIT, "default": USUAL_STEP},
}


def _step(word: str) -> Schema:
    return thing(
        {
            word: COUNT,
            "skipped": {**COUNT, "description": "Found, but left as they are"},
            "by_destination": {"type": "object", "additionalProperties": COUNT},
            "next": {**nullable(NAME), "description": "The cursor of the next step, null at the end"},
            "until": {
                **nullable({"type": "string", "format": "date-time"}),
                "description": "What was received before it is looked at, rounded up to the microsecond: as"
                " filter.until it means the same again. null: all, since filter.id is given",
            },
        }
    )


SCHEMAS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "properties": {"error": NAME, "code": {"type": "string", "enum": [code.value for code in STATUS]}},
        "required": ["error", "code"],
        "additionalProperties": False,
    },
    "Problems": thing(
        {
            "error": NAME,
            "code": {"const": "unprocessable"},
            "problems": {
                "type": "array",
                "items": NAME,
                "examples": [["config.yaml:12:7: destinations.erp.timeout: write a duration"]],
            },
        }
    ),
    "Healthy": thing({"status": {"const": "healthy"}}),
    "Ready": thing({"status": {"const": "ready"}}),
    "Reloaded": thing({"status": {"const": "reloaded"}}),
    "Attempt": thing(
        {
            "number": ID,
            "started_at": INSTANT,
            "duration_seconds": {"type": "number", "minimum": 0},
            "status": nullable({"type": "integer"}),
            "error": nullable(NAME),
            "next_state": STATE,
            "answer": {**nullable(NAME), "description": "The first bytes of what the destination said"},
        }
    ),
    "Delivery": thing(_DELIVERY),
    "DeliveryDetails": thing(_DELIVERY | {"attempts": _ATTEMPTS}),
    "Deliveries": page("deliveries", "Delivery"),
    "Event": given(
        _EVENT | {"payload": _PAYLOAD, "legible": _LEGIBLE},
        tuple(_EVENT),
        description="With the payload where it was asked for",
    ),
    "EventDetails": given(
        _EVENT_DETAILS | {"legible": _LEGIBLE}, tuple(_EVENT_DETAILS), description="One event"
    ),
    "Events": page("events", "Event"),
    "Routing": thing(
        {
            "destinations": {"type": "array", "items": NAME},
            "routes": {
                "type": "array",
                "items": thing(
                    {
                        "name": NAME,
                        "finding": {"type": "string", "enum": [finding.value for finding in Finding]},
                        "why": NAME,
                        "to": {"type": "array", "items": NAME},
                    }
                ),
            },
        }
    ),
    "Destination": thing(
        {
            "name": NAME,
            "configured": {"type": "boolean"},
            "paused_at": nullable(INSTANT),
            "held_until": {**nullable(INSTANT), "description": "The end of its maintenance window"},
            "breaker": {"type": "string", "enum": ["closed", "open"]},
            "probe_at": nullable(INSTANT),
            "backlog": thing({"pending": COUNT, "in_flight": COUNT, "dead": COUNT}),
            "oldest_accepted_at": nullable(INSTANT),
        }
    ),
    "Destinations": thing({"destinations": {"type": "array", "items": ref("Destination")}}),
    "Paused": thing({"paused": {"type": "boolean"}}),
    "Quarantined": thing(_QUARANTINED),
    "QuarantinedDetails": thing(
        _QUARANTINED | {"text": {**NAME, "description": "The first 64 KiB, with replacement characters"}}
    ),
    "Quarantine": page("quarantine", "Quarantined"),
    "Change": thing(
        {
            "id": ID,
            "at": INSTANT,
            "who": NAME,
            "action": {**NAME, "examples": ["replay"]},
            "detail": {"type": "object", "description": "What was asked for"},
            "number": {**COUNT, "description": "How many things it changed"},
        }
    ),
    "Changes": page("changes", "Change"),
    "Filter": given(
        {name: nullable({**schema, "description": text}) for name, (schema, text) in FILTER.items()},
        anyOf=[
            {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
            for name in ("id", "state", "destination", "since", "until")
        ],
        description="All that is given must hold",
        examples=[{"state": "dead", "destination": "erp"}],
    ),
    "Empty": given({}),
    "Reason": given({"reason": REASON}, ("reason",)),
    "Release": given(
        {
            "to": {
                **nullable({"type": "array", "items": TEXT, "minItems": 1, "maxItems": 100}),
                "description": "Where it goes; null: where the routes in force send it",
            }
        }
    ),
    "ReplayStep": given(
        {
            **_SWEEP,
            "to": {**nullable(TEXT), "description": "Every event found goes to this destination"},
            "by_routes": {
                "type": "boolean",
                "default": False,
                "description": "Every event found goes where the routes in force send it",
            },
            "pace": nullable(PACE),
        },
        ("filter",),
        examples=[{"filter": {"state": "dead", "destination": "erp"}, "pace": "50/s"}],
    ),
    "DiscardStep": given(
        {**_SWEEP, "reason": REASON},
        ("filter", "reason"),
        examples=[{"filter": {"state": "dead", "destination": "erp"}, "reason": "entered by hand"}],
    ),
    "SkipStep": given(_SWEEP, ("filter",), examples=[{"filter": {"destination": "erp"}, "dry_run": True}]),
    "Replayed": _step("replayed"),
    "Discarded": _step("discarded"),
    "SkippedOver": _step("skipped_over"),
    "ReplayedOne": thing({"replayed": {"const": 1}}),
    "DiscardedOne": thing({"discarded": {"const": 1}}),
    "SkippedOne": thing({"skipped": {"const": 1}}),
    "Released": thing(
        {
            "status": {"type": "string", "enum": ["accepted", "duplicate"]},
            "event": {**nullable(ID), "description": "The number of the event that it is, or was before"},
            "deliveries": COUNT,
        }
    ),
}
QUERY_LIMIT: Schema = {**LIMIT, "default": DEFAULT_LIMIT}
