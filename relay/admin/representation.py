"""What the store's records look like as JSON. Instants are RFC 3339 in UTC, with milliseconds. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from relay.errors import BadPayloadError
from relay.model import DeliveryState, LaneState, References
from relay.payload import parse, scalar_text
from relay.repair import Step, legible
from relay.routing import Router
from relay.store import Backlog
from relay.store.repair import AttemptRecord, ChangeRecord, DeliveryRecord, EventRecord, QuarantineRecord

MAX_SHOWN_BYTES = 64 << 10  # of a quarantined body as text


def instant(at: float | None, timespec: str = "milliseconds") -> str | None:
    """Return an instant as text."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def event_json(event: EventRecord) -> dict[str, Any]:
    """Return an event without its payload."""
    return {
        "id": event.id,
        "source": event.source,
        "event_id": event.event_id,
        "received_at": instant(event.received_at),
        "content_type": event.content_type,
        "event_type": event.event_type,
        "transaction_status": event.transaction_status,
        **_ids_json(event.references),
        "trace_id": event.trace_id,
        "unrouted": event.unrouted,
        "size": event.size,
        "deliveries": [delivery_json(delivery) for delivery in event.deliveries],
    }


def delivery_json(
    delivery: DeliveryRecord, attempts: Sequence[AttemptRecord] | None = None
) -> dict[str, Any]:
    """Return a delivery, with its attempts if they are given."""
    fields: dict[str, Any] = {
        "id": delivery.id,
        "event": delivery.event,
        "event_id": delivery.event_id,
        "source": delivery.source,
        "event_type": delivery.event_type,
        "transaction_status": delivery.transaction_status,
        "destination": delivery.destination,
        "state": delivery.state.value,
        "accepted_at": instant(delivery.accepted_at),
        "due_at": instant(delivery.due_at),
        "attempt_count": delivery.attempts,
        "order_key": delivery.order_key,
        "blocked": delivery.blocked,
        "replay_of": delivery.replay_of,
        "reason": delivery.reason,
        "received_at": instant(delivery.received_at),
        **_ids_json(delivery.references),
    }
    if attempts is not None:
        fields["attempts"] = [_attempt_json(attempt) for attempt in attempts]
    return fields


def event_details(event: EventRecord, attempts: Mapping[int, Sequence[AttemptRecord]], router: Router) -> str:
    """Return the JSON text of an event with its payload, attempts, and what the routes say now."""
    fields = event_json(event)
    fields["deliveries"] = [
        delivery_json(delivery, attempts.get(delivery.id, ())) for delivery in event.deliveries
    ]
    fields["routes"] = _routes_json(router, event.source, legible(event.body or b""))
    return _with_payload(fields, event.body)


def events_with_payload(events: Iterable[EventRecord], following: str | None) -> str:
    """Return the JSON text of a page of events with their payloads."""
    texts = (_with_payload(event_json(event), event.body) for event in events)
    return f'{{"events": [{", ".join(texts)}], "next": {json.dumps(following)}}}'


def quarantined_json(request: QuarantineRecord) -> dict[str, Any]:
    """Return a quarantined request, with the beginning of its body as text if that was read."""
    fields: dict[str, Any] = {
        "id": request.id,
        "source": request.source,
        "reason": request.reason,
        "detail": request.detail,
        "content_type": request.content_type,
        "received_at": instant(request.received_at),
        "last_received_at": instant(request.last_received_at),
        "times": request.times,
        "size": request.size,
    }
    if request.body is not None:
        fields["text"] = request.body[:MAX_SHOWN_BYTES].decode(errors="replace")
    return fields


def change_json(change: ChangeRecord) -> dict[str, Any]:
    """Return what was changed by hand."""
    return {
        "id": change.id,
        "at": instant(change.at),
        "who": change.who,
        "action": change.action,
        "detail": dict(change.detail),
        "number": change.number,
    }


def destination_json(
    name: str, lane: LaneState | None, paused_at: float | None, owed: Backlog | None
) -> dict[str, Any]:
    """Return a destination: what its lane waits for, None where it isn't configured, and its backlog."""
    states = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT, DeliveryState.DEAD)
    probe_at = lane.probe_at if lane else None
    return {
        "name": name,
        "configured": lane is not None,
        "paused_at": instant(paused_at),
        "held_until": instant(lane.held_until) if lane else None,
        "breaker": "closed" if probe_at is None else "open",
        "probe_at": instant(probe_at),
        "backlog": {state.value: owed.counts.get(state, 0) if owed else 0 for state in states},
        "oldest_accepted_at": instant(owed.oldest_accepted_at) if owed else None,
    }


def step_json(step: Step, word: str) -> dict[str, Any]:
    """Return what a step of a bulk repair did; `word` says what."""
    return {
        word: step.done,
        "skipped": step.skipped,
        "by_destination": dict(step.by_destination),
        "next": None if step.next is None else str(step.next),
        "until": instant(step.until, timespec="microseconds"),
    }


def _ids_json(references: References) -> dict[str, str | None]:
    return {  # `asdict` would cost ten times as much, for each of thousands of deliveries
        "order_id": references.order_id,
        "itscope_order_id": references.itscope_order_id,
        "document_id": references.document_id,
        "transaction_id": references.transaction_id,
    }


def _attempt_json(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "started_at": instant(attempt.started_at),
        "duration_seconds": attempt.duration_seconds,
        "status": attempt.status,
        "error": attempt.error,
        "next_state": attempt.next_state.value,
        "answer": None if attempt.answer is None else attempt.answer.decode(errors="replace"),
    }


def _routes_json(router: Router, source: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "destinations": router.destinations(source, payload),
        "routes": [
            {
                "name": explanation.route.name,
                "finding": explanation.finding,
                "why": explanation.why,
                "to": explanation.route.to,
            }
            for explanation in router.explain(source, payload)
        ],
    }


def _with_payload(fields: Mapping[str, Any], body: bytes | None) -> str:
    """Return an object as JSON text with a payload, which stands in it as it was received.

    So numbers that JSON can write and Python can't hold stay as they are. null where the body is none, as of
    an event released from quarantine; then with what routes read of it all the same, as texts.
    """
    try:
        parse(body or b"")
    except BadPayloadError:
        items = ((name, scalar_text(value)) for name, value in legible(body or b"").items())
        texts = {name: text for name, text in items if text is not None}
        return f'{json.dumps(fields)[:-1]}, "payload": null, "legible": {json.dumps(texts)}}}'
    return f'{json.dumps(fields)[:-1]}, "payload": {(body or b"").decode()}}}'
