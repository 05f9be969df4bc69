"""What states of deliveries and lanes are called on pages, and how they look.

Each is the CSS class of a badge and a text that a template translates. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from relay.admin.pages.words import word
from relay.model import DeliveryState, LaneState
from relay.routing import Finding

Shown = tuple[str, str]

DELIVERY_STATES: Mapping[str, Shown] = {
    DeliveryState.PENDING: ("waiting", word("waiting")),
    DeliveryState.IN_FLIGHT: ("waiting", word("under way")),
    DeliveryState.DELIVERED: ("good", word("delivered")),
    DeliveryState.DEAD: ("bad", word("dead")),
    DeliveryState.DISCARDED: ("off", word("discarded")),
}
UNROUTED: Shown = ("warn", word("unrouted"))
# By what a filter's `state` may be.
STATE_TEXTS: Mapping[str, str] = {
    **{state: text for state, (_, text) in DELIVERY_STATES.items()},
    "unrouted": UNROUTED[1],
}
FINDINGS: Mapping[str, Shown] = {
    Finding.MATCHED: ("good", word("matched")),
    Finding.NOT_MATCHED: ("off", word("not matched")),
    Finding.EXCEPTED: ("warn", word("excepted")),
    Finding.NOT_REACHED: ("off", word("not reached")),
}
DELIVERING: Shown = ("good", word("delivering"))
WAITING: Shown = ("waiting", word("waiting for a retry"))
HELD: Shown = ("warn", word("maintenance window"))
PAUSED: Shown = ("warn", word("paused"))
BREAKER: Shown = ("bad", word("breaker open"))
UNCONFIGURED: Shown = ("off", word("not configured any more"))


def lane_state(lane: LaneState | None, paused_at: float | None, *, in_flight: int, pending: int) -> Shown:
    """Return what a destination's lane does: what rests it comes first, as nothing is sent then.

    Args:
        lane: None where the destination isn't configured.
        paused_at: as the store has it.
        in_flight: deliveries to it.
        pending: deliveries to it.
    """
    if paused_at is not None:
        return PAUSED
    if lane is None:
        return UNCONFIGURED
    if lane.probe_at is not None:
        return BREAKER
    if lane.held_until is not None:
        return HELD
    return WAITING if pending and not in_flight else DELIVERING
