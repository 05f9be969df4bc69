"""What the steps of every store are given, and how long a claim lasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from relay.model import Event, Owed, References

LEASE_SECONDS = 60.0

Offer = tuple[Event, References, Mapping[str, Owed]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a lane wants to claim; see `Store.claim`."""

    destination: str
    fresh: bool
    limit: int
    max_bytes: int
    now: float
