"""The command `quarantine`: what was authenticated but is no webhook, and what shall become of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from relay.cli.looking import listing, show
from relay.cli.options import json_option, limit_option, text, with_relay
from relay.cli.printing import echo_body, instant, number_of, printable, printable_lines, size
from relay.cli.repair import one_by_one

if TYPE_CHECKING:
    from relay.client import Client, Json

_HEADS = ("ID", "LAST CAME", "TIMES", "SOURCE", "REASON", "SIZE", "DETAIL")


class _ListsByItself(click.Group):
    """A group that lists when no other command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in {"-h", "--help"}):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListsByItself)
def quarantine() -> None:
    """Show what could not be read as a webhook, and release or discard it. By itself it lists.

    \b
    Examples:
      itscope-relay quarantine
      itscope-relay quarantine show 5
      itscope-relay quarantine release 5 --to erp
    """


@quarantine.command("list")
@click.option("--source", type=text, help="Of this source.")
@limit_option(50)
@json_option
@with_relay
def list_(relay: Client, source: str | None, limit: int, *, as_json: bool) -> None:
    """List what is in quarantine, the newest first.

    \b
    Example:
      itscope-relay quarantine list --source itscope
    """

    def row(request: Json) -> tuple[Any, ...]:
        last, detail = instant(request["last_received_at"]), request["detail"]
        shown = size(request["size"])
        return request["id"], last, request["times"], request["source"], request["reason"], shown, detail

    found = listing(relay, "quarantine", limit, source=source)
    show(found, _HEADS, row, "nothing is in quarantine", as_json=as_json)


@quarantine.command("show")
@click.argument("id_", metavar="ID", type=click.IntRange(1))
@json_option
@with_relay
def show_(relay: Client, id_: int, *, as_json: bool) -> None:
    """Show one request with its text, as far as it is one; control characters as \\x1b.

    \b
    Example:
      itscope-relay quarantine show 5
    """
    request = relay.get("quarantine", id_)
    if as_json:
        click.echo(json.dumps(request, indent=2))
        return
    lines = (
        f"{request['id']}: {request['reason']}, from {request['source']}: {request['detail']}",
        f"  came {request['received_at']}, last {request['last_received_at']}, {request['times']} x",
        f"  {request['content_type']}, {size(request['size'])}",
    )
    click.echo("\n".join((*map(printable, lines), "", printable_lines(request["text"]))))


@quarantine.command()
@click.argument("id_", metavar="ID", type=click.IntRange(1))
@with_relay
def body(relay: Client, id_: int) -> None:
    """Print the body of a request as it was received, and nothing else.

    On a terminal, its control characters are shown as \\x1b.

    \b
    Example:
      itscope-relay quarantine body 5 > body.bin
    """
    echo_body(relay.read("quarantine", id_, "body"))


@quarantine.command()
@click.argument("id_", metavar="ID", type=click.IntRange(1))
@click.option(
    "--to",
    type=text,
    metavar="DESTINATION",
    multiple=True,
    help="To this one, instead of by the routes; repeatable.",
)
@json_option
@with_relay
def release(relay: Client, id_: int, to: tuple[str, ...], *, as_json: bool) -> None:
    """Accept a request as an event after all, and deliver it as it is.

    It goes where the routes in force send it, as far as it can be read, or --to where you say.

    \b
    Examples:
      itscope-relay quarantine release 5
      itscope-relay quarantine release 5 --to erp --to crm
    """
    done = relay.post("quarantine", id_, "release", to=list(to) or None)
    if as_json:
        click.echo(json.dumps(done))
    elif done["status"] == "duplicate":
        click.echo(
            f"{id_}: was accepted before with the same bytes; it stays in quarantine, discard it there"
        )
    else:
        owed = number_of(done["deliveries"], "delivery") if done["deliveries"] else "unrouted"
        click.echo(f"{id_}: accepted as event {done['event']}, {owed}")


@quarantine.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=click.IntRange(1))
@click.option("--reason", type=text, required=True, help="Why; it is kept in the list of changes.")
@json_option
@with_relay
def discard(relay: Client, ids: tuple[int, ...], reason: str, *, as_json: bool) -> None:
    """Delete requests from quarantine for good.

    \b
    Example:
      itscope-relay quarantine discard 5 6 --reason 'somebody tried curl'
    """
    one_by_one(
        ids, lambda id_: relay.post("quarantine", id_, "discard", reason=reason), "discarded", as_json=as_json
    )
