"""The webhooks of the laboratory: a body tells which one it is, so that a receiver can check every byte."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.e2e.relay_process import event

ORDER_FIELD = "itscopeOrderId"
_LARGE_EVERY = 16
_LARGE_CHARACTERS = 9_000  # more than two pages of the store


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook of a series.

    Attributes:
        key: the order it belongs to.
        number: of that order's webhooks, from 1; each is posted after the one before was acknowledged.
    """

    key: str
    number: int

    @property
    def event_id(self) -> str:
        return f"{self.key}/{self.number}"

    @property
    def body(self) -> bytes:
        filler = "x" * _LARGE_CHARACTERS if self.number % _LARGE_EVERY == 0 else ""
        return event(self.event_id, **{ORDER_FIELD: self.key}, number=self.number, filler=filler)


def read(body: bytes) -> Webhook | None:
    """Return the webhook of a body, None if it isn't byte for byte the one that was posted."""
    try:
        payload = json.loads(body)
        webhook = Webhook(payload[ORDER_FIELD], payload["number"])
    except (ValueError, LookupError, TypeError):
        return None
    return webhook if webhook.body == body else None
