"""When a relay is killed, and the axe that falls there. The points inside a commit are `victim`'s to hit."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum


class Point(Enum):
    """A moment in the life of a relay."""

    STARTING = "while it starts"
    ANY_MOMENT = "at any moment"
    BEFORE_COMMIT = "before a commit"
    AFTER_COMMIT = "after a commit, before the answer"
    ANSWERED = "after an answer, before the delivery"
    RECEIVED = "after a request, before its answer"
    REPLIED = "after a delivery, before its record"


IN_COMMITS = frozenset({Point.BEFORE_COMMIT, Point.AFTER_COMMIT})
# How many times a point is passed before the axe falls, at the most.
HIGHEST = {
    Point.BEFORE_COMMIT: 150,
    Point.AFTER_COMMIT: 150,
    Point.ANSWERED: 150,
    Point.RECEIVED: 400,
    Point.REPLIED: 300,
}


def deck(kills: int, points: list[Point], chance: random.Random) -> list[Point]:
    """Return a point for each kill, all about equally often, in no order."""
    dealt = [points[number % len(points)] for number in range(kills)]
    chance.shuffle(dealt)
    return dealt


class Axe:
    """Falls on the present relay when a point is passed for the n-th time.

    Attributes:
        life: number of the present relay, from 1.
    """

    def __init__(self) -> None:
        self.life = 0
        self._point: Point | None = None
        self._left = 0
        self._kill: Callable[[int], None] | None = None

    def aim(self, point: Point, number: int, kill: Callable[[int], None]) -> None:
        """Wait for the n-th time that a point is passed; whoever kills is told the life in which it was."""
        self._point, self._left, self._kill = point, number, kill

    def rest(self) -> None:
        """Wait for nothing any more."""
        self._point = self._kill = None

    def passed(self, point: Point, life: int) -> None:
        """Learn that a point is passed; the relay is dead when this returns, if it was the one."""
        if point is not self._point or self._kill is None:
            return
        self._left -= 1
        if self._left == 0:
            self._kill(life)
