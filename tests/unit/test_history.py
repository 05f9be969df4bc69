"""The last hour of each destination, minute by minute."""

from __future__ import annotations

from relay.history import MINUTES, History, Minute
from relay.metrics import Metrics
from relay.model import DeliveryState

START = 1_800_000_000.0


class World:
    """Attempts that end, and minutes that do."""

    def __init__(self) -> None:
        self.now = START
        self.metrics = Metrics()
        self.history = History(self.metrics, lambda: self.now)

    def end_minute(self, **attempts: str) -> None:
        """Let attempts end, each named by its first letter, and then the minute."""
        states = {"d": DeliveryState.DELIVERED, "r": DeliveryState.PENDING, "x": DeliveryState.DEAD}
        for destination, letters in attempts.items():
            lane = self.metrics.add_destination(destination)
            for letter in letters:
                lane.attempts[states[letter]].inc()
        self.now += 60
        self.history.end_minute()


def test_unknown_destination_has_no_history() -> None:
    world = World()
    world.end_minute(erp="d")
    assert world.history.of("crm") == ()


def test_minute_that_is_not_over_is_not_told() -> None:
    world = World()
    world.metrics.add_destination("erp").attempts[DeliveryState.DELIVERED].inc()
    assert world.history.of("erp") == ()


def test_each_minute_holds_the_attempts_that_ended_in_it() -> None:
    world = World()
    world.end_minute(erp="ddrx", crm="d")
    world.end_minute(erp="r")
    world.end_minute(crm="")
    assert world.history.of("erp") == (
        Minute(START, 2, 2),
        Minute(START + 60, 0, 1),
        Minute(START + 120, 0, 0),
    )
    assert world.history.of("crm") == (
        Minute(START, 1, 0),
        Minute(START + 60, 0, 0),
        Minute(START + 120, 0, 0),
    )


def test_destination_that_comes_with_a_reload_has_a_history_from_then_on() -> None:
    world = World()
    world.end_minute(erp="d")
    world.end_minute(crm="x")
    assert world.history.of("crm") == (Minute(START + 60, 0, 1),)


def test_only_the_last_hour_is_kept() -> None:
    world = World()
    for _ in range(MINUTES + 5):
        world.end_minute(erp="d")
    minutes = world.history.of("erp")
    assert (len(minutes), minutes[0].at) == (MINUTES, START + 5 * 60)
