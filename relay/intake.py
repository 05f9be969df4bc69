"""What a lane holds of one kind of deliveries, first attempts or the others: its room, and the queue in it.

Bounded in number and bytes. When to claim more, and when to send, is the lane's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

from relay.model import Claim, Delivery

ROOM = 256  # deliveries that are held in memory, those being sent included; a claim under way may exceed it
ROOM_BYTES = 4 << 20  # of their bodies


class Intake:
    """Claims in memory, until each is recorded or released.

    Attributes:
        fresh: whether it holds first attempts.
        backlogged: the store may have due deliveries of this kind that aren't here: they go first.
        claim_at: when to look at the store again, on the clock that never goes back.
        waiting: claims that nobody has begun to send, in the order in which they may be.
        sending: how many somebody has.
    """

    def __init__(self, *, fresh: bool, room: int) -> None:
        self.fresh = fresh
        self._room = room
        self.backlogged = True
        self.claim_at = 0.0
        self.waiting: deque[Delivery] = deque()
        self.sending = 0
        self._held: dict[Claim, Delivery] = {}
        self._begins_at: dict[Claim, float] = {}
        self._held_bytes = 0
        self._reserved = 0
        self._reserved_bytes = 0

    @property
    def held(self) -> Collection[Delivery]:
        """The claims."""
        return self._held.values()

    @property
    def idle(self) -> bool:
        """Whether it holds nothing and expects nothing."""
        return not self._held and not self._reserved

    @property
    def room(self) -> int:
        """How many more it can hold."""
        return self._room - len(self._held) - self._reserved

    @property
    def room_bytes(self) -> int:
        """How many more bytes of bodies it can hold."""
        return ROOM_BYTES - self._held_bytes - self._reserved_bytes

    @property
    def wants_more(self) -> bool:
        """Whether a claim is worth a transaction: for many at once, or if there is nothing to do."""
        room = self.room
        return self.room_bytes > 0 and (room >= self._room // 4 or (room > 0 and not self.waiting))

    def reserve(self, size: int) -> bool:
        """Keep room for one delivery that is about to be stored, if there is some and none is known to wait.

        What a claim under way brings may be older: to refuse meanwhile would keep a busy lane claiming.
        """
        if self.backlogged or self.room <= 0 or self.room_bytes < size:
            return False
        self._reserved += 1
        self._reserved_bytes += size
        return True

    def settle(self, size: int, delivery: Delivery | None) -> None:
        """Use a reservation for the delivery that was stored, or give it back."""
        self._reserved -= 1
        self._reserved_bytes -= size
        if delivery is not None:
            self.take(delivery)

    def take(self, delivery: Delivery, begins_at: float = 0.0) -> None:
        """Hold a claim, to be sent from an instant on, on the clock that never goes back."""
        self._held[delivery.claim] = delivery
        self._held_bytes += len(delivery.event.body)
        self.waiting.append(delivery)
        if begins_at:
            self._begins_at[delivery.claim] = begins_at
        if len(self.waiting) > 1 and self._begin_of(self.waiting[-2]) > begins_at:
            self.waiting = deque(sorted(self.waiting, key=self._begin_of))

    def begins_at(self) -> float:
        """Return when the first of those that wait may be sent; infinite where none waits."""
        return self._begin_of(self.waiting[0]) if self.waiting else math.inf

    def _begin_of(self, delivery: Delivery) -> float:
        return self._begins_at.get(delivery.claim, 0.0)

    def begin(self) -> Delivery:
        """Return the first of those that wait, to be sent."""
        self.sending += 1
        delivery = self.waiting.popleft()
        self._begins_at.pop(delivery.claim, None)
        return delivery

    def put_back(self, delivery: Delivery) -> None:
        """Let one wait again that was not sent after all, before the others."""
        self.sending -= 1
        self.waiting.appendleft(self._held[delivery.claim])  # it may have a new lease

    def renew(self, kept: Mapping[Claim, Delivery], lost: AbstractSet[Claim]) -> list[Delivery]:
        """Take the new leases; what is lost while it waits does so no more, and is returned."""
        self._held.update((claim, kept[claim]) for claim in kept.keys() & self._held.keys())
        waiting, self.waiting = self.waiting, deque()
        gone = []
        for delivery in waiting:
            if delivery.claim in lost:
                gone.append(delivery)
            else:
                self.waiting.append(kept.get(delivery.claim, delivery))
        return gone

    def drop(self, delivery: Delivery) -> None:
        """Forget a claim."""
        del self._held[delivery.claim]
        self._begins_at.pop(delivery.claim, None)
        self._held_bytes -= len(delivery.event.body)
