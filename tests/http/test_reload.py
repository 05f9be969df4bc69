"""A configuration is taken anew whole or not at all, and what goes on meanwhile doesn't notice."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import encode_basic_auth

from relay.passwords import Costs, PasswordHash
from tests.http.conftest import StartRelay
from tests.http.world import ORDER, PASSWORD, RIGHT, USER, Clock, Receiver, Running, head, refused, until

SUCCESSFUL = "itscope_relay_config_last_reload_successful"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_reload_takes_new_routes_and_destinations(running: Running, crm: Receiver) -> None:
    answer = await running.reload(
        destinations={"crm": {"url": crm.url}}, routes=[{"to": ["crm"], "match": {"eventType": "ORDER"}}]
    )
    assert (answer.status, answer.json) == (200, {"status": "reloaded"})
    assert (await running.post()).json["deliveries"] == 1
    await crm.arrived(1)
    assert (await running.post({"eventId": "other"})).json["deliveries"] == 0
    assert await running.metric(SUCCESSFUL) == 1


async def test_reload_takes_new_sources_with_their_passwords(running: Running) -> None:
    await running.post()
    await running.reload(
        sources={
            "itscope": {"auth": [{"username": USER, "password": "new"}]},
            "second": {"path": "/second", "auth": [{"username": "s", "password": "p"}]},
        }
    )
    refused(await running.post({"eventId": "2"}), 401, folder=running.folder)  # though it was remembered
    assert (await running.post({"eventId": "2"}, auth=encode_basic_auth(USER, "new"))).status == 200
    second = await running.post({"eventId": "2"}, path="/second", auth=encode_basic_auth("s", "p"))
    assert second.json["status"] == "accepted"


async def test_verified_login_is_remembered_over_a_reload_that_leaves_its_source_alone(
    relay: StartRelay,
) -> None:
    costs = Costs(10, 8, 1)
    hashed = str(PasswordHash(costs, b"s" * 16, costs.derive(PASSWORD.encode(), b"s" * 16, 32)))
    running = await relay(sources={"itscope": {"auth": [{"username": USER, "password_hash": hashed}]}})
    assert (await running.post()).status == 200
    running.relay._hashing.shutdown()  # from now on nothing can be checked but by memory
    answer = await running.reload(
        sources={"second": {"auth": [{"username": "s", "password": "p"}]}},
        destinations={"erp": {"timeout": "29s"}},
    )
    assert answer.status == 200
    assert (await running.post({"eventId": "2"})).status == 200


async def test_removed_source_is_answered_404(running: Running) -> None:
    await running.reload(
        sources={"itscope": None, "other": {"auth": [{"username": USER, "password": PASSWORD}]}}
    )
    refused(await running.post(), 404, folder=running.folder)
    assert (await running.post(path="/webhooks/other")).status == 200


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"destinations": {"erp": {"timeout": "soon"}}}, "destinations.erp.timeout: write a duration"),
        ({"destinations": {"erp": {"timeuot": "3s"}}}, "did you mean timeout?"),
        ({"routes": [{"to": ["epr"]}]}, "there is no destination epr; did you mean erp?"),
        ({"sources": None}, "sources: is required"),
        ({"routes": []}, "routes: must have at least one entry"),
        ({"admin": {"listen": "0.0.0.0:0"}}, "admin: auth is required"),
        ({"store": {"url": "sqlite:///another.db"}}, "store.url: can't change while the relay runs"),
        ({"server": {"tls": {"cert_file": "no.pem", "key_file": "no.pem"}}}, "can't use"),
    ],
    ids=["value", "key", "destination", "missing", "empty", "admin", "store", "tls"],
)
async def test_invalid_configuration_changes_nothing_and_names_the_problem(
    running: Running, erp: Receiver, overrides: dict[str, Any], problem: str
) -> None:
    before = running.config
    answer = await running.reload(
        **{**overrides, "server": {"max_body": "10B", **overrides.get("server", {})}}
    )
    assert answer.status == 422
    assert answer.json["error"] == "the configuration is invalid"
    assert any(problem in found for found in answer.json["problems"])
    assert await running.metric(SUCCESSFUL) == 0
    assert (await running.post()).status == 200  # larger than 10 bytes
    await erp.arrived(1)

    running.config = before
    assert (await running.reload()).status == 200
    assert await running.metric(SUCCESSFUL) == 1


async def test_all_problems_are_named_with_their_places(running: Running) -> None:
    answer = await running.reload(
        destinations={"erp": {"url": "ftp://erp", "concurrency": 0}}, routes=[{"to": ["crm"]}]
    )
    assert len(answer.json["problems"]) == 3
    for problem in answer.json["problems"]:
        assert problem.startswith(f"{running.file}:")


@pytest.mark.parametrize("text", ["", "a: [", "\t", "- 1", "a: &b [*b]", "\x00"])
async def test_file_that_is_no_configuration_changes_nothing(running: Running, text: str) -> None:
    running.file.write_text(text)
    answer = await running.ask("/-/reload", method="POST")
    assert answer.status == 422
    assert answer.json["problems"]
    assert (await running.post()).status == 200


async def test_missing_file_changes_nothing(running: Running) -> None:
    running.file.unlink()
    answer = await running.ask("/-/reload", method="POST")
    assert (answer.status, len(answer.json["problems"])) == (422, 1)
    assert (await running.post()).status == 200


async def test_deliveries_of_a_removed_destination_stay_and_go_on_when_it_returns(
    relay: StartRelay, erp: Receiver, crm: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": {"initial": "1h", "max": "1h"}}})
    erp.script += [500] * 3
    for number in range(3):
        await running.post({"eventId": str(number)})
    await until(lambda: running.deliveries() == [("pending", 1)] * 3)
    erp_config = running.config["destinations"]["erp"]

    await running.reload(destinations={"erp": None, "crm": {"url": crm.url}}, routes=[{"to": ["crm"]}])
    clock.moved_seconds += 3600
    await running.post({"eventId": "meanwhile"})
    await running.settled("delivered", "crm")
    assert running.deliveries() == [("pending", 1)] * 3
    assert await running.metric("itscope_relay_backlog", destination="erp", state="pending") == 3

    await running.reload(destinations={"erp": erp_config})
    await running.settled("delivered", number=3)
    assert [request.headers["X-Relay-Attempt"] for request in erp.requests[3:]] == ["2"] * 3


async def test_attempt_under_way_ends_as_it_was_begun(running: Running, erp: Receiver, crm: Receiver) -> None:
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    await running.reload(destinations={"erp": {"url": crm.url}})
    erp.release.set()
    await running.settled("delivered")
    assert (len(erp.requests), len(crm.requests)) == (1, 0)


async def test_what_waits_goes_to_the_new_url(relay: StartRelay, erp: Receiver, crm: Receiver) -> None:
    running = await relay(destinations={"erp": {"concurrency": 1}})
    erp.otherwise = erp.hang
    for number in range(5):
        await running.post({"eventId": str(number)})
    await erp.arrived(1)
    await running.reload(destinations={"erp": {"url": crm.url}})
    await crm.arrived(4)
    erp.release.set()
    await running.settled("delivered", number=5)
    assert (len(erp.requests), len(crm.requests)) == (1, 4)
    assert {request.headers["X-Relay-Attempt"] for request in crm.requests} == {"1"}


async def test_unchanged_destination_does_not_notice(running: Running, erp: Receiver, crm: Receiver) -> None:
    erp.otherwise = erp.hang
    await running.post()
    await erp.arrived(1)
    lane = running.relay._dispatcher._lanes["erp"]
    await running.reload(destinations={"crm": {"url": crm.url}})
    assert running.relay._dispatcher._lanes["erp"] is lane
    erp.release.set()
    await running.settled("delivered")
    assert len(erp.requests) == 1


async def test_relay_listens_at_its_new_address_and_connections_stay(running: Running) -> None:
    old = running.public
    kept = await running.wire()
    port = free_port()
    assert (await running.reload(server={"listen": f"127.0.0.1:{port}"})).status == 200
    assert running.public == ("127.0.0.1", port)
    assert (await running.post()).status == 200
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*old)
    await kept.send(head("Content-Length: 2") + b"{}")
    assert (await kept.answer()).status == 200


async def test_admin_listens_at_its_new_address(running: Running) -> None:
    port = free_port()
    assert (await running.reload(admin={"listen": f"127.0.0.1:{port}"})).status == 200
    assert running.admin == ("127.0.0.1", port)
    assert (await running.ask("/-/healthy")).status == 200


@pytest.mark.parametrize("listener", ["server", "admin"])
async def test_address_in_use_changes_nothing(running: Running, listener: str) -> None:
    public, admin = running.public, running.admin
    overrides: dict[str, Any] = {"server": {"max_body": "10B"}}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        overrides.setdefault(listener, {})["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = await running.reload(**overrides)
    assert answer.status == 422
    assert "can't listen on 127.0.0.1:" in answer.json["problems"][0]
    assert (running.public, running.admin) == (public, admin)
    assert (await running.post()).status == 200


async def test_public_address_is_taken_back_when_the_admin_one_is_in_use(relay: StartRelay) -> None:
    running = await relay(server={"listen": f"127.0.0.1:{free_port()}"})
    address = running.public
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = await running.reload(
            server={"listen": f"127.0.0.1:{free_port()}"},
            admin={"listen": f"127.0.0.1:{taken.getsockname()[1]}"},
        )
    assert answer.status == 422
    assert running.public == address
    assert (await running.post()).status == 200


async def test_reloads_at_once_and_webhooks_meanwhile_are_all_answered(
    running: Running, erp: Receiver
) -> None:
    reloads = [running.ask("/-/reload", method="POST") for _ in range(5)]
    posts = [running.post({"eventId": str(number)}) for number in range(50)]
    answers = await asyncio.gather(*reloads, *posts)
    assert {answer.status for answer in answers} == {200}
    await running.settled("delivered", number=50)
    assert len(erp.requests) == 50


async def test_problems_of_a_reload_tell_no_secrets(running: Running) -> None:
    answer = await running.reload(
        sources={
            "itscope": {"auth": [{"username": USER, "password": "s3cret-a", "password_hash": "s3cret-b"}]}
        },
        destinations={"erp": {"auth": {"type": "bearer", "token": "s3cret-ü"}}},
    )
    assert answer.status == 422
    assert b"s3cret" not in answer.body


async def test_reload_changes_the_limits(running: Running) -> None:
    await running.reload(server={"max_body": "10B", "body_timeout": "50ms"})
    refused(await running.post(ORDER), 413, folder=running.folder)
    wire = await running.wire()
    await wire.send(head("Content-Length: 5", auth=RIGHT) + b"{")
    refused(await wire.answer(), 408, folder=running.folder)
