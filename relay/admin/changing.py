"""The handlers of the API that change something; what they change is recorded with who asked for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from relay.admin import representation
from relay.admin.answers import Code, RefusedError
from relay.admin.parameters import (
    OPERATOR,
    Because,
    DiscardBody,
    Nothing,
    ReleaseBody,
    ReplayBody,
    SweepBody,
    Wanted,
    body_of,
    id_of,
)
from relay.admin.reading import answer
from relay.pace import parse_rate
from relay.repair import Goal, Progress, Repairs, Sweep, mark, read_progress
from relay.store.repair import Filter

DEFAULT_PACE = "50/s"
_OF_A_STEP = {"cursor", "limit", "dry_run", "pace"}  # may differ from the step before
_NARROWING = frozenset({"id", "state", "destination", "since", "until"})


class Changing:
    """Replay, discard, skip, pause and resume, and what is to become of quarantined requests."""

    def __init__(self, repairs: Repairs, now: Callable[[], float]) -> None:
        self._repairs = repairs
        self._now = now

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [
            web.post("/api/v1/deliveries/{id}/replay", self._replay_one),
            web.post("/api/v1/deliveries/{id}/discard", self._discard_one),
            web.post("/api/v1/deliveries/{id}/skip", self._skip_one),
            web.post("/api/v1/replay", self._replay),
            web.post("/api/v1/discard", self._discard),
            web.post("/api/v1/skip", self._skip),
            web.post("/api/v1/destinations/{name}/pause", self._pause),
            web.post("/api/v1/destinations/{name}/resume", self._resume),
            web.post("/api/v1/quarantine/{id}/release", self._release),
            web.post("/api/v1/quarantine/{id}/discard", self._discard_quarantined),
        ]

    async def _replay_one(self, request: web.Request) -> web.Response:
        await body_of(request, Nothing)
        await self._repairs.replay_one(request[OPERATOR], id_of(request, "delivery"))
        return answer({"replayed": 1})

    async def _discard_one(self, request: web.Request) -> web.Response:
        body = await body_of(request, Because)
        await self._repairs.discard_one(request[OPERATOR], id_of(request, "delivery"), body.reason)
        return answer({"discarded": 1})

    async def _skip_one(self, request: web.Request) -> web.Response:
        await body_of(request, Nothing)
        await self._repairs.skip_one(request[OPERATOR], id_of(request, "delivery"))
        return answer({"skipped": 1})

    async def _replay(self, request: web.Request) -> web.Response:
        body = await body_of(request, ReplayBody)
        sweep, goal = replay_of(request[OPERATOR], body, self._now())
        return answer(representation.step_json(await self._repairs.replay(sweep, goal), "replayed"))

    async def _discard(self, request: web.Request) -> web.Response:
        body = await body_of(request, DiscardBody)
        sweep = sweep_of(request[OPERATOR], "discard", body, self._now())
        return answer(representation.step_json(await self._repairs.discard(sweep, body.reason), "discarded"))

    async def _skip(self, request: web.Request) -> web.Response:
        body = await body_of(request, SweepBody)
        step = await self._repairs.skip(sweep_of(request[OPERATOR], "skip", body, self._now()))
        return answer(representation.step_json(step, "skipped_over"))

    async def _pause(self, request: web.Request) -> web.Response:
        await body_of(request, Nothing)
        await self._repairs.pause(request[OPERATOR], request.match_info["name"])
        return answer({"paused": True})

    async def _resume(self, request: web.Request) -> web.Response:
        await body_of(request, Nothing)
        await self._repairs.resume(request[OPERATOR], request.match_info["name"])
        return answer({"paused": False})

    async def _release(self, request: web.Request) -> web.Response:
        body = await body_of(request, ReleaseBody)
        id_ = id_of(request, "quarantined request")
        released = await self._repairs.release(request[OPERATOR], id_, body.to)
        status = "duplicate" if released.duplicate else "accepted"
        return answer({"status": status, "event": released.event, "deliveries": released.deliveries})

    async def _discard_quarantined(self, request: web.Request) -> web.Response:
        body = await body_of(request, Because)
        id_ = id_of(request, "quarantined request")
        await self._repairs.discard_quarantined(request[OPERATOR], id_, body.reason)
        return answer({"discarded": 1})


def replay_of(who: str, body: ReplayBody, now: float) -> tuple[Sweep, Goal]:
    """Return the step of a replay that a body asks for, and where it goes."""
    sweep = sweep_of(who, "replay", body, now)
    goal = Goal(body.to, body.by_routes, parse_rate(body.pace or sweep.progress.pace or DEFAULT_PACE))
    return replace(sweep, detail={**sweep.detail, "pace": str(goal.pace)}), goal


def sweep_of(who: str, action: str, body: SweepBody, now: float) -> Sweep:
    """Return the step that a body asks for; durations of its filter count from the first step.

    Raises:
        RefusedError: the filter could mean everything.
        RepairRefusedError: the cursor belongs to something else.
    """
    _require_narrow(body.filter)
    about = mark(who, action, body.model_dump(exclude_defaults=True, exclude=_OF_A_STEP))
    progress = Progress(now, about) if body.cursor is None else read_progress(body.cursor, about)
    wanted = body.filter.filter(progress.started_at)
    return Sweep(
        who=who,
        wanted=wanted,
        progress=progress,
        limit=body.limit,
        detail=_detail(body, wanted),
        dry_run=body.dry_run,
    )


def _require_narrow(wanted: Wanted) -> None:
    """Refuse a filter that could mean everything there is, as one without any key does."""
    if not any(getattr(wanted, name) is not None for name in _NARROWING):
        message = "filter: give at least one of id, state, destination, since or until"
        raise RefusedError(Code.BAD_REQUEST, message)


def _detail(body: SweepBody, wanted: Filter) -> dict[str, Any]:
    """Return what was asked for, as the record of the change keeps it: with instants for durations."""
    asked = body.model_dump(exclude_defaults=True, exclude={"cursor", "limit", "dry_run"})
    for name, at in (("since", wanted.since), ("until", wanted.until)):
        if at is not None:
            asked["filter"][name] = representation.instant(at)
    return asked
