"""Commands that look into a running relay and change nothing: events, deliveries, destinations, changes."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from relay.cli.options import fail, json_option, limit_option, with_filter, with_relay
from relay.cli.printing import echo_body, explained, instant, kind, number_of, printable, table

if TYPE_CHECKING:
    from relay.client import Client, Json

_EVENT_HEADS = ("ID", "RECEIVED", "SOURCE", "EVENT ID", "TYPE STATUS", "ORDER", "DELIVERIES")
_DELIVERY_HEADS = (
    "ID",
    "ACCEPTED",
    "EVENT",
    "EVENT ID",
    "TYPE STATUS",
    "DESTINATION",
    "STATE",
    "TRIES",
    "NOTE",
)
_DESTINATION_HEADS = ("NAME", "STATE", "PENDING", "IN FLIGHT", "DEAD", "OLDEST ACCEPTED")


def listing(relay: Client, name: str, limit: int, **parameters: Any) -> list[Json]:
    """Return the first items of a list; say so if there are more."""
    found = list(islice(relay.items(name, limit + 1, **parameters), limit + 1))
    if len(found) > limit:
        click.echo(f"there are more than these {limit}; --limit shows further ones", err=True)
    return found[:limit]


def show(items: list[Json], heads: tuple[str, ...], row: Any, nothing: str, *, as_json: bool) -> None:
    """Print a list as a table or as JSON; on standard error say that it is empty."""
    if as_json:
        click.echo(json.dumps(items, indent=2))
    elif items:
        click.echo(table(heads, map(row, items)))
    else:
        click.echo(nothing, err=True)


@click.command()
@with_filter
@limit_option(50)
@json_option
@with_relay
def events(relay: Client, wanted: dict[str, str], limit: int, *, as_json: bool) -> None:
    """List what came, the newest first, and what became of it.

    \b
    Examples:
      itscope-relay events --since 1h
      itscope-relay events --id PO-4711
      itscope-relay events --type INVOICE --state dead --destination accounting
      itscope-relay events --state unrouted
    """
    found = listing(relay, "events", limit, **wanted)
    show(found, _EVENT_HEADS, _event_row, "no events were found", as_json=as_json)


def _event_row(event: Json) -> tuple[Any, ...]:
    where = [f"{delivery['destination']} {delivery['state']}" for delivery in event["deliveries"]]
    return (
        event["id"],
        instant(event["received_at"]),
        event["source"],
        event["event_id"],
        kind(event),
        event["order_id"],
        ", ".join(where) or "unrouted",
    )


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--body", is_flag=True, help="Print the body as it was received, and nothing else.")
@json_option
@with_relay
def event(relay: Client, id_: str, *, body: bool, as_json: bool) -> None:
    """Show one event: where it went and why, each attempt, and what was answered.

    ID is its number, or any id of the event, order, document or transaction. If several events have it, they
    are listed. Exit 1 if none has it. On a terminal, a body's control characters are shown as \\x1b.

    \b
    Examples:
      itscope-relay event 12
      itscope-relay event PO-4711
      itscope-relay event 12 --body > webhook.json
    """
    found = _with_id(relay, id_)
    if not found:
        fail(f"there is no event {printable(id_)}")
    if len(found) > 1:
        if body:
            numbers = ", ".join(str(event["id"]) for event in found)
            fail(f"{len(found)} events have the id {printable(id_)}; give one of the numbers {numbers}")
        show(found, _EVENT_HEADS, _event_row, "", as_json=as_json)
    elif body:
        echo_body(relay.read("events", found[0]["id"], "body"))
    elif as_json:
        click.echo(json.dumps(relay.get("events", found[0]["id"]), indent=2))
    else:
        click.echo("\n".join(map(printable, _event_lines(relay.get("events", found[0]["id"])))))


def _with_id(relay: Client, id_: str) -> list[Json]:
    """Return the event of a number, or else all those that have an id."""
    from relay.client import RefusedError

    if id_.isdecimal():
        try:
            numbered = relay.get("events", id_)
        except RefusedError as error:
            if error.status != 404:
                raise
        else:
            _tell_of_others(relay, id_, numbered)
            return [numbered]
    return listing(relay, "events", 50, id=id_)


def _tell_of_others(relay: Client, id_: str, numbered: Json) -> None:
    """Say so if the number of an event is also an id of other ones."""
    if any(other["id"] != numbered["id"] for other in relay.get("events", id=id_, limit=2)["events"]):
        click.echo(
            f"this is the event with the number {id_}; others have {id_} as an id: events --id {id_}",
            err=True,
        )


def _event_lines(event: Json) -> list[str]:
    heads = {
        "event id": event["event_id"],
        "received": event["received_at"],
        "order": event["order_id"],
        "ITscope order": event["itscope_order_id"],
        "document": event["document_id"],
        "transaction": event["transaction_id"],
        "content": f"{event['content_type']}, {number_of(event['size'], 'byte')}",
        "trace": event["trace_id"],
    }
    lines = [f"event {event['id']}: {kind(event)}, from {event['source']}"]
    lines += [f"  {name:13}  {value}" for name, value in heads.items() if value]
    lines += ["", "by the routes in force now:", *(f"  {line}" for line in explained(event["routes"]))]
    for delivery in event["deliveries"]:
        lines += ["", *_delivery_lines(delivery)]
    return lines if event["deliveries"] else [*lines, "", "no deliveries: it is unrouted"]


def _delivery_lines(delivery: Json) -> list[str]:
    note = f" ({_note(delivery)})" if _note(delivery) else ""
    lines = [f"delivery {delivery['id']} to {delivery['destination']}: {delivery['state']}{note}"]
    for attempt in delivery["attempts"]:
        came = attempt["error"] if attempt["status"] is None else attempt["status"]
        lines.append(
            f"  attempt {attempt['number']}  {attempt['started_at']}"
            f"  {attempt['duration_seconds']:.3f} s  {came}  -> {attempt['next_state']}"
        )
        if attempt["answer"]:
            lines.append(f"    answer: {attempt['answer']}")
    return lines


@click.command()
@with_filter
@limit_option(50)
@json_option
@with_relay
def deliveries(relay: Client, wanted: dict[str, str], limit: int, *, as_json: bool) -> None:
    """List deliveries, those of the newest events first.

    \b
    Examples:
      itscope-relay deliveries --state dead
      itscope-relay deliveries --destination erp --since 2026-11-22T08:00:00Z
    """
    found = listing(relay, "deliveries", limit, **wanted)
    show(found, _DELIVERY_HEADS, _delivery_row, "no deliveries were found", as_json=as_json)


def _delivery_row(delivery: Json) -> tuple[Any, ...]:
    return (
        delivery["id"],
        instant(delivery["accepted_at"]),
        delivery["event"],
        delivery["event_id"],
        kind(delivery),
        delivery["destination"],
        delivery["state"],
        delivery["attempt_count"],
        _note(delivery),
    )


def _note(delivery: Json) -> str:
    """Return what else there is to know of a delivery, empty for nothing."""
    notes = []
    if delivery["replay_of"] is not None:
        notes.append(f"replay of {delivery['replay_of']}")
    if delivery["blocked"]:
        notes.append(f"waits for its turn in {delivery['order_key']}")
    elif delivery["state"] == "pending":
        notes.append(f"not before {instant(delivery['due_at'])}")
    elif delivery["state"] in {"delivered", "dead", "discarded"}:
        notes.append(f"since {instant(delivery['due_at'])}")
    if delivery["reason"]:
        notes.append(delivery["reason"])
    return ", ".join(notes)


@click.command()
@json_option
@with_relay
def destinations(relay: Client, *, as_json: bool) -> None:
    """List the destinations: whether they are delivered to, and what they are owed.

    \b
    Example:
      itscope-relay destinations
    """
    found = relay.get("destinations")["destinations"]
    show(found, _DESTINATION_HEADS, _destination_row, "there are no destinations", as_json=as_json)


def _destination_row(destination: Json) -> tuple[Any, ...]:
    backlog = destination["backlog"]
    return (
        destination["name"],
        _destination_state(destination),
        backlog["pending"],
        backlog["in_flight"],
        backlog["dead"],
        instant(destination["oldest_accepted_at"]),
    )


def _destination_state(destination: Json) -> str:
    """Return what keeps a destination from being delivered to; all of it."""
    states = []
    if not destination["configured"]:
        states.append("not in the configuration")
    if destination["paused_at"] is not None:
        states.append(f"paused since {instant(destination['paused_at'])}")
    if destination["held_until"] is not None:
        states.append(f"held until {instant(destination['held_until'])}")
    if destination["breaker"] != "closed":
        probe = instant(destination["probe_at"])
        states.append(f"breaker {destination['breaker']}{f', probe at {probe}' if probe else ''}")
    return ", ".join(states) or "delivering"


@click.command()
@limit_option(50)
@json_option
@with_relay
def changes(relay: Client, limit: int, *, as_json: bool) -> None:
    """List what was done by hand, and by whom, the newest first.

    \b
    Example:
      itscope-relay changes --limit 10
    """

    def row(change: Json) -> tuple[Any, ...]:
        detail = json.dumps(change["detail"], ensure_ascii=False)
        return instant(change["at"]), change["who"], change["action"], change["number"], detail

    found = listing(relay, "changes", limit)
    show(found, ("AT", "WHO", "ACTION", "NUMBER", "DETAIL"), row, "nothing was done by hand", as_json=as_json)
