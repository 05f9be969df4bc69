"""Webhooks as ITscope sends them, for playing its part.

Source of the fields: ITscope's public guide. The set of statuses is open; those here were seen, or follow
from what the guide says an order response may do.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

# The sample of the guide, byte for byte.
DOCUMENTED_SAMPLE = b"""{
  "eventId": "e2a6a466-3b62-4bb7-af53-b59aec592b49",
  "timestamp": "2023-10-17T11:01:36",
  "eventType": "DELIVERY",
  "transactionStatus": "ADVISED",
  "orderId": "123-SAMPLE-456",
  "itscopeOrderId": "SAMPLE-123456-789",
  "documentId": "123456789",
  "documentUrl": "https://api.itscope.com/2.1/business/documents/123456789-1234-5678-9123-12SAMPLE4567/DISPATCHNOTIFICATION.xml",
  "transactionId": "123456789-1234-5678-9123-12SAMPLE4567"
}
"""

# Kind of webhook: the document's view in ITscope's API, and statuses that go with it.
KINDS = {
    "ORDER": ("ORDER", ("SENT", "ARRIVED")),
    "ORDERRESPONSE": ("ORDERRESPONSE", ("PROCESSING", "REJECTED", "CANCELLED")),
    "DELIVERY": ("DISPATCHNOTIFICATION", ("ADVISED",)),
    "INVOICE": ("INVOICE", ("ARRIVED",)),
}


def one_of_each() -> Iterator[tuple[str, str]]:
    """Yield every kind of webhook with each status that goes with it."""
    for kind, (_, statuses) in KINDS.items():
        for status in statuses:
            yield kind, status


def webhook(kind: str, status: str, at: datetime | None = None) -> bytes:
    """Return the body of a new webhook.

    Args:
        kind: its eventType; any text will do.
        status: its transactionStatus.
        at: when it is sent, UTC; now by default. ITscope's timestamps carry no zone.
    """
    transaction = str(uuid.uuid4())
    order = random.randrange(100_000, 1_000_000)  # noqa: S311
    view = KINDS.get(kind, (kind,))[0]
    return json.dumps(
        {
            "eventId": str(uuid.uuid4()),
            "timestamp": f"{at or datetime.now(UTC):%Y-%m-%dT%H:%M:%S}",
            "eventType": kind,
            "transactionStatus": status,
            "orderId": f"PO-{order}",
            "itscopeOrderId": f"{order}-{order % 1000:03}",
            "documentId": str(random.randrange(10**8, 10**9)),  # noqa: S311
            "documentUrl": f"https://api.itscope.com/2.1/business/documents/{transaction}/{view}.xml",
            "transactionId": transaction,
        },
        indent=2,
    ).encode()
