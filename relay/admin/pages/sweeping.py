"""Repairs of all that a filter finds, as a page makes them: counted first, and done once that was confirmed.

Each is made in the steps of the API. A browser asks for one after the other, and shows what came of them; it
stops where nobody asks any more. What travels between them is in the page's form, as the API has its cursor.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import BeforeValidator, Field, Json

from relay.admin import representation
from relay.admin.pages.asked import form_of, is_htmx
from relay.admin.pages.meant import NAMES, Meant
from relay.admin.pages.site import Site
from relay.admin.parameters import OPERATOR, Cursor, Pace, QueryTruth, Reason, SweepBody, Text, validated
from relay.repair import MAX_STEP, USUAL_STEP, Step

SLICE_SECONDS = 0.5  # of steps that one answer is for
MAX_DESTINATIONS = 100  # that an answer names, those with the most


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


B = TypeVar("B", bound=SweepBody)
Count = Annotated[int, BeforeValidator(_number), Field(ge=0, le=10**12)]


class SweepForm(Meant):
    """What a repair is asked for, and how far it has come.

    Attributes:
        confirmed: do it; else only count what would be done.
        stop: make no further step.
        total: how many there were when they were counted.
        done, left, tally: of the steps before.
    """

    confirmed: QueryTruth = False
    stop: QueryTruth = False
    cursor: Cursor | None = None
    total: Count = 0
    done: Count = 0
    left: Count = 0
    tally: Json[dict[Text, Count]] = Field(default={}, max_length=MAX_DESTINATIONS)


class ReplayForm(SweepForm):
    """`to`: only there; None: as the kind of replay has it."""

    to: Text | None = None
    pace: Pace | None = None


class DiscardForm(SweepForm):
    """Why they are given up."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Doing:
    """How far it has come. `cursor`: where the next step goes on, None at the end."""

    done: int
    left: int
    by_destination: Counter[str]
    cursor: str | None
    until: float | None = None

    def and_then(self, step: Step) -> Doing:
        """Return it with what one more step did."""
        return Doing(
            self.done + step.done,
            self.left + step.skipped,
            self.by_destination + Counter(step.by_destination),
            None if step.next is None else str(step.next),
            step.until,
        )


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of repair, as its page has it.

    Attributes:
        name: for the words of the templates.
        back: the list that it is for.
        heading: to be translated.
        form: what it is asked for.
        own: fields of the form beside the filter.
        step: makes one; of the operator, the body's fields, and the form.
    """

    name: str
    back: str
    heading: str
    form: type[SweepForm]
    own: tuple[str, ...]
    step: Callable[[str, Mapping[str, Any], Any], Awaitable[Step]]

    @property
    def path(self) -> str:
        """Where it is asked for."""
        return f"{self.back}/{self.name}"


class Sweeping:
    """The page of one kind of repair."""

    def __init__(self, site: Site, action: Action) -> None:
        self._site = site
        self._action = action

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.post(self._action.path, self._post)]

    async def _post(self, request: web.Request) -> web.Response:
        form = await form_of(request, self._action.form)
        texts = form.texts(self._site.now())
        doing = Doing(form.done, form.left, Counter(form.tally), form.cursor)
        if not form.stop:
            doing = await self._steps(request[OPERATOR], form, texts, doing)
        is_done = doing.cursor is None and not form.stop
        if is_done and not form.confirmed:  # what is confirmed is what was counted, and nothing since
            texts["until"] = representation.instant(doing.until, "microseconds") or texts.get("until", "")
        return await self._site.page(
            request,
            "_sweep.html" if is_htmx(request) else "sweep.html",
            here=self._action.back,
            address=self._action.back,
            action=self._action,
            texts=texts,
            names=NAMES,
            own=self._own(form),
            form=form,
            doing=doing,
            tally=dict(doing.by_destination.most_common(MAX_DESTINATIONS)),
            stage="done" if is_done else "stopped" if form.stop else "under way",
            is_first=form.cursor is None,
        )

    async def _steps(self, who: str, form: SweepForm, texts: Mapping[str, str], doing: Doing) -> Doing:
        """Make steps for as long as one answer may take, at least one."""
        clock = asyncio.get_running_loop().time
        begun_at = clock()
        while True:
            body = {
                "filter": texts,
                "dry_run": not form.confirmed,
                "limit": USUAL_STEP if form.confirmed else MAX_STEP,
                "cursor": doing.cursor,
            }
            doing = doing.and_then(await self._action.step(who, body, form))
            if doing.cursor is None or clock() - begun_at > SLICE_SECONDS:
                return doing

    def _own(self, form: SweepForm) -> dict[str, str]:
        values = {name: getattr(form, name) for name in self._action.own}
        return {name: value for name, value in values.items() if value is not None}


def body_of(model: type[B], fields: Mapping[str, Any], state: str, **more: Any) -> B:
    """Return the body that asks the API for a step for what is in a state.

    Raises:
        RefusedError: there is something wrong with it.
    """
    given = {**fields, "filter": {**fields["filter"], "state": state}, **more}
    return validated(model, {name: value for name, value in given.items() if value is not None}, "field")
