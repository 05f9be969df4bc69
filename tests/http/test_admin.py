"""The admin listener (contract, section 6): metrics, health, readiness, and who may use it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from functools import partial
from urllib.parse import urlsplit

import psycopg
import pytest
from aiohttp import encode_basic_auth
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from relay import __version__
from tests.contract import METRICS
from tests.http.conftest import StartRelay
from tests.http.world import ORDER, RIGHT, Answer, Clock, Receiver, Running, refused, until
from tests.postgres import PostgresServer

OPERATOR = encode_basic_auth("admin", "operator-secret")


async def test_every_metric_is_there_from_the_start_with_its_type_and_labels(running: Running) -> None:
    answer = await running.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        if family.name.startswith("process_"):
            continue  # what every Python process shows
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert found == METRICS


async def test_counters_start_at_zero_for_all_that_is_configured(running: Running) -> None:
    samples = await running.metrics()
    for event_type in ("ORDER", "ORDERRESPONSE", "DELIVERY", "INVOICE", "other"):
        for outcome in ("accepted", "duplicate", "quarantined"):
            labels = {"source": "itscope", "event_type": event_type, "outcome": outcome}
            assert samples["itscope_relay_events_total", frozenset(labels.items())] == 0
    for outcome in ("delivered", "retry", "dead"):
        labels = {"destination": "erp", "outcome": outcome}
        assert samples["itscope_relay_delivery_attempts_total", frozenset(labels.items())] == 0
    for outcome in ("delivered", "dead", "discarded"):
        labels = {"destination": "erp", "outcome": outcome}
        assert samples["itscope_relay_deliveries_total", frozenset(labels.items())] == 0
    for state in ("pending", "in_flight", "dead"):
        labels = {"destination": "erp", "state": state}
        assert samples["itscope_relay_backlog", frozenset(labels.items())] == 0


async def test_open_metrics_is_given_on_request(running: Running) -> None:
    await running.post()
    answer = await running.ask(
        "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
    )
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    families = openmetrics.text_string_to_metric_families(answer.body.decode())  # type: ignore[no-untyped-call]
    names = {family.name for family in families if not family.name.startswith("process_")}
    assert names == {name.removesuffix("_total") for name in METRICS}


@pytest.mark.parametrize(
    "accept", ['application/openmetrics-text; version=abc;;;q="', "text/plain; version=x.1"]
)
async def test_plain_text_is_given_where_it_is_unclear_what_is_accepted(
    running: Running, accept: str
) -> None:
    answer = await running.ask("/metrics", headers={"Accept": accept})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"\nitscope_relay_build_info{" in answer.body


async def test_promtool_finds_nothing_to_object_to(running: Running, erp: Receiver) -> None:
    promtool = shutil.which("promtool")
    if promtool is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed")
    assert promtool is not None
    erp.script += [500, 400]
    for number in range(3):
        await running.post({**ORDER, "eventId": str(number)})
    await running.post(b"nonsense")
    text = (await running.ask("/metrics")).body
    process = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate(text)
    assert (process.returncode, output.decode()) == (0, "")


async def test_events_are_counted_by_source_type_and_outcome(running: Running, clock: Clock) -> None:
    before = clock()
    await running.post(ORDER)
    await running.post(ORDER)
    await running.post({**ORDER, "orderId": "other"})
    await running.post({"eventId": "i", "eventType": "INVOICE"})
    await running.post({"eventId": "x", "eventType": "SURPRISE"})
    await running.post({"eventId": "n"})
    await running.post(b"[]")
    samples = await running.metrics()
    counted = {
        (dict(labels)["event_type"], dict(labels)["outcome"]): value
        for (name, labels), value in samples.items()
        if name == "itscope_relay_events_total" and value
    }
    assert counted == {
        ("ORDER", "accepted"): 1,
        ("ORDER", "duplicate"): 2,
        ("ORDER", "quarantined"): 1,
        ("INVOICE", "accepted"): 1,
        ("other", "accepted"): 2,
        ("other", "quarantined"): 1,
    }
    last = await running.metric("itscope_relay_last_event_timestamp_seconds", source="itscope")
    assert before <= last <= clock()


async def test_unrouted_events_are_counted(relay: StartRelay) -> None:
    running = await relay(routes=[{"match": {"eventType": "INVOICE"}, "to": ["erp"]}])
    await running.post(ORDER)
    await running.post(ORDER)
    assert await running.metric("itscope_relay_events_unrouted_total", source="itscope") == 1


async def test_attempts_and_deliveries_are_counted_by_outcome(running: Running, erp: Receiver) -> None:
    erp.script += [500, 302, 200, 422]
    await running.post({"eventId": "1"})
    await running.settled("delivered")
    await running.post({"eventId": "2"})
    await until(lambda: running.deliveries() == [("delivered", 3), ("dead", 1)])

    async def counted() -> bool:
        samples = await running.metrics()
        attempts, deliveries = (
            {
                dict(labels)["outcome"]: value
                for (found, labels), value in samples.items()
                if found == f"itscope_relay_{name}_total"
            }
            for name in ("delivery_attempts", "deliveries")
        )
        return attempts == {"delivered": 1, "retry": 2, "dead": 1} and deliveries == {
            "delivered": 1,
            "dead": 1,
            "discarded": 0,
        }

    await until(counted)
    labels = {"destination": "erp"}
    assert await running.metric("itscope_relay_delivery_attempt_duration_seconds_count", **labels) == 4
    assert await running.metric("itscope_relay_delivery_delay_seconds_count", **labels) == 1
    assert await running.metric("itscope_relay_store_commit_duration_seconds_count") >= 4


async def test_delay_is_counted_from_acceptance_to_delivered(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"retry": {"initial": "1h", "max": "1h"}}})
    erp.script.append(500)
    await running.post()
    await running.attempted(1)
    clock.moved_seconds += 3600
    await running.settled("delivered")
    name = "itscope_relay_delivery_delay_seconds_sum"

    async def delay() -> float:
        return await running.metric(name, destination="erp")

    assert 3600 <= await until(delay) < 3660


async def test_backlog_is_shown_by_state_with_the_age_of_the_oldest(
    relay: StartRelay, erp: Receiver, clock: Clock
) -> None:
    running = await relay(destinations={"erp": {"concurrency": 1, "retry": {"initial": "1h", "max": "1h"}}})
    erp.script += [500, 400, erp.hang]
    for number in range(3):
        await running.post({"eventId": str(number)})
    await erp.arrived(3)
    await until(lambda: running.deliveries() == [("pending", 1), ("dead", 1), ("in_flight", 0)])
    for state in ("pending", "dead", "in_flight"):
        labels = {"destination": "erp", "state": state}
        await until(partial(shown, running, "itscope_relay_backlog", labels, 1))
    clock.moved_seconds += 1000
    assert 1000 <= await running.metric("itscope_relay_backlog_oldest_age_seconds", destination="erp") < 1060

    clock.moved_seconds += 3600
    erp.release.set()
    await until(lambda: running.deliveries() == [("delivered", 2), ("dead", 1), ("delivered", 1)])
    labels = {"destination": "erp", "state": "pending"}
    await until(partial(shown, running, "itscope_relay_backlog", labels, 0))
    assert await running.metric("itscope_relay_backlog_oldest_age_seconds", destination="erp") == 0


async def shown(running: Running, name: str, labels: dict[str, str], value: float) -> bool:
    return await running.metric(name, **labels) == value


async def test_backlog_is_known_after_a_restart(running: Running, erp: Receiver) -> None:
    erp.script += [400, 400]
    await running.post({"eventId": "1"})
    await running.post({"eventId": "2"})
    await running.settled("dead", number=2)
    await running.restart()
    assert await running.metric("itscope_relay_backlog", destination="erp", state="dead") == 2


async def test_build_info_names_the_version(running: Running) -> None:
    assert await running.metric("itscope_relay_build_info", version=__version__) == 1


async def test_labels_stay_few_whatever_clients_send(running: Running) -> None:
    async def labels() -> set[object]:
        return set(await running.metrics())

    await running.post(auth=None)
    await running.post(path="/other")
    await running.post(method="PUT")
    await running.post({"eventId": "first"})
    await running.settled("delivered")
    before = await labels()
    for number in range(20):
        await running.post({"eventId": str(number), "eventType": f"TYPE{number}"})
        await running.post(auth=f"Basic {number}")
        await running.post(path=f"/other/{number}")
        await running.post(method=("PUT", "DELETE")[number % 2])
    assert await labels() == before


# ---- health


async def test_healthy_and_ready(running: Running) -> None:
    healthy, ready = await running.ask("/-/healthy"), await running.ask("/-/ready")
    assert (healthy.status, healthy.json) == (200, {"status": "healthy"})
    assert (ready.status, ready.json) == (200, {"status": "ready"})


async def test_ready_says_nothing_about_destinations(running: Running, erp: Receiver) -> None:
    await erp.stop()
    await running.post()
    await running.attempted(1)
    assert (await running.ask("/-/ready")).status == 200


async def test_who_has_no_login_is_not_told_where_the_database_is(
    relay: StartRelay, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.app.READINESS_EVERY_SECONDS", 0.05)
    with PostgresServer() as server:
        server.start()
        url = server.create_database()
        running = await relay(store={"url": url})

        async def told(reason: str) -> bool:
            answer = await running.ask("/-/ready")
            return answer.status == 503 and answer.json["error"] == reason

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER TABLE probe RENAME TO gone")
            await until(lambda: told("the database refused it"))
            connection.execute("ALTER TABLE gone RENAME TO probe")
        await until(lambda: is_ready(running))
        caplog.clear()
        server.stop()
        await until(lambda: told("the database can't be used: no connection"))
        await until(lambda: [line for line in caplog.records if line.message == "relay.not_ready"])
        (line,) = (line for line in caplog.records if line.message == "relay.not_ready")
        assert f"port {urlsplit(url).port} failed" in vars(line)["fields"]["reason"]


async def is_ready(running: Running) -> bool:
    return (await running.ask("/-/ready")).status == 200


# ---- who may use it


@pytest.mark.parametrize(
    ("path", "method"), [("/metrics", "GET"), ("/-/reload", "POST"), ("/elsewhere", "GET")]
)
async def test_credentials_are_asked_for_where_they_are_configured(
    relay: StartRelay, path: str, method: str
) -> None:
    running = await relay(admin={"auth": [{"username": "admin", "password": "operator-secret"}]})
    for auth in (None, encode_basic_auth("admin", "wrong"), "Bearer x"):
        headers = {} if auth is None else {"Authorization": auth}
        answer = await running.ask(path, method=method, headers=headers)
        refused(answer, 401, folder=running.folder, code="unauthorized")
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="itscope-relay", charset="UTF-8"'
    answer = await running.ask(path, method=method, headers={"Authorization": OPERATOR})
    assert answer.status == (404 if path == "/elsewhere" else 200)


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready"])
async def test_probes_need_no_credentials(relay: StartRelay, path: str) -> None:
    running = await relay(admin={"auth": [{"username": "admin", "password": "operator-secret"}]})
    assert (await running.ask(path)).status == 200


ACCOUNTS = {
    "auth": [
        {"username": "admin", "password": "operator-secret"},
        {"username": "eye", "password": "viewer-secret", "role": "viewer"},
    ]
}
VIEWER = encode_basic_auth("eye", "viewer-secret")


@pytest.mark.parametrize(
    "path",
    [
        *("/-/reload", "/api/v1/destinations/erp/pause", "/api/v1/replay", "/dead/replay"),
        *("/routes/try/x", "/routes/try/", "//routes/try", "/routes%2Ftry", "/routes/try;x"),
    ],
)
async def test_viewer_may_not_change_anything(relay: StartRelay, path: str) -> None:
    running = await relay(admin=ACCOUNTS)
    answer = await running.ask(path, method="POST", headers={"Authorization": VIEWER})
    assert refused(answer, 403, folder=running.folder, code="forbidden") == "viewers may only look"
    answer = await running.ask(path, method="POST", headers={"Authorization": OPERATOR})
    assert answer.status != 403


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "PROPFIND"])
async def test_viewer_may_only_use_methods_that_look(relay: StartRelay, method: str) -> None:
    running = await relay(admin=ACCOUNTS)
    answer = await running.ask("/api/v1/events", method=method, headers={"Authorization": VIEWER})
    refused(answer, 403, folder=running.folder, code="forbidden")


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/events", "/api/v1/changes"])
async def test_viewer_may_look(relay: StartRelay, path: str) -> None:
    running = await relay(admin=ACCOUNTS)
    assert (await running.ask(path, headers={"Authorization": VIEWER})).status == 200


async def test_viewer_may_try_a_payload_against_the_routes(relay: StartRelay) -> None:
    running = await relay(admin=ACCOUNTS)
    answer = await running.ask("/routes/try", method="POST", headers={"Authorization": VIEWER})
    assert answer.status != 403


async def test_role_changes_with_a_reload(relay: StartRelay) -> None:
    running = await relay(admin=ACCOUNTS)

    async def reload() -> int:
        return (await running.ask("/-/reload", method="POST", headers={"Authorization": OPERATOR})).status

    running.config["admin"]["auth"] = [{**ACCOUNTS["auth"][0], "role": "viewer"}]
    running.write()
    assert await reload() == 200
    assert await reload() == 403


async def test_credentials_of_a_source_are_not_those_of_the_operator(relay: StartRelay) -> None:
    running = await relay(admin={"auth": [{"username": "admin", "password": "operator-secret"}]})
    answer = await running.ask("/metrics", headers={"Authorization": RIGHT})
    assert answer.status == 401
    refused(await running.post(auth=OPERATOR), 401, folder=running.folder)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"}, 403),
        ({"Origin": "http://{host}"}, 200),
        ({"Origin": "https://{host}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://{host}.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ],
    ids=str,
)
async def test_page_of_another_site_can_not_reload(
    running: Running, headers: dict[str, str], status: int
) -> None:
    host = "{}:{}".format(*running.admin)
    given = {name: value.format(host=host) for name, value in headers.items()}
    answer = await running.ask("/-/reload", method="POST", headers=given)
    assert answer.status == status
    if status == 403:
        refused(answer, 403, folder=running.folder, code="forbidden")
    assert (await running.ask("/metrics", headers=given)).status == 200  # reading harms nobody


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nowhere", "GET", 404),
        ("/webhooks/itscope", "POST", 404),
        ("/-/reload", "GET", 405),
        ("/metrics", "POST", 405),
        ("/-/healthy", "DELETE", 405),
        ("/%00/../..", "GET", 404),
    ],
)
async def test_errors_are_json(running: Running, path: str, method: str, status: int) -> None:
    answer = await running.ask(path, method=method)
    code = {404: "not-found", 405: "method-not-allowed"}[status]
    refused(answer, status, folder=running.folder, code=code)
    assert ("Allow" in answer.headers) == (status == 405)


async def ask_as(running: Running, host: str, *, path: str = "/api/v1/events", method: str = "GET") -> Answer:
    """Send what a page whose name resolves to loopback makes a browser send."""
    origin = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    return await running.ask(path, method=method, headers={"Host": host, **origin})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("127.1.2.3:8081", 200),
        ("[::1]", 200),
        ("[::1]:8081", 200),
        ("localhost", 200),
        ("LocalHost:8081", 200),
        ("evil.example", 403),
        ("evil.example:1", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("evil.example:80:127.0.0.1", 403),
        ("10.0.0.1", 403),
        ("0.0.0.0:8081", 403),
        ("relay", 403),
        ("", 403),
    ],
)
async def test_name_that_was_made_to_resolve_to_loopback_is_refused(
    running: Running, host: str, status: int
) -> None:
    for path, method in (("/api/v1/events", "GET"), ("/api/v1/destinations/erp/pause", "POST")):
        answer = await ask_as(running, host, path=path, method=method)
        assert answer.status == status
        if status == 403:
            sentence = refused(answer, 403, folder=running.folder, code="forbidden")
            assert sentence.startswith("without admin.auth, only localhost or a loopback address")


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/ready"])
async def test_probes_and_metrics_may_use_any_name(running: Running, path: str) -> None:
    assert (await ask_as(running, "relay.internal:8081", path=path)).status == 200
    assert (await ask_as(running, "relay.internal", path="/-/reload", method="POST")).status == 403


async def test_any_name_will_do_with_logins(relay: StartRelay) -> None:
    running = await relay(admin={"auth": [{"username": "admin", "password": "operator-secret"}]})
    headers = {"Authorization": OPERATOR, "Host": "relay.internal:8081"}
    assert (await running.ask("/api/v1/events", headers=headers)).status == 200
    assert (await ask_as(running, "relay.internal")).status == 401


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic c3VwZXJzZWNyZXQ=\x01\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"c3VwZXJzZWNyZXQ=\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:60]),
)
async def test_bad_http_is_refused_and_not_logged(
    running: Running, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.INFO)
    caplog.clear()
    wire = await running.wire(admin=True)
    await wire.send(sent)
    answer = await wire.answer()
    assert refused(answer, 400, folder=running.folder, code="bad-request") == "the request is not valid HTTP"
    assert "c3Vw" not in answer.body.decode()
    assert answer.headers["Server"] == "itscope-relay"
    assert await wire.rest() == b""
    assert caplog.records == []


async def test_unknown_expectation_is_refused(running: Running) -> None:
    answer = await running.ask("/metrics", headers={"Expect": "miracles"})
    refused(answer, 417, folder=running.folder, code="expectation-failed")


async def test_unknown_method_is_refused(running: Running) -> None:
    refused(
        await running.ask("/metrics", method="PROPFIND"),
        405,
        folder=running.folder,
        code="method-not-allowed",
    )


async def test_failure_of_the_relay_is_told_without_its_reason(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.admin.reading.answer", lambda _fields: 1 / 0)
    answer = await running.ask("/api/v1/events")
    refused(answer, 500, folder=running.folder, code="internal")
