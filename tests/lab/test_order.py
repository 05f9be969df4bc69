from __future__ import annotations

import pytest

from tests.lab.order import OrderWatch
from tests.lab.webhook import Webhook, read


def take(watch: OrderWatch, number: int, *, life: int = 1, key: str = "a", taken: bool = True) -> None:
    watch.arrived(Webhook(key, number), life)
    watch.ended(Webhook(key, number), life, taken=taken)


def test_webhooks_in_order_with_refusals_and_a_repetition_after_a_kill_are_right() -> None:
    watch = OrderWatch()
    take(watch, 1, taken=False)
    take(watch, 1)
    take(watch, 1, key="b")
    take(watch, 2)
    take(watch, 2, life=2)
    take(watch, 3, life=2)
    assert watch.violations == []


@pytest.mark.parametrize(
    ("number", "life", "violation"),
    [
        (4, 1, "a/4 came after a/2"),
        (1, 2, "a/1 came after a/2"),
        (2, 1, "a/2 came again without a kill between"),
    ],
)
def test_gap_or_step_back_or_repetition_is_seen(number: int, life: int, violation: str) -> None:
    watch = OrderWatch()
    take(watch, 1)
    take(watch, 2)
    take(watch, number, life=life)
    assert watch.violations == [violation]


def test_overlap_is_seen_among_requests_of_one_relay_only() -> None:
    watch = OrderWatch()
    watch.arrived(Webhook("a", 1), 1)
    watch.arrived(Webhook("a", 1), 2)
    assert watch.violations == []
    watch.arrived(Webhook("a", 1), 2)
    assert watch.violations == ["a/1 came while another of its key was under way"]


def test_body_with_another_byte_is_no_webhook() -> None:
    body = Webhook("a", 16).body
    assert read(body) == Webhook("a", 16)
    assert read(body.replace(b"x", b"y", 1)) is None
    assert read(body[:-1]) is None


def test_overlap_is_seen_among_requests_of_several_relays_where_a_lease_lies_between() -> None:
    watch = OrderWatch(lives_overlap=False)
    watch.arrived(Webhook("a", 1), 1)
    watch.arrived(Webhook("a", 1), 2)
    assert watch.violations == ["a/1 came while another of its key was under way"]
    watch.ended(Webhook("a", 1), 2, taken=True)
    watch.ended(Webhook("a", 1), 1, taken=True)
    take(watch, 2, life=2)
    assert len(watch.violations) == 1


def test_what_a_relay_sends_late_is_counted_and_not_judged() -> None:
    watch = OrderWatch(lives_overlap=False)
    watch.excuse(1, {"a/1"})
    take(watch, 1, life=2)
    take(watch, 2, life=2)
    take(watch, 1, life=1)
    assert (watch.late, watch.violations) == (1, [])
    take(watch, 1, life=3)
    assert watch.violations == ["a/1 came after a/2"]
    take(watch, 3, life=1)
    assert len(watch.violations) == 1
