"""The one table of legal delivery transitions, and the decision after each try. Pure."""

from __future__ import annotations

from relay.model import Delivery, DeliveryState, Outcome, Transition
from relay.retry import DeliveryPolicy, Verdict, pause_seconds, verdict

LEGAL: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.IN_FLIGHT, DeliveryState.DISCARDED}),
    DeliveryState.IN_FLIGHT: frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.PENDING}),
    DeliveryState.DELIVERED: frozenset(),
    DeliveryState.DEAD: frozenset({DeliveryState.DISCARDED}),
    DeliveryState.DISCARDED: frozenset(),
}


def decide(
    delivery: Delivery, outcome: Outcome, policy: DeliveryPolicy, now: float, jitter: float
) -> Transition:
    """Return what becomes of a delivery after a real try.

    A retry is never due later than the moment of giving up, so the last try happens at that moment and a
    delivery can't outlive `give_up_after` by a pause. What waits for a retry keeps its place in its order;
    what is dead does where the policy says so.

    Args:
        delivery: as it was claimed; its `attempts` don't count this try yet.
        outcome: of the try.
        policy: of the destination.
        now: when the try ended.
        jitter: uniform in [0, 1).
    """
    match verdict(outcome, policy):
        case Verdict.DELIVERED:
            return Transition(DeliveryState.DELIVERED, now)
        case Verdict.REJECTED:
            return Transition(DeliveryState.DEAD, now, keeps_place=policy.holds_when_dead)
        case Verdict.FAILED:
            give_up_at = delivery.accepted_at + policy.retry.give_up_after.total_seconds()
            if now >= give_up_at:
                return Transition(DeliveryState.DEAD, now, keeps_place=policy.holds_when_dead)
            pause = pause_seconds(outcome, delivery.attempts + 1, policy.retry, jitter)
            return Transition(DeliveryState.PENDING, min(now + pause, give_up_at), keeps_place=True)
