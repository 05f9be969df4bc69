"""How a quarantined request becomes an event after all: what can be read of it, and where it goes. No I/O."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay import payload as payloads
from relay.model import Event, Owed, References
from relay.repair.legible import legible
from relay.repair.plan import RepairConfig
from relay.store.repair import QuarantineRecord


@dataclass(frozen=True, slots=True)
class Admission:
    """An event made of a quarantined request, and to whom it is owed."""

    event: Event
    references: References
    owed: Mapping[str, Owed]


def admitted(
    request: QuarantineRecord, config: RepairConfig, to: Sequence[str] | None, now: float
) -> Admission:
    """Return the event that a request with its body is to be.

    Its id is the hash of the body, never its `eventId`, which a conflicting duplicate shares with another.

    Args:
        request: with its body.
        config: whose routes say where it goes.
        to: where it goes instead.
        now: when it is accepted.
    """
    body = request.body or b""
    payload = legible(body)
    destinations = config.router.destinations(request.source, payload) if to is None else to
    event = Event(
        source=request.source,
        event_id=f"sha256:{hashlib.sha256(body).hexdigest()}",
        received_at=now,
        content_type=request.content_type,
        event_type=payloads.kept_text(payload, "eventType"),
        transaction_status=payloads.kept_text(payload, "transactionStatus"),
        trace_id=f"{random.getrandbits(128) or 1:032x}",
        body=body,
    )
    owed = {
        name: Owed(claim=False, order_key=payloads.order_key(payload, config.order_by.get(name)))
        for name in destinations
    }
    return Admission(event, payloads.references(payload), owed)
