"""The operator's commands against a running relay: find, replay, discard, skip, pause, compare."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.receiver import Receive, Received, Receiver
from tests.e2e.relay_process import (
    COMMAND,
    DEADLINE_SECONDS,
    PASSWORD,
    USERNAME,
    RelayProcess,
    Start,
    environment,
    event,
    run,
    until,
    write_config,
)

INVOICES = [{"match": {"eventType": "INVOICE"}, "to": ["erp", "crm"]}]


async def reject(_received: Received) -> int:
    return 422


@dataclass(slots=True)
class World:
    """A relay whose ERP takes everything and whose CRM nothing; invoices go to both, the rest nowhere."""

    folder: Path
    relay: RelayProcess
    client: aiohttp.ClientSession
    erp: Receiver
    crm: Receiver

    async def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        variables = {"ITSCOPE_RELAY_ADMIN_URL": self.relay.admin}
        return await asyncio.to_thread(run, *arguments, variables=variables)

    async def done(self, *arguments: str | Path) -> str:
        """Run a command that must succeed, and return what it printed."""
        ran = await self.command(*arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    async def json(self, *arguments: str | Path) -> Any:
        return json.loads(await self.done(*arguments, "--json"))

    async def post(self, event_id: str, **fields: str) -> None:
        status, _ = await self.relay.post(self.client, event(event_id, **fields))
        assert status == 200

    async def states(self, *search: str) -> dict[str, list[str]]:
        """Return the destinations and states of all deliveries of each event that is found."""
        found = await self.json("events", *search)
        return {
            one["event_id"]: sorted(f"{item['destination']} {item['state']}" for item in one["deliveries"])
            for one in found
        }

    async def idle(self) -> None:
        await until(lambda: self.relay.owes_nothing(self.client))


@pytest.fixture
async def world(start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path) -> World:
    erp, crm = await receive(), await receive(reject)
    destinations = {"erp": {"url": erp.url, "order_by": "orderId"}, "crm": crm.url}
    relay = await start(write_config(tmp_path, destinations, routes=INVOICES))
    return World(tmp_path, relay, client, erp, crm)


# ---- looking


async def test_events_are_found_by_any_id_and_by_what_became_of_them(world: World) -> None:
    await world.post("one", eventType="INVOICE", orderId="PO-7")
    await world.post("two", eventType="ORDER", orderId="PO-7")
    await world.post("three", eventType="INVOICE", orderId="PO-8", transactionStatus="ARRIVED")
    await world.idle()

    listed = (await world.done("events")).splitlines()
    assert listed[0].split() == [
        *("ID", "RECEIVED", "SOURCE", "EVENT", "ID", "TYPE", "STATUS", "ORDER", "DELIVERIES")
    ]
    assert [line.split()[3] for line in listed[1:]] == ["three", "two", "one"]
    assert listed[1].endswith("erp delivered, crm dead")
    assert listed[2].endswith("unrouted")
    for search, ids in (
        (("--id", "PO-7"), {"one", "two"}),
        (("--type", "INVOICE", "--status", "ARRIVED", "--source", "itscope"), {"three"}),
        (("--state", "dead", "--destination", "crm", "--since", "1h"), {"one", "three"}),
        (("--state", "unrouted"), {"two"}),
        (("--until", "1h"), set()),
    ):
        assert (await world.states(*search)).keys() == ids
    cut = await world.command("events", "--limit", "2")
    assert len(cut.stdout.splitlines()) == 3
    assert cut.stderr == "there are more than these 2; --limit shows further ones\n"

    (dead,) = await world.json("deliveries", "--state", "dead", "--id", "three")
    assert (dead["destination"], dead["attempt_count"]) == ("crm", 1)
    table = (await world.done("deliveries", "--state", "dead")).splitlines()
    assert [line.split()[3] for line in table[1:]] == ["three", "one"]


async def test_one_event_is_shown_whole(world: World) -> None:
    await world.post("one", eventType="INVOICE", orderId="PO-7", note="\x1b[2J")
    await world.post("two", eventType="ORDER", orderId="PO-7")
    await world.idle()
    (one,) = await world.json("events", "--id", "one")

    shown = await world.done("event", str(one["id"]))
    assert shown == await world.done("event", "one")
    assert shown.startswith(f"event {one['id']}: INVOICE SENT, from itscope\n")
    assert "+ routes[0]  matched: everything under match holds -> erp, crm\n  goes to: erp, crm\n" in shown
    assert "to crm: dead (since " in shown
    assert "s  422  -> dead\n" in shown
    assert (
        await world.done("event", "one", "--body")
        == event("one", eventType="INVOICE", orderId="PO-7", note="\x1b[2J").decode()
    )
    whole = await world.json("event", "one")
    assert [len(delivery["attempts"]) for delivery in whole["deliveries"]] == [1, 1]

    assert len((await world.done("event", "PO-7")).splitlines()) == 3
    several = await world.command("event", "PO-7", "--body")
    assert several.returncode == 1
    assert "2 events have the id PO-7; give one of the numbers " in several.stderr
    for unknown in ("4711", "unheard-of"):
        none = await world.command("event", unknown)
        assert (none.returncode, none.stdout) == (1, "")
        assert none.stderr.endswith(f"there is no event {unknown}\n")


# ---- repair


async def test_dead_deliveries_are_replayed_by_number_or_all_that_are_found(world: World) -> None:
    for number in range(3):
        await world.post(f"event-{number}", eventType="INVOICE")
    await world.idle()
    dead = await world.json("deliveries", "--state", "dead")
    assert len(dead) == 3
    world.crm.script = world.erp.script

    first, taken = dead[-1], next(iter(await world.json("deliveries", "--state", "delivered")))
    named = await world.command("replay", str(first["id"]), "99999")
    assert (named.returncode, named.stdout) == (1, f"{first['id']}: replayed\n")
    assert named.stderr == "99999: there is no delivery 99999\n"
    await until(lambda: world.crm.taken["event-0"] == 1)

    tried = await world.done("replay", "--state", "dead", "--dry-run")
    assert tried == "would replay 2: crm 2\n"
    assert (await world.json("replay", "--state", "dead", "--dry-run")) == {
        "replayed": 2,
        "skipped": 0,
        "by_destination": {"crm": 2},
        "dry_run": True,
    }
    assert len(await world.json("deliveries", "--state", "dead")) == 2

    unconfirmed = await world.command("replay", "--state", "dead")
    assert unconfirmed.returncode == 2
    assert "there is no terminal to ask on: try it with --dry-run, then give --yes" in unconfirmed.stderr
    assert await world.done("replay", "--state", "dead", "--pace", "1000/s", "--yes") == "replayed 2: crm 2\n"
    await until(lambda: world.crm.taken.total() == 3)
    assert world.erp.taken.total() == 3

    again = await world.json("replay", str(taken["id"]))
    assert again == {"replayed": 1, "refused": {}}
    await until(lambda: world.erp.taken[taken["event_id"]] == 2)
    actions = [(one["who"], one["action"], one["number"]) for one in await world.json("changes")]
    assert actions == [("anonymous", "replay", number) for number in (1, 2, 1)]
    assert "anonymous  replay  2" in await world.done("changes")


async def test_events_go_to_where_new_routes_or_the_operator_send_them(world: World) -> None:
    for number in range(3):
        await world.post(f"event-{number}", eventType="ORDER")
    assert set(map(tuple, (await world.states()).values())) == {()}
    erp, crm = world.erp.url, world.crm.url
    write_config(world.folder, {"erp": erp, "crm": crm}, routes=[{"to": ["erp"]}])
    await world.relay.reload()

    assert await world.done("replay", "--unrouted", "--dry-run") == "would replay 3: erp 3\n"
    assert await world.done("replay", "--unrouted", "--yes") == "replayed 3: erp 3\n"
    await until(lambda: world.erp.taken.total() == 3)
    assert [received.event_id for received in world.erp.requests] == ["event-0", "event-1", "event-2"]

    world.crm.script = world.erp.script
    paced = ("replay", "--since", "1h", "--to", "crm", "--pace", "600/min", "--yes")
    assert await world.done(*paced) == "replayed 3: crm 3\n"
    await until(lambda: world.crm.taken.total() == 3)
    owed = [one["accepted_at"] for one in await world.json("deliveries", "--destination", "crm")]
    assert len(set(owed)) == 3  # one every 100 ms
    assert await world.done(*paced) == "replayed 0 (3 left out)\n"


async def test_a_repair_asks_on_a_terminal_and_does_nothing_without_a_yes(world: World) -> None:
    await world.post("one", eventType="INVOICE")
    await world.idle()
    for answer, code, state in (("n\n", 1, "crm dead"), ("y\n", 0, "crm discarded")):
        done = await asyncio.to_thread(
            _on_terminal, world.relay.admin, answer, "discard", "--state", "dead", "--reason", "it is late"
        )
        assert done.returncode == code
        assert "would discard 1: crm 1\n" in done.stdout
        assert "do it?" in done.stderr
        assert state in (await world.states())["one"]


async def test_deliveries_are_discarded_and_skipped(world: World) -> None:
    async def reject_first(received: Received) -> int:
        return 422 if received.event_id == "first" else 200

    world.erp.script = reject_first
    await world.post("first", eventType="INVOICE", orderId="PO-1")
    await world.post("second", eventType="INVOICE", orderId="PO-1")
    await until(lambda: world.relay.metric(world.client, "itscope_relay_backlog", '"erp"', '"dead"'))
    assert (await world.states())["second"][-1] == "erp pending"
    (held,) = await world.json("deliveries", "--state", "pending")
    assert held["blocked"]
    assert "waits for its turn in PO-1" in await world.done("deliveries", "--state", "pending")

    assert await world.done("skip", "--state", "dead", "--destination", "erp", "--dry-run") == (
        "would skip 1: erp 1\n"
    )
    (head,) = await world.json("deliveries", "--state", "dead", "--destination", "erp")
    assert await world.done("skip", str(head["id"])) == f"{head['id']}: skipped over\n"
    await until(lambda: world.erp.taken["second"])

    without = await world.command("discard", str(head["id"]))
    assert without.returncode == 2
    assert "--reason" in without.stderr
    reason = ("--reason", "entered by hand")
    assert await world.done("discard", str(head["id"]), *reason) == f"{head['id']}: discarded\n"
    refused = await world.command("discard", str(head["id"]), *reason, "--json")
    assert (refused.returncode, json.loads(refused.stdout)["discarded"]) == (1, 0)
    assert f"{head['id']}: delivery {head['id']} is discarded" in refused.stderr
    assert "entered by hand" in await world.done("event", "first")
    assert await world.json("discard", "--destination", "crm", *reason, "--yes") == {
        "discarded": 2,
        "skipped": 0,
        "by_destination": {"crm": 2},
        "dry_run": False,
    }
    assert await world.states("--state", "dead") == {}


async def test_a_paused_destination_gets_nothing_until_it_is_resumed(world: World) -> None:
    world.crm.script = world.erp.script
    assert await world.done("pause", "crm") == "crm: paused\n"
    await world.post("one", eventType="INVOICE")
    await until(lambda: world.erp.taken["one"])
    assert not world.crm.requests
    erp, crm = (await world.done("destinations")).splitlines()[1:]
    assert erp.split()[:2] == ["erp", "delivering"]
    assert crm.startswith("crm   paused since 20")
    assert [one["backlog"]["pending"] for one in await world.json("destinations")][1] == 1
    assert await world.json("resume", "crm") == {"paused": False}
    await until(lambda: world.crm.taken["one"])
    unknown = await world.command("pause", "cmr")
    assert unknown.returncode == 1
    assert "cmr" in unknown.stderr


async def test_quarantined_requests_are_shown_released_and_discarded(world: World) -> None:
    for body in (b'{"eventType": "INVOICE", "eventType": "INVOICE"}', b"\x00\xff\x1b", b"[]"):
        assert (await world.relay.post(world.client, body))[0] == 400
    listed = (await world.done("quarantine")).splitlines()
    assert [line.split()[4] for line in listed[1:]] == ["not-an-object", "not-utf-8", "duplicate-keys"]
    last, broken, first = (str(one["id"]) for one in await world.json("quarantine", "list"))
    shown = await world.done("quarantine", "show", broken)
    assert "not-utf-8, from itscope" in shown
    assert "\x1b" not in shown
    assert (await world.done("quarantine", "body", last)) == "[]"

    world.crm.script = world.erp.script
    released = await world.done("quarantine", "release", first)  # by the routes, as far as it can be read
    assert released.startswith(f"{first}: accepted as event ")
    assert released.endswith(", 2 deliveries\n")
    await until(lambda: world.crm.taken.total() == 1 and world.erp.taken.total() == 1)
    assert world.crm.requests[0].body == b'{"eventType": "INVOICE", "eventType": "INVOICE"}'
    assert (await world.done("quarantine", "release", last, "--to", "crm")).endswith(", 1 delivery\n")
    await until(lambda: world.crm.requests[-1].body == b"[]")

    discarded = await world.command("quarantine", "discard", broken, "999", "--reason", "noise")
    assert (discarded.returncode, discarded.stdout) == (1, f"{broken}: discarded\n")
    assert discarded.stderr.startswith("999: ")
    assert await world.json("quarantine") == []


async def test_new_routes_are_tried_on_what_came(world: World, tmp_path: Path) -> None:
    for number in range(22):
        await world.post(f"invoice-{number}", eventType="INVOICE", transactionStatus="ARRIVED")
    user = ("--user", f"{USERNAME}:{PASSWORD}")
    await world.done(
        "send", world.relay.ingress, *user, "--type", "ORDER", "--status", "SENT", "--count", "560"
    )
    await world.idle()
    assert await world.done("replay", "--state", "unrouted", "--to", "crm", "--dry-run") == (
        "would replay 560: crm 560\n"  # more than one step
    )
    await world.done("replay", "--id", "invoice-0", "--state", "dead", "--yes")  # changes nothing here
    same = await world.command("diff-routes", "-c", tmp_path / "config.yaml", "--since", "1h")
    assert (same.returncode, same.stdout) == (0, "582 events: all would go where they went\n")

    new = tmp_path / "new"
    new.mkdir()
    routes = [
        {"match": {"eventType": "INVOICE"}, "to": ["erp"]},
        {"match": {"eventType": "ORDER"}, "to": ["crm"]},
    ]
    config = write_config(new, {"erp": world.erp.url, "crm": world.crm.url}, routes=routes)
    text = await world.command("diff-routes", "-c", config)
    assert text.returncode == 1
    lines = [line.split() for line in text.stdout.splitlines()]
    assert text.stdout.startswith("582 events: 582 would go elsewhere\n")
    assert ["INVOICE", "ARRIVED", "crm", "-", "22"] in lines
    assert ["ORDER", "SENT", "crm", "560", "-"] in lines
    assert ["the", "first", "20:"] in lines
    assert lines[-20][2:] == ["invoice-0", "INVOICE", "ARRIVED", "-crm"]

    found = json.loads((await world.command("diff-routes", "-c", config, "--json")).stdout)
    assert (found["events"], found["differing"], len(found["first"])) == (582, 582, 20)
    assert found["first"][0]["lost"] == ["crm"]


# ---- reaching it


async def test_a_login_is_given_asked_for_or_missing(start: Start, tmp_path: Path) -> None:
    admin = {"listen": "127.0.0.1:0", "auth": [{"username": "ops", "password": "geheim: ä"}]}
    relay = await start(write_config(tmp_path, {"erp": "http://127.0.0.1:9/"}, admin=admin))
    url = {"ITSCOPE_RELAY_ADMIN_URL": relay.admin}
    for user in ((), ("--user", "ops:wrong")):
        refused = run("destinations", *user, variables=url)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (
            f"the admin listener at {relay.admin} wants a login of admin.auth: --user NAME\n"
        )
    let_in = {**url, "ITSCOPE_RELAY_ADMIN_USER": "ops:geheim: ä"}
    assert run("pause", "erp", variables=let_in).returncode == 0
    asked = run("destinations", "--user", "ops", stdin="geheim: ä\n", variables=url)
    assert asked.returncode == 0
    assert "paused since" in asked.stdout
    (change,) = json.loads(run("changes", "--json", variables=let_in).stdout)
    assert (change["who"], change["action"]) == ("ops", "pause")


async def test_what_is_no_relay_is_told_in_a_sentence(receive: Receive) -> None:
    async def know_nothing(_received: Received) -> int:
        return 404

    receiver = await receive(know_nothing)
    other = f"http://127.0.0.1:{receiver.port}"
    for url, why in (
        (
            "http://127.0.0.1:9",
            "can't reach the admin listener at http://127.0.0.1:9: connection refused; is ",
        ),
        (other, f"{other} answered 404, and not as a relay does; is it one?"),
        (f"https://127.0.0.1:{receiver.port}", "can't reach the admin listener at https://127.0.0.1:"),
    ):
        told = await asyncio.to_thread(run, "events", "--url", url)
        assert (told.returncode, told.stdout) == (1, "")
        assert told.stderr.startswith(why)
        assert "--url" in told.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "15", "--state", "dead"),
        ("replay", "15", "--to", "erp"),
        ("replay", "--unrouted", "--state", "dead"),
        ("replay", "--state", "dead", "--pace", "", "--yes"),
        ("discard", "15"),
        ("skip", "15", "--dry-run"),
        ("events", "--state", "asleep"),
        ("events", "--url", "127.0.0.1:8081"),
        ("quarantine", "discard", "--reason", "x"),
        ("backup",),
    ],
)
def test_bad_usage_is_told_before_anything_is_asked(arguments: tuple[str, ...]) -> None:
    refused = run(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--help' for help" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "option", "why"),
    [
        (("events", "--since", "bogus"), "--since", "write an instant such as 2026-11-22T11:01:36Z, or a "),
        (("events", "--since", "99999999d"), "--since", "write an instant such as "),
        (("skip", "--until", "2026-11-22", "--yes"), "--until", "write an instant such as "),
        (("diff-routes", "--since", "2026-02-30T00:00:00Z"), "--since", "write an instant such as "),
        (("deliveries", "--id", ""), "--id", "must not be empty\n"),
        (
            ("replay", "--state", "dead", "--pace", "bogus", "--yes"),
            "--pace",
            "write a rate as a number and ",
        ),
        (("replay", "--state", "dead", "--pace", "0/s", "--yes"), "--pace", "the number of a rate must be "),
        (("replay", "--state", "dead", "--pace", "5/s burst 2", "--yes"), "--pace", "a pace has no burst; "),
        (("replay", "--state", "dead", "--to", "", "--yes"), "--to", "must not be empty\n"),
        (("discard", "15", "--reason", ""), "--reason", "must not be empty\n"),
        (("quarantine", "discard", "23", "--reason", ""), "--reason", "must not be empty\n"),
        (("quarantine", "release", "23", "--to", ""), "--to", "must not be empty\n"),
        (("quarantine", "--source", ""), "--source", "must not be empty\n"),
    ],
)
def test_a_malformed_value_is_told_with_its_option(arguments: tuple[str, ...], option: str, why: str) -> None:
    refused = run(*arguments, variables={"ITSCOPE_RELAY_ADMIN_URL": "http://127.0.0.1:9"})
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"\nError: Invalid value for '{option}': {why}" in refused.stderr


async def test_a_value_that_the_relay_finds_malformed_is_bad_usage_too(world: World) -> None:
    long = ("--id", "x" * 256)
    for arguments, place in ((("events",), "id"), (("skip", "--yes"), "filter.id")):
        refused = await world.command(*arguments, *long)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.endswith(f"\nError: {place}: must have at most 255 characters\n")
    for when in ("1h", "2026-11-22t08:00:00.5+01:00", "2026-11-22 08:00:00Z"):
        assert await world.json("events", "--until", when) == []


# ---- hostile texts, hostile terminals, hostile addresses

EVIL = "evil\x1b]0;x\x07\x1b[2J\x9b2J\r\u202e"
NEUTRAL = r"evil\x1b]0;x\x07\x1b[2J\x9b2J\r\u202e"

Answer = Callable[[web.Request], Awaitable[web.Response]]


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """Serve an admin listener that answers as it likes; its address."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def evil(**fields: Any) -> dict[str, Any]:
    """Return an object whose every text is hostile, but some."""
    names = (
        *("event_id", "source", "event_type", "transaction_status", "order_id", "itscope_order_id"),
        *("document_id", "transaction_id", "content_type", "trace_id", "destination", "state", "reason"),
        *("detail", "text", "order_key", "who", "action", "error", "answer", "next_state", "name", "why"),
    )
    instants = dict.fromkeys(
        ("received_at", "last_received_at", "accepted_at", "due_at", "at", "started_at"), EVIL
    )
    numbers = {"id": 1, "size": 1, "number": 1, "times": 1, "attempt_count": 1, "event": 1, "replay_of": 1}
    return dict.fromkeys(names, EVIL) | instants | numbers | {"blocked": True} | fields


def hostile_answer() -> dict[str, Any]:
    attempt = evil(status=None, duration_seconds=1.0)
    delivery = evil(attempts=[attempt])
    route = evil(finding="matched", to=[EVIL])
    routes = {"routes": [route], "destinations": [EVIL]}
    answer = evil(deliveries=[delivery], routes=routes, next=None)
    return {**answer, "changes": [evil()], "quarantine": [evil()]}


async def test_nothing_that_a_relay_tells_can_act_on_a_terminal() -> None:
    async def answer(request: web.Request) -> web.Response:
        listed = {"events": [hostile_answer()]} if request.path.endswith("/events") else {}
        if request.path.endswith("/pause"):
            return web.json_response({"error": EVIL}, status=404)
        return web.json_response(hostile_answer() | listed)

    async with answering(answer) as admin:
        for arguments, times in (
            (("event", "1"), 20),
            (("events",), 5),
            (("deliveries",), 5),
            (("changes",), 3),
            (("quarantine",), 3),
            (("quarantine", "show", "1"), 5),
            (("pause", "erp"), 1),
        ):
            ran = await asyncio.to_thread(run, *arguments, variables={"ITSCOPE_RELAY_ADMIN_URL": admin})
            shown = ran.stdout + ran.stderr
            assert [char for char in shown if not char.isprintable() and char != "\n"] == [], arguments
            assert shown.count("evil") >= times, shown


async def test_a_body_is_neutral_on_a_terminal_and_unchanged_elsewhere() -> None:
    body = f"line\n\t{EVIL}".encode() + b"\xff"

    async def answer(request: web.Request) -> web.Response:
        found = evil(id=4, events=[])
        return web.Response(body=body) if request.path.endswith("/body") else web.json_response(found)

    async with answering(answer) as admin:
        for arguments in (("event", "4", "--body"), ("quarantine", "body", "4")):
            seen = await asyncio.to_thread(_seen_on_terminal, admin, *arguments)
            assert seen.expandtabs(8) == f"line\r\n        {NEUTRAL}\\xff\r\n"
            assert await asyncio.to_thread(_bytes_of, admin, *arguments) == body


async def test_an_event_may_hold_a_number_of_any_length(world: World) -> None:
    body = event("one", number=4711).replace(b"4711", b"7" * 5000)
    assert (await world.relay.post(world.client, body))[0] == 200
    assert (await world.done("event", "one")).startswith("event 1: ORDER SENT, from itscope\n")
    same = await world.done("diff-routes", "-c", world.folder / "config.yaml")
    assert same == "1 event: all would go where they went\n"


async def test_a_number_that_is_an_id_of_another_event_too_is_told(world: World) -> None:
    await world.post("one", orderId="1")
    alone = await world.command("event", "1")
    assert (alone.returncode, alone.stderr) == (0, "")
    await world.post("two", orderId="1")
    both = await world.command("event", "1")
    assert both.stdout == alone.stdout
    assert both.stderr == ("this is the event with the number 1; others have 1 as an id: events --id 1\n")


async def test_a_repair_does_no_more_than_it_said_before_it_asked(world: World) -> None:
    await world.post("one", eventType="INVOICE")
    await world.idle()
    keyboard, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "discard", "--destination", "crm", "--since", "1h", "--reason", "late"),
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment({"ITSCOPE_RELAY_ADMIN_URL": world.relay.admin}),
    )
    try:
        assert process.stderr is not None
        await asyncio.wait_for(process.stderr.readuntil(b"do it?"), DEADLINE_SECONDS)
        await world.post("two", eventType="INVOICE")
        await world.idle()
        os.write(keyboard, b"y\n")
        printed, _ = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert printed == b"would discard 1: crm 1\ndiscarded 1: crm 1\n"
    states = await world.states()
    assert ("crm discarded" in states["one"], "crm dead" in states["two"]) == (True, True)


async def test_a_repair_that_is_stopped_says_how_far_it_came() -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if (await request.json())["cursor"] is not None:
            reached.set()
            await never.wait()
        step = {"replayed": 500, "skipped": 0, "by_destination": {"crm": 500}, "next": "more"}
        return web.json_response(step)

    async with answering(answer) as admin:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "replay", "--state", "dead", "--yes", "--url", admin),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            # Whoever runs the tests in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        await asyncio.wait_for(reached.wait(), DEADLINE_SECONDS)
        process.send_signal(signal.SIGINT)
        printed, said = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    assert (process.returncode, printed) == (1, b"")
    assert said.startswith(b"replayed before you stopped it: 500: crm 500\n")


async def test_a_full_disk_keeps_nothing_from_being_done(world: World) -> None:
    for number in range(2):
        await world.post(f"event-{number}", eventType="INVOICE")
    await world.idle()
    dead = [str(one["id"]) for one in await world.json("deliveries", "--state", "dead")]
    for arguments in (("discard", *dead, "--reason", "late"), ("pause", "erp"), ("schema",)):
        ran = await asyncio.to_thread(_on_full_disk, world.relay.admin, *arguments)
        assert (ran.returncode, ran.stderr) == (1, "can't write the output: no space left on device\n")
    assert await world.states("--state", "dead") == {}
    assert (await world.json("destinations"))[0]["paused_at"] is not None


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--url", "http://ops:geheim@h:nope"), 2, "--url: .* holds a login; give that with --user\n$"),
        (("--url", "http://ops:ge/geheim@h"), 2, "--url: .* holds a login; give that with --user\n$"),
        (("--url", "http://[::1"), 2, "--url: .* is no address of an admin listener: "),
        (("--url", "http://h:nope"), 2, "--url: .* is no address of an admin listener: "),
        (("--url", f"http://{'a' * 70}.example"), 2, "--url: .* is no address of an admin listener: "),
        (("--url", "http://xn--ä.example"), 2, "--url: .* is no address of an admin listener: "),
        (("--url", "http://127.0.0.1:9/ü"), 1, "can't reach the admin listener at http://127.0.0.1:9: "),
        (("--url", "http://127.0.0.1:9/a b"), 1, "can't reach the admin listener at http://127.0.0.1:9: "),
        (("--url", "http://h\udcff"), 2, "--url.*: is not UTF-8 text"),
        (("--id", "\udcff"), 2, "--id.*: is not UTF-8 text"),
        (("--user", "\udcff:x"), 2, "--user.*: is not UTF-8 text"),
        (("--user", "\udcff:x", "--since", "\udcff"), 2, "is not UTF-8 text"),
    ],
)
def test_what_can_not_be_asked_is_told_in_a_sentence(
    arguments: tuple[str, ...], code: int, told: str
) -> None:
    refused = run("events", *arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert re.search(told, refused.stderr)
    assert "geheim" not in refused.stderr


def test_an_argument_that_is_no_text_is_told_of() -> None:
    for command in ("event", "pause"):
        refused = run(command, "\udcff")
        assert refused.returncode == 2
        assert "is not UTF-8 text" in refused.stderr
    assert run("check", "-c", "\udcff.yaml").stderr == (
        "\\udcff.yaml: can't be read: no such file or directory\n"
    )


async def test_what_an_output_has_no_character_for_is_escaped(world: World) -> None:
    await world.post("schön 漢", eventType="ORDER")
    printed = await asyncio.to_thread(
        _bytes_of, world.relay.admin, "events", variables={"PYTHONIOENCODING": "iso-8859-1"}
    )
    assert "schön \\u6f22".encode("iso-8859-1") in printed


def _bytes_of(admin: str, *arguments: str, variables: Mapping[str, str] | None = None) -> bytes:
    """Run a command that must succeed, and return what it printed."""
    return subprocess.run(
        [COMMAND, *arguments, "--url", admin], env=environment(variables), capture_output=True, check=True
    ).stdout


def _on_full_disk(admin: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose output goes to a disk that is full."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        return subprocess.run(
            [COMMAND, *arguments],
            env=environment({"ITSCOPE_RELAY_ADMIN_URL": admin}),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )


def _seen_on_terminal(admin: str, *arguments: str) -> str:
    """Run a command whose output is a terminal, and return what is written to that."""
    screen, terminal = pty.openpty()
    seen = b""
    try:
        with subprocess.Popen(
            [COMMAND, *arguments], stdout=terminal, env=environment({"ITSCOPE_RELAY_ADMIN_URL": admin})
        ):
            os.close(terminal)
            with contextlib.suppress(OSError):  # so it ends
                while part := os.read(screen, 65536):
                    seen += part
    finally:
        os.close(screen)
    return seen.decode()


def _on_terminal(admin: str, typed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard input is a terminal on which somebody types."""
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, typed.encode())
        return subprocess.run(
            [COMMAND, *arguments],
            stdin=terminal,
            env=environment({"ITSCOPE_RELAY_ADMIN_URL": admin}),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
