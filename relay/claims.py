"""What a lane holds: claimed from the store as there is room, put back where the lane rests or closes.

So memory is bounded by the lane and not by its backlog. First attempts and the others (retries, replays) are
held apart. A lane that rests (paused, in a maintenance window, breaker open) holds nothing: all is in the
store, pending. Who is sent next is the lane's; what one kind holds is `intake`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from collections.abc import Set as AbstractSet

from relay.config import Destination
from relay.errors import StoreError
from relay.gate import Gate
from relay.intake import ROOM, Intake
from relay.model import Claim, Delivery
from relay.store import Store

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # how long something due may go unnoticed that nobody announced
# Retries and replays are claimed a little before they are due, so that each goes at its own moment, and what
# becomes due one after the other doesn't take a transaction each.
AHEAD_SECONDS = 1.0
GATHER_SECONDS = 0.1  # at least, before something is claimed that was recorded just now
GATHER_AFTER_CLAIM_SECONDS = 0.9  # and what comes after a claim; less than AHEAD_SECONDS
PAUSE_SECONDS = 1.0  # between tries to reach a store that is away


class Claims:
    """The claims of one lane.

    Attributes:
        fresh: first attempts.
        again: the others.
        resting: nothing is to be held; whoever sets it says so by `wake`.
        closing: nothing is to be taken any more; likewise.
    """

    def __init__(
        self, name: str, destination: Destination, gate: Gate, store: Store, now: Callable[[], float]
    ) -> None:
        """Make it empty, on the running event loop."""
        room = _room(destination)
        self.fresh, self.again = Intake(fresh=True, room=room), Intake(fresh=False, room=room)
        self.resting = True
        self.closing = False
        self._name = name
        self._gate = gate
        self._store = store
        self._now = now
        self._clock = asyncio.get_running_loop().time  # for pauses: the other clock may jump
        self._intakes = (self.fresh, self.again)
        self._wake = asyncio.Event()

    @property
    def held(self) -> Collection[Delivery]:
        """All of them, those being sent included."""
        return [*self.fresh.held, *self.again.held]

    # ---- taking

    def reserve(self, size: int) -> bool:
        """Keep room for one fresh delivery, if there is some and none is known to wait in the store."""
        return not (self.resting or self.closing) and self.fresh.reserve(size)

    def settle(self, size: int, delivery: Delivery | None) -> None:
        """Use a reservation for the delivery that was stored, or give it back."""
        self.fresh.settle(size, delivery)
        if self.resting or self.closing:
            self._wake.set()  # for it to be put back

    def wake(self) -> None:
        """Look again what is to be done."""
        self._wake.set()

    def notice(self, *, fresh: bool | None) -> None:
        """Learn that the store has first attempts for this lane, or others; None: perhaps of both kinds."""
        is_news = False
        for intake in self._intakes:
            if not intake.backlogged and (fresh is None or fresh is intake.fresh):
                intake.backlogged = is_news = True
        if is_news:  # or else it is known already
            self.look()

    def look(self) -> None:
        """Look at the store, if there is room; or else the next attempt recorded makes some, and says so."""
        if any(intake.backlogged and intake.wants_more for intake in self._intakes):
            self._wake.set()

    def expect(self, intake: Intake, due_at: float, gather_seconds: float = GATHER_SECONDS) -> None:
        """Look at the store again when something becomes due there."""
        pause = max(gather_seconds, due_at - AHEAD_SECONDS - self._now())
        intake.claim_at = min(intake.claim_at, self._clock() + pause)
        self._wake.set()

    async def taken(self) -> AsyncIterator[None]:
        """Claim whenever there is room and something is due, put all back to rest; yield after claims."""
        is_away = False
        while not self.closing:
            if self.resting:
                await self._put_back()
                await self._woken(POLL_SECONDS)
                continue
            now = self._clock()  # read once: what isn't due yet must not be overdue a moment later
            wanting = self._wanting(now)
            if not wanting:
                waits = [intake.claim_at - now for intake in self._intakes if intake.claim_at > now]
                await self._woken(min(waits, default=POLL_SECONDS))
                continue
            try:
                await asyncio.gather(*map(self._claim, wanting))  # in one transaction
                is_away = False
            except StoreError as error:
                if not is_away:
                    _log.warning("backlog.not_claimed", extra={"fields": self._fields(error=str(error))})
                is_away = True
            yield
            if is_away:
                await asyncio.sleep(PAUSE_SECONDS)

    def _wanting(self, now: float) -> list[Intake]:
        """Return who has room and may find something in the store."""
        if self._gate.probes and (self.fresh.waiting or self.again.waiting):
            return []
        return [
            intake
            for intake in self._intakes
            if intake.wants_more and (intake.backlogged or intake.claim_at <= now)
        ]

    async def _woken(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        self._wake.clear()

    async def _claim(self, intake: Intake) -> None:
        """Claim what is due and fits, and note when to look again."""
        noticed, intake.backlogged = intake.backlogged, False  # whoever stores something now says so again
        now, clock = self._now(), self._clock()
        intake.claim_at = clock + POLL_SECONDS
        probes = self._gate.probes
        try:
            claimed = await self._store.claim(
                self._name,
                fresh=intake.fresh,
                limit=1 if probes else intake.room,
                max_bytes=intake.room_bytes,
                now=now if probes or intake.fresh else now + AHEAD_SECONDS,
            )
        except StoreError:
            intake.backlogged |= noticed
            raise
        for delivery in claimed.deliveries:
            intake.take(delivery, 0.0 if intake.fresh else clock + max(0.0, delivery.due_at - now))
        intake.backlogged |= claimed.more
        if claimed.next_due_at is not None:
            self.expect(intake, claimed.next_due_at, GATHER_AFTER_CLAIM_SECONDS)

    # ---- giving back

    def renewed(self, kept: Mapping[Claim, Delivery], lost: AbstractSet[Claim]) -> None:
        """Learn which claims have a new lease, and which somebody else has by now."""
        dropped = [delivery for intake in self._intakes for delivery in intake.renew(kept, lost)]
        for delivery in dropped:
            self.drop(delivery)
        if dropped:
            _log.warning("claims.lost", extra={"fields": self._fields(number=len(dropped))})

    def drop(self, delivery: Delivery) -> None:
        """Forget a claim: it is recorded, released or somebody else's."""
        (self.fresh if delivery.fresh else self.again).drop(delivery)
        if self.closing:
            self._wake.set()

    async def emptied(self) -> None:
        """Wait for the attempts under way, and put back all else, also what is being stored meanwhile."""
        while not (self.fresh.idle and self.again.idle):
            self._wake.clear()
            await self._put_back()
            await self._wake.wait()

    async def release(self) -> None:
        """Give the store back all of them."""
        for intake in self._intakes:
            intake.waiting.clear()
        await self._release(self.held)

    async def _put_back(self) -> None:
        """Give the store back what nobody has begun to send."""
        waiting: list[Delivery] = []
        for intake in self._intakes:
            waiting += intake.waiting
            intake.waiting.clear()
            intake.backlogged = True
        await self._release(waiting)

    async def _release(self, deliveries: Collection[Delivery]) -> None:
        if not deliveries:
            return
        try:
            await self._store.release(list(deliveries))
            _log.info("deliveries.released", extra={"fields": self._fields(number=len(deliveries))})
        except StoreError as error:
            # Still claimed in the store; the next start, or the end of the lease, frees them.
            _log.warning("deliveries.not_released", extra={"fields": self._fields(error=str(error))})
        for delivery in deliveries:
            self.drop(delivery)

    def _fields(self, **more: object) -> dict[str, object]:
        return {"destination": self._name, **more}


def _room(destination: Destination) -> int:
    """Return how many deliveries of a kind are worth claiming: no more than go out within a minute or so."""
    rate = destination.rate_limit
    if rate is None:
        return ROOM
    in_a_minute = int(rate.count * 60 / rate.per_seconds) + rate.burst
    return min(ROOM, max(destination.concurrency, in_a_minute))
