"""What a repair in steps is asked for, what one step did, and where the next one goes on.

Owns the text that carries the progress through the client, who may have changed it. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from relay.pace import Rate, parse_rate
from relay.repair.refusal import bad_request
from relay.store.cursor import decode
from relay.store.repair import Filter

MAX_STEP = 500  # events or deliveries that one step looks at
# A step is one transaction that webhooks wait for, and takes the event loop's time: a few milliseconds, and a
# rest after it that lets everything else come first.
USUAL_STEP = 50
LEAST_STEP = 5
REST_SECONDS = 0.05
LONGEST_REST_SECONDS = 1.0
REST_SHARE = 0.8  # of the time that what a step made takes to become due
PACE_SECONDS = 0.1  # a step of a replay makes no more than becomes due in this time, or LEAST_STEP
MAX_ID = 2**63 - 1  # of a store
_MAX_INSTANT = 8e9  # the year 2223: far from where arithmetic with dates ends
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def a_cursor(text: str) -> str:
    """Return a cursor of the store as it is.

    Raises:
        ValueError: it is none.
    """
    decode(text)
    return text


def a_pace(text: str) -> str:
    """Return the pace of a replay as it is written.

    Raises:
        ValueError: it is none.
    """
    if parse_rate(text).burst != 1:
        raise ValueError("a pace has no burst; write it as 50/s, 100/min or 1000/h")
    return text


_Instant = Annotated[float, Field(ge=0, le=_MAX_INSTANT)]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a repair in steps has come.

    Attributes:
        started_at: when its first step was made; it is for what was received until then.
        about: the mark of what was asked for, and by whom.
        after: where the store goes on; None at the beginning of a phase.
        change: the record of the change, None before the first one.
        phase: which of the states that it goes through.
        due_at: when the next delivery becomes due at the earliest.
        pace: as it was written.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    started_at: _Instant
    about: Annotated[str, Field(max_length=64)] = ""
    after: Annotated[str, AfterValidator(a_cursor)] | None = None
    change: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    phase: Annotated[int, Field(ge=0, le=1)] = 0
    due_at: _Instant = 0.0
    pace: Annotated[str, AfterValidator(a_pace)] | None = None

    def __str__(self) -> str:
        """Return the text for the client."""
        return base64.urlsafe_b64encode(_ADAPTER.dump_json(self)).decode()


_ADAPTER = TypeAdapter(Progress)


def mark(who: str, action: str, asked: Mapping[str, Any]) -> str:
    """Return what tells one repair in steps from another; it keeps no secret."""
    text = json.dumps([who, action, asked], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_progress(text: str, about: str) -> Progress:
    """Return the progress that a client sent back.

    Args:
        text: what it sent.
        about: the mark of what it asks for now.

    Raises:
        RepairRefusedError: it isn't one that a step could have given, or that of another repair.
    """
    try:
        progress = _ADAPTER.validate_json(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeEncodeError, ValidationError, ValueError) as error:
        raise bad_request("cursor: send back what the step before gave as next") from error
    if progress.about != about:
        raise bad_request(
            "cursor: it belongs to another repair; send the same body as before, by the same login"
        )
    return progress


def full_microseconds(at: float) -> float:
    """Return an instant that RFC 3339 can write with microseconds: this one, or the first one after it."""
    written = datetime.fromtimestamp(at, UTC)
    if written.timestamp() < at:
        written += timedelta(microseconds=1)
    return written.timestamp()


@dataclass(frozen=True, slots=True)
class Sweep:
    """A repair of all that a filter finds, as one step of it is asked for.

    Attributes:
        who: the operator.
        wanted: what it is for.
        progress: where this step begins.
        limit: how many events, or deliveries, this step looks at.
        detail: what was asked for, for the record of the change.
        dry_run: nothing is changed, and the answer is what would be.
    """

    who: str
    wanted: Filter
    progress: Progress
    limit: int
    detail: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def bounded(self) -> Filter:
        """Return the filter without what is received after the first step, so that there is an end.

        Where an id is given there is one anyway, and what a wrong clock dated into the future is meant too.
        """
        until = self.wanted.until
        if self.wanted.any_id is None and self.wanted.delivery is None:
            latest = math.nextafter(self.progress.started_at, math.inf)
            until = latest if until is None else min(until, latest)
        return self.wanted if until is None else replace(self.wanted, until=full_microseconds(until))


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a replay goes.

    Attributes:
        to: this destination only; None: each delivery again where it went, or all of `by_routes`.
        by_routes: where the routes in force send the event.
        pace: so many deliveries become due in a time.
    """

    to: str | None
    by_routes: bool
    pace: Rate

    @property
    def interval_seconds(self) -> float:
        """From one delivery to the next."""
        return self.pace.per_seconds / self.pace.count

    @property
    def step(self) -> int:
        """How many events a step looks at: many short steps delay webhooks less than a few long ones."""
        return min(MAX_STEP, max(LEAST_STEP, round(PACE_SECONDS / self.interval_seconds)))

    def rest_seconds(self, made: int) -> float:
        """Return how long to rest after a step that made so many deliveries.

        There is no haste to make them much sooner than they are due: a little faster than their pace will do.
        """
        return min(LONGEST_REST_SECONDS, max(REST_SECONDS, made * self.interval_seconds * REST_SHARE))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did.

    Attributes:
        done: how many deliveries, or with `dry_run` how many it would be.
        skipped: found, but left as they are.
        by_destination: of those done.
        next: where the next step goes on, None at the end.
        until: the repair is for what was received before it, in full microseconds; None: for all.
    """

    done: int
    skipped: int
    by_destination: Mapping[str, int]
    next: Progress | None
    until: float | None
