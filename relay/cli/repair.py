"""The operator's verbs: replay, discard, skip, of named deliveries or of all that is found; pause, resume."""

from __future__ import annotations

import collections
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from relay.cli.options import Command, fail, json_option, text, with_filter, with_relay
from relay.cli.printing import counted, printable
from relay.errors import RelayError

if TYPE_CHECKING:
    from relay.client import Client

_OF_ONE_ITEM = frozenset({404, 409, 422})  # answers that refuse one item, and say nothing of others


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all three verbs are asked.

    Attributes:
        named: deliveries by their ids; empty: all that are found.
        wanted: the search, by the names of the API.
        dry_run: only say what would be done.
        yes: don't ask before it is done.
        as_json: print for scripts.
    """

    named: tuple[int, ...]
    wanted: Mapping[str, str]
    dry_run: bool
    yes: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class _Verb:
    """A verb of the API, the word by which its answers count what was done, and what else it is told."""

    name: str
    done: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def past(self) -> str:
        """What to say of it when it is done."""
        return self.done.replace("_", " ")


@dataclass(slots=True)
class _Sum:
    """What all steps of a repair came to.

    Attributes:
        until: only what was received before it was looked at.
    """

    done: int = 0
    left_out: int = 0
    by_destination: collections.Counter[str] = field(default_factory=collections.Counter)
    until: str | None = None

    def add(self, step: Mapping[str, Any], verb: _Verb) -> None:
        """Add the answer to one step."""
        self.done += step[verb.done]
        self.left_out += step["skipped"]
        self.by_destination.update(step["by_destination"])
        self.until = step.get("until")  # a relay of an older version doesn't say

    def text(self) -> str:
        """Return it for people."""
        where = f": {counted(self.by_destination)}" if self.by_destination else ""
        return f"{self.done}{where}{f' ({self.left_out} left out)' if self.left_out else ''}"


def _with_bulk(command: Command) -> Command:
    """Add what all three verbs take, deliveries or a search, a dry run, a confirmation: as `asked`."""

    @click.argument("deliveries", nargs=-1, type=click.IntRange(1), metavar="[DELIVERY]...")
    @with_filter
    @click.option("--dry-run", is_flag=True, help="Only say what would be done.")
    @click.option("--yes", is_flag=True, help="Don't ask. Needed where there is no terminal.")
    @json_option
    @with_relay
    @functools.wraps(command)
    def asking(deliveries: tuple[int, ...], wanted: dict[str, str], **options: Any) -> None:
        given = {name: options.pop(name) for name in ("dry_run", "yes", "as_json")}
        command(asked=_Asked(deliveries, wanted, **given), **options)

    return asking


def _pace(value: str) -> str:
    """Return a pace as it is written."""
    from relay.pace import parse_rate

    try:
        burst = parse_rate(value).burst
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if burst != 1:
        raise click.BadParameter("a pace has no burst; write it as 50/s, 100/min or 1000/h")
    return value


@click.command()
@click.option(
    "--to", type=text, metavar="DESTINATION", help="Deliver the events that are found to this destination."
)
@click.option("--by-routes", is_flag=True, help="Deliver them to where the routes in force send them now.")
@click.option("--unrouted", is_flag=True, help="Short for --state unrouted --by-routes.")
@click.option(
    "--pace",
    type=_pace,
    metavar="PACE",
    help="At most so many a time, such as 50/s (the default) or 100/min.",
)
@_with_bulk
def replay(  # noqa: PLR0913
    relay: Client, asked: _Asked, to: str | None, pace: str | None, *, by_routes: bool, unrouted: bool
) -> None:
    """Deliver again: single deliveries, or all that the options find.

    Without --to and --by-routes, deliveries that are delivered, dead or discarded are repeated to their own
    destination. With --to or --by-routes, every event that is found goes there, in order of acceptance,
    unless it was delivered there already or is about to be.

    \b
    Examples:
      itscope-relay replay 15 17
      itscope-relay replay --state dead --destination erp
      itscope-relay replay --state delivered --destination erp --since 2026-11-22T08:00:00Z --until 30m
      itscope-relay replay --type INVOICE --since 7d --to archive --pace 10/s --dry-run
      itscope-relay replay --unrouted
    """
    if unrouted:
        if asked.wanted.get("state", "unrouted") != "unrouted":
            raise click.UsageError("--unrouted and another --state exclude each other")
        asked, by_routes = replace(asked, wanted={**asked.wanted, "state": "unrouted"}), True
    if asked.named and (to or by_routes or pace):
        raise click.UsageError("--to, --by-routes and --pace go with a search, not with single deliveries")
    more = {} if asked.named else {"to": to, "by_routes": by_routes, **({"pace": pace} if pace else {})}
    _repair(relay, _Verb("replay", "replayed", more), asked)


@click.command()
@click.option("--reason", type=text, required=True, help="Why; it is kept with the deliveries.")
@_with_bulk
def discard(relay: Client, asked: _Asked, reason: str) -> None:
    """Give up deliveries that are pending or dead: single ones, or all that the options find.

    \b
    Examples:
      itscope-relay discard 15 --reason 'entered by hand'
      itscope-relay discard --state dead --destination crm --reason 'the CRM was replaced' --dry-run
    """
    _repair(relay, _Verb("discard", "discarded", {"reason": reason}), asked)


@click.command()
@_with_bulk
def skip(relay: Client, asked: _Asked) -> None:
    """Let what waits behind dead deliveries in their order go on; they stay dead.

    \b
    Examples:
      itscope-relay skip 15
      itscope-relay skip --destination erp --state dead
    """
    _repair(relay, _Verb("skip", "skipped_over"), asked)


def _repair(relay: Client, verb: _Verb, asked: _Asked) -> None:
    if asked.named and (asked.wanted or asked.dry_run):
        raise click.UsageError("single deliveries and a search or --dry-run exclude each other")
    if asked.named:
        _repair_named(relay, verb, asked)
    elif not asked.wanted:
        raise click.UsageError("name deliveries by their numbers, or say by options which are meant")
    elif asked.dry_run or asked.yes or sys.stdin.isatty():
        asks = not (asked.dry_run or asked.yes)
        _repair_found(relay, verb, replace(asked, wanted=_pinned(asked.wanted)) if asks else asked)
    else:
        raise click.UsageError("there is no terminal to ask on: try it with --dry-run, then give --yes")


def _repair_named(relay: Client, verb: _Verb, asked: _Asked) -> None:
    """Repair deliveries by their ids."""
    one_by_one(
        asked.named,
        lambda delivery: relay.post("deliveries", delivery, verb.name, **verb.more),
        verb.done,
        as_json=asked.as_json,
    )


def one_by_one(ids: Iterable[int], act: Callable[[int], object], done: str, *, as_json: bool) -> None:
    """Do something to each of some items; one that is refused keeps no other from it. Exit 1 if one was.

    What was done is printed at the end, also if that comes early: a full disk there keeps no item from it.

    Args:
        ids: of the items.
        act: does it to one.
        done: the word by which what was done is counted.
        as_json: print for scripts.
    """
    from relay.client import RefusedError

    made: list[int] = []
    refused: dict[int, str] = {}
    try:
        for id_ in ids:
            try:
                act(id_)
            except RefusedError as error:
                if error.status not in _OF_ONE_ITEM:
                    raise
                refused[id_] = str(error)
            else:
                made.append(id_)
    finally:
        for id_, why in refused.items():
            click.echo(printable(f"{id_}: {why}"), err=True)
        if as_json:
            click.echo(json.dumps({done: len(made), "refused": refused}))
        elif made:
            click.echo("\n".join(f"{id_}: {done.replace('_', ' ')}" for id_ in made))
    if refused:
        sys.exit(1)


def _repair_found(relay: Client, verb: _Verb, asked: _Asked) -> None:
    """Repair all that is found, after saying how much that is and asking."""
    total, wanted = _Sum(), asked.wanted
    if not asked.yes or asked.dry_run:
        total = _take(relay, verb, wanted, dry_run=True)
        if not (asked.dry_run and asked.as_json):
            click.echo(f"would {verb.name} {total.text()}", err=asked.as_json)
        if total.until is not None:  # what came since then was not counted, so it isn't meant
            wanted = {**wanted, "until": total.until}
    if not asked.dry_run and (asked.yes or total.done):
        if not asked.yes and not click.confirm("do it?", err=True):
            fail("nothing was changed")
        total = _take(relay, verb, wanted, dry_run=False)
        if not asked.as_json:
            click.echo(f"{verb.past} {total.text()}")
    if asked.as_json:
        summary = {verb.done: total.done, "skipped": total.left_out}
        click.echo(json.dumps({**summary, "by_destination": total.by_destination, "dry_run": asked.dry_run}))


def _take(relay: Client, verb: _Verb, wanted: Mapping[str, str], *, dry_run: bool) -> _Sum:
    """Take all steps and return what they did; on a terminal, show how far it is."""
    total, terminal = _Sum(), sys.stderr.isatty()
    doing = f"to {verb.name}" if dry_run else verb.past
    try:
        for step in relay.steps(verb.name, {"filter": wanted, **verb.more, "dry_run": dry_run}):
            total.add(step, verb)
            if terminal:
                click.echo(f"\r{doing}: {total.done} ", nl=False, err=True)
    except RelayError as error:
        if dry_run or not total.done:
            raise
        raise RelayError(f"{verb.past} before that: {total.text()}\n{error}") from error
    except KeyboardInterrupt as error:
        if dry_run:
            raise
        raise RelayError(
            f"{verb.past} before you stopped it: {total.text()}\na step that was under way then may have been"
            " done as well; itscope-relay changes says how many it were in all"
        ) from error
    finally:
        if terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
    return total


def _pinned(wanted: Mapping[str, str]) -> dict[str, str]:
    """Return a search that means the same when it is asked again: durations before now become instants."""
    from datetime import UTC, datetime

    from relay.units import parse_duration

    pinned, now = dict(wanted), datetime.now(UTC)
    for name in pinned.keys() & {"since", "until"}:
        try:
            at = now - parse_duration(pinned[name])
        except ValueError:  # an instant already, or wrong: the relay says so
            continue
        pinned[name] = f"{at.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"
    return pinned


@click.command()
@click.argument("destination")
@json_option
@with_relay
def pause(relay: Client, destination: str, *, as_json: bool) -> None:
    """Deliver nothing to a destination until it is resumed; webhooks are taken as ever, and wait.

    It spends no attempts, and outlives restarts.

    \b
    Example:
      itscope-relay pause erp
    """
    done = relay.post("destinations", destination, "pause")
    click.echo(json.dumps(done) if as_json else printable(f"{destination}: paused"))


@click.command()
@click.argument("destination")
@json_option
@with_relay
def resume(relay: Client, destination: str, *, as_json: bool) -> None:
    """Deliver to a destination again.

    \b
    Example:
      itscope-relay resume erp
    """
    done = relay.post("destinations", destination, "resume")
    click.echo(json.dumps(done) if as_json else printable(f"{destination}: resumed"))
