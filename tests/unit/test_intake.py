"""What a lane holds of one kind: in which order, and when the first of it may be sent."""

from __future__ import annotations

import math

from relay.intake import Intake
from relay.model import Delivery, Event


def delivery(id_: int) -> Delivery:
    event = Event("itscope", f"e-{id_}", 0.0, "application/json", None, None, "0" * 32, b"{}")
    return Delivery(id_, "erp", 0.0, 1, 1, event, fresh=False)


def test_what_may_be_sent_earlier_goes_first_though_it_came_later() -> None:
    intake = Intake(fresh=False, room=10)
    assert intake.begins_at() == math.inf
    for id_, begins_at in ((1, 5.0), (2, 7.0), (3, 3.0), (4, 7.0)):
        intake.take(delivery(id_), begins_at)
    assert intake.begins_at() == 3.0
    assert [intake.begin().id for _ in range(4)] == [3, 1, 2, 4]
    assert intake.begins_at() == math.inf


def test_what_was_not_sent_after_all_may_be_sent_at_once() -> None:
    intake = Intake(fresh=False, room=10)
    intake.take(delivery(1), 5.0)
    intake.take(delivery(2), 7.0)
    intake.put_back(intake.begin())
    assert (intake.begins_at(), intake.begin().id) == (0.0, 1)
