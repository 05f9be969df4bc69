"""The pages for dead letters, unrouted events, quarantine, routes and the audit, without scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from aiohttp import encode_basic_auth

from relay.admin.pages import sweeping
from relay.admin.pages.settings import masked
from relay.samples import DOCUMENTED_SAMPLE
from tests.http.conftest import StartReceiver, StartRelay
from tests.http.pages import FORM, NASTY, Page, page, read, refuse, send_form
from tests.http.world import Receiver, Running, until

SECRET = "s3cret-of-nobody"
NUMBER = 5


@pytest.fixture
async def refused(relay: StartRelay, receiver_factory: StartReceiver) -> tuple[Running, Receiver]:
    """Run a relay with some dead letters for its CRM, one event that is unrouted, and one in quarantine."""
    crm = await receiver_factory()
    crm.otherwise = refuse
    running = await relay(
        destinations={"crm": {"url": crm.url}},
        routes=[
            {"name": "notes", "match": {"eventType": "DELIVERY"}, "to": ["crm"]},
            {"name": "orders", "match": {"eventType": "ORDER"}, "except": {"orderId": "*X*"}, "to": ["erp"]},
        ],
    )
    for number in range(NUMBER):
        status = "ADVISED" if number else "LATE"
        await post(running, f"e-{number}", "DELIVERY", transactionStatus=status, orderId=f"PO-{number}")
    await post(running, "e-unrouted", NASTY, transactionStatus=NASTY, orderId=NASTY)
    assert (await running.post(f"{{{NASTY}\x00".encode())).status == 400
    await running.settled("dead", "crm", NUMBER)
    return running, crm


async def post(running: Running, event_id: str, event_type: str, **more: Any) -> None:
    event = {"eventId": event_id, "eventType": event_type, **more}
    assert (await running.post(json.dumps(event).encode())).status == 200


def hidden(found: Page, **more: str) -> dict[str, str]:
    """Return what a form would send, with more."""
    fields = {
        one["name"] or "": one["value"] or "" for one in found.all("input") if one.get("type") == "hidden"
    }
    return {**fields, **more}


async def step(running: Running, path: str, found: Page | None = None, **more: str) -> Page:
    return read(await send_form(running, path, None, **(hidden(found, **more) if found else more)))


async def changes(running: Running) -> list[tuple[str, int, Mapping[str, Any]]]:
    """Return what was changed by hand, the first first."""
    found = (await running.ask("/api/v1/changes")).json["changes"]
    return [(one["action"], one["number"], one["detail"]) for one in reversed(found)]


# ---- dead letters


async def test_dead_letters_are_grouped_and_listed(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    found = await page(running, "/dead")
    assert "HTTP 422" in found.text
    assert "<script>alert(1)</script>" in found.text  # the CRM's answer, as text
    assert "/dead?destination=crm" in found.links
    assert found.forms == ["/dead", "/dead/replay", "/dead/discard"]
    assert sum(link.startswith("/events/") for link in found.links) == NUMBER
    late = await page(running, "/dead?status=LATE")
    assert sum(link.startswith("/events/") for link in late.links) == 1
    assert hidden(late) == {"status": "LATE"}
    assert "Nothing was found." in (await page(running, "/dead?destination=erp")).text


async def test_list_of_dead_letters_names_their_orders(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    await post(running, "e-bought", "DELIVERY", itscopeOrderId=NASTY)
    await running.settled("dead", "crm", NUMBER + 1)
    found = await page(running, "/dead")
    assert {f"/orders/PO-{number}" for number in range(NUMBER)} <= {*found.links}
    assert f"/orders/{quote(NASTY, safe='')}" in found.links  # where there is no other, ITscope's own


async def test_list_of_dead_letters_begins_with_what_it_is_sorted_by(
    refused: tuple[Running, Receiver],
) -> None:
    """A replay dies after all others, but its event came before them."""
    running, _ = refused
    assert (await running.ask("/api/v1/deliveries/1/replay", method="POST")).status == 200
    await until(lambda: [state for state, _ in running.deliveries("crm")][NUMBER:] == ["dead"])
    found = await page(running, "/dead")
    assert [link for link in found.links if link.startswith("/events/")][-1] == "/events/1#delivery-6"
    times = [one["datetime"] or "" for one in found.all("time")][-2 * NUMBER :]
    received_at, died_at = times[0::2], times[1::2]
    assert received_at == sorted(received_at, reverse=True)
    assert max(died_at) == died_at[-1]


async def test_page_without_dead_letters_says_so(running: Running) -> None:
    found = await page(running, "/dead")
    assert "There are no dead letters." in found.text
    assert found.forms == []


async def test_counting_changes_nothing_and_tells_which_destination_gets_how_many(
    refused: tuple[Running, Receiver],
) -> None:
    running, _ = refused
    counted = await step(running, "/dead/replay", destination="crm", pace="100/s")
    assert "5 dead letters would be delivered again" in counted.text
    assert "crm" in counted.text
    assert [state for state, _ in running.deliveries("crm")] == ["dead"] * NUMBER
    assert await changes(running) == []
    assert hidden(counted)["until"]  # what dies from now on isn't meant
    assert hidden(counted)["total"] == "5"


async def test_dead_letters_are_replayed_once_that_is_confirmed(refused: tuple[Running, Receiver]) -> None:
    running, crm = refused
    crm.otherwise = 200
    counted = await step(running, "/dead/replay", destination="crm", pace="1000/s")
    done = await step(running, "/dead/replay", counted, confirmed="true")
    assert "5 dead letters are being delivered again" in done.text
    assert "finished" in done.text
    await until(lambda: [state for state, _ in running.deliveries("crm")][NUMBER:] == ["delivered"] * NUMBER)
    ((action, number, detail),) = await changes(running)
    assert (action, number) == ("replay", NUMBER)
    assert detail["filter"].keys() == {"state", "destination", "until"}


async def test_what_dies_after_it_was_counted_is_not_replayed(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    counted = await step(running, "/dead/discard", reason="old")
    await post(running, "e-later", "DELIVERY")
    await running.settled("dead", "crm", NUMBER + 1)
    done = await step(running, "/dead/discard", counted, confirmed="true")
    assert "5 deliveries were discarded" in done.text
    assert [state for state, _ in running.deliveries("crm")] == ["discarded"] * NUMBER + ["dead"]


async def test_discarding_wants_a_reason(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    answer = await send_form(running, "/dead/discard", destination="crm", reason="  ")
    assert "reason" in read(answer, 400).text
    assert [state for state, _ in running.deliveries("crm")] == ["dead"] * NUMBER


async def test_repair_goes_on_step_by_step_until_it_is_stopped(
    refused: tuple[Running, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(sweeping, "USUAL_STEP", 2)
    running, _ = refused
    counted = await step(running, "/dead/discard", reason="old")
    first = await step(running, "/dead/discard", counted, confirmed="true")
    assert "2 deliveries were discarded" in first.text
    assert "under way" in first.text
    (state,) = [one for one in first.all("div") if one.get("id") == "state"]
    assert state["hx-post"] == "/dead/discard"
    stopped = await step(running, "/dead/discard", first, stop="true")
    assert "2 deliveries were discarded" in stopped.text
    assert "stopped" in stopped.text
    assert not [one for one in stopped.all("div") if "hx-post" in one]
    assert [state for state, _ in running.deliveries("crm")].count("discarded") == 2
    found = stopped
    for expected in (4, 5):
        found = await step(running, "/dead/discard", found)
        assert f"{expected} deliveries were discarded" in found.text
    assert "finished" in found.text
    ((action, number, _),) = await changes(running)
    assert (action, number) == ("discard", NUMBER)


async def test_browser_with_scripts_gets_a_part_of_the_page(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    answer = await send_form(running, "/dead/replay", {"HX-Request": "true"}, destination="crm")
    found = read(answer)
    assert not found.all("html")
    assert [one.get("id") for one in found.all("div")][:1] == ["state"]


@pytest.mark.parametrize(
    "fields",
    [{"cursor": "x"}, {"tally": "{"}, {"tally": '{"a": -1}'}, {"done": "many"}, {"since": "yesterday"}],
)
async def test_form_that_nobody_was_given_is_refused(
    refused: tuple[Running, Receiver], fields: dict[str, str]
) -> None:
    running, _ = refused
    read(await send_form(running, "/dead/replay", None, destination="crm", **fields), 400)


async def test_progress_of_one_repair_is_none_of_another(
    refused: tuple[Running, Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(sweeping, "MAX_STEP", 2)
    running, _ = refused
    counting = await step(running, "/dead/replay", destination="crm")
    cursor = hidden(counting)["cursor"]
    read(await send_form(running, "/dead/replay", destination="erp", cursor=cursor), 400)


# ---- unrouted


async def test_unrouted_events_are_delivered_where_somebody_says(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    found = await page(running, "/unrouted")
    assert "unknown kind" in found.text
    assert "<script>alert(1)</script>" in found.text
    assert found.forms == ["/unrouted", "/unrouted/deliver"]
    nowhere = await step(running, "/unrouted/deliver")
    assert "0 deliveries would be made" in nowhere.text
    assert not [one for one in nowhere.all("button") if one.get("name") == "confirmed"]
    assert "By the routes in force, none of these goes anywhere." in nowhere.text
    assert nowhere.links.count("/routes") == 2  # in the frame, and there
    counted = await step(running, "/unrouted/deliver", to="erp")
    assert "By the routes in force" not in counted.text
    assert "1 delivery would be made" in counted.text
    await step(running, "/unrouted/deliver", counted, confirmed="true")
    await running.settled("delivered", "erp")
    assert "Every event had a destination." in (await page(running, "/unrouted")).text


async def test_unrouted_events_are_delivered_by_the_routes_in_force(
    refused: tuple[Running, Receiver],
) -> None:
    running, _ = refused
    running.config["routes"].append({"name": "rest", "to": ["erp"]})
    running.write()
    assert (await running.ask("/-/reload", method="POST")).status == 200
    counted = await step(running, "/unrouted/deliver")
    assert "1 delivery would be made" in counted.text
    await step(running, "/unrouted/deliver", counted, confirmed="true")
    await running.settled("delivered", "erp")


# ---- quarantine


async def test_quarantined_request_is_shown_harmlessly(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    found = await page(running, "/quarantine")
    assert "not JSON" in found.text
    assert "/quarantine/1" in found.links
    one = await page(running, "/quarantine/1")
    assert "<script>alert(1)</script>" in one.text
    assert "[U+202E]" in one.text
    assert "[U+0000]" in one.text
    assert "/api/v1/quarantine/1/body" in one.links
    download = await running.ask("/api/v1/quarantine/1/body")
    assert download.headers["Content-Disposition"].startswith("attachment")
    assert (await running.ask("/quarantine/2", headers=FORM)).status == 404


async def test_long_body_in_quarantine_is_cut(running: Running) -> None:
    await running.post(b"x" * 500_000)
    found = await page(running, "/quarantine/1")
    assert "Only the beginning is shown." in found.text
    assert "500,000 bytes" in found.text
    assert len(found.source) < 100_000


async def test_quarantined_request_is_released_to_chosen_destinations(
    refused: tuple[Running, Receiver],
) -> None:
    running, _ = refused
    fields = urlencode([("where", "chosen"), ("to", "erp"), ("to", "crm")]).encode()
    answer = await running.ask("/quarantine/1/release", method="POST", headers=FORM, data=fields)
    assert answer.status == 303
    assert answer.headers["Location"].endswith("done=released")
    await running.settled("delivered", "erp")
    await running.settled("dead", "crm", NUMBER + 1)
    assert running.quarantine() == []
    assert "Nothing is in quarantine." in (await page(running, "/quarantine")).text


async def test_release_to_chosen_destinations_wants_one(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    read(await send_form(running, "/quarantine/1/release", where="chosen"), 400)
    assert len(running.quarantine()) == 1


async def test_request_may_be_released_to_as_many_destinations_as_the_api_takes(
    refused: tuple[Running, Receiver],
) -> None:
    running, _ = refused
    fields = urlencode([("where", "chosen"), *(("to", f"crm-{number}") for number in range(100))])
    answer = await running.ask("/quarantine/1/release", method="POST", headers=FORM, data=fields.encode())
    assert "crm-0" in read(answer, 422).text  # there is none; but the form was read


async def test_release_by_the_routes_may_leave_an_event_unrouted(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    answer = await send_form(running, "/quarantine/1/release", where="routes", to="erp")
    assert answer.status == 303
    assert "No route wanted it." in (await page(running, answer.headers["Location"])).text


async def test_conflicting_duplicate_that_was_released_before_stays(running: Running) -> None:
    for body in (b"[1]", b"[1]"):
        await running.post(body)
        await send_form(running, "/quarantine/1/release")
    (id_,) = [row[0] for row in running.rows("SELECT id FROM quarantine")]
    answer = await send_form(running, f"/quarantine/{id_}/release")
    assert answer.headers["Location"] == f"/quarantine/{id_}?done=duplicate"
    assert "It is a duplicate" in (await page(running, answer.headers["Location"])).text


async def test_quarantined_request_is_discarded_with_a_reason(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    read(await send_form(running, "/quarantine/1/discard"), 400)
    answer = await send_form(running, "/quarantine/1/discard", reason=NASTY)
    assert answer.headers["Location"] == "/quarantine?done=discarded"
    assert running.quarantine() == []
    audit = await page(running, "/audit")
    assert "discarded from quarantine" in audit.text
    assert "<script>alert(1)</script>" in audit.text


# ---- routes


async def test_routes_page_shows_the_configuration_without_a_secret(
    relay: StartRelay, receiver_factory: StartReceiver
) -> None:
    address = (await receiver_factory()).url
    running = await relay(
        destinations={
            "crm": {
                "url": f"{address}/{SECRET}-0123456789?token={SECRET}&{SECRET}",
                "headers": {"X-Key": SECRET},
                "auth": {"type": "header", "name": "X-Auth", "value": SECRET},
                "rate_limit": "100/min",
                "order_by": "orderId",
                "hold": ["Sun 02:00-05:00 Europe/Berlin"],
            }
        },
        admin={"auth": [{"username": "ada", "password": SECRET}]},
        sources={
            "itscope": {
                "path": f"/hooks/{SECRET}-0123456789",
                "auth": [{"username": "u", "password": SECRET}],
            }
        },
        routes=[{"name": "all", "match": {"eventType": ["ORDER", "IN*"]}, "to": ["crm"], "stop": True}],
    )
    login = {"Authorization": encode_basic_auth("ada", SECRET)}
    found = await page(running, "/routes", headers=login)
    for told in (
        "X-Key",
        "X-Auth",
        "100/min",
        "orderId",
        "Sun 02:00-05:00",
        "2xx",
        "ORDER, IN*",
        "stops here",
    ):
        assert told in found.text, told
    assert SECRET not in found.source
    assert "wonderful-secret" not in found.source


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://erp.example/api/itscope", "https://erp.example/api/itscope"),
        ("https://u:p@erp.example:8443/api", "https://…@erp.example:8443/api"),
        ("https://erp.example/?sig=abc&v=1", "https://erp.example/?sig=…&v=…"),
        ("https://erp.example/?abc", "https://erp.example/?…"),
        ("https://erp.example/?abc&v=1", "https://erp.example/?…&v=…"),
        ("https://hooks.example/T0123456789ABCDEF/x", "https://hooks.example/…/x"),
        ("https://erp.example/webhooks/purchase-orders", "https://erp.example/webhooks/purchase-orders"),
        ("http://[::1]:8080/x#frag", "http://[::1]:8080/x"),
    ],
)
def test_what_may_be_a_secret_in_a_url_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


async def test_payload_is_tried_as_the_command_does(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    payload = {"eventType": "ORDER", "orderId": "1X1", "note": NASTY}
    found = read(await send_form(running, "/routes/try", source="itscope", payload=json.dumps(payload)))
    assert 'eventType is "ORDER", not "DELIVERY"' in found.text
    assert "everything under except holds" in found.text
    assert "no destination" in found.text
    taken = read(await send_form(running, "/routes/try", take="true", payload="{"))
    assert "It goes to" in taken.text
    assert DOCUMENTED_SAMPLE.decode().strip() in taken.text
    assert running.events() == running.events()[: NUMBER + 1]
    wrong = read(await send_form(running, "/routes/try", payload="{"))
    assert "the body is not JSON" in wrong.text


async def test_every_sample_can_be_tried(running: Running) -> None:
    found = await page(running, "/routes")
    names = [one["value"] or "" for one in found.all("option") if " " in (one["value"] or "")]
    assert len(names) == 7
    for name in names:
        taken = read(await send_form(running, "/routes/try", take="true", sample=name))
        assert json.dumps(name.split(" ")[1]) in taken.text


async def test_route_that_never_matched_stands_out(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    assert "No match was counted yet." in (await page(running, "/routes")).text
    today = f"{datetime.fromtimestamp(running.clock(), UTC):%Y-%m-%d}"
    await running.relay._store.add_matches(today, {"notes": 1234})
    found = await page(running, "/routes")
    assert "1,234 events" in found.text
    assert found.text.count(f"never matched since {today}") == 1


# ---- audit, and what all have in common


async def test_audit_calls_only_a_second_delivery_one_again(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    for path, fields in (("/unrouted/deliver", {"to": "erp"}), ("/dead/replay", {"destination": "crm"})):
        counted = await step(running, path, None, **fields)
        await step(running, path, counted, confirmed="true")
    shown = re.findall("anonymous(delivered(?: again)?)", (await page(running, "/audit")).text)
    assert shown == ["delivered again", "delivered"]


async def test_audit_says_in_german_what_was_asked_for(refused: tuple[Running, Receiver]) -> None:
    running, _ = refused
    counted = await step(running, "/dead/discard", destination="crm", reason="{old}")
    await step(running, "/dead/discard", counted, confirmed="true")
    german = (await page(running, "/audit", headers={"Accept-Language": "de"})).text
    for told in ("Zustand gescheitert", "Ziel crm", "Eingegangen vor", "Grund {old}"):
        assert told in german, told
    assert not re.search("filter|reason|state", german)


async def test_audit_is_shown_page_by_page(running: Running) -> None:
    for _ in range(30):
        for action in ("pause", "resume"):
            await running.ask(f"/api/v1/destinations/erp/{action}", method="POST")
    found = await page(running, "/audit")
    assert found.text.count("Destination erp") == 50
    (further,) = [link for link in found.links if "cursor=" in link]
    rest = await page(running, further)
    assert rest.text.count("Destination erp") == 10
    assert "anonymous" in rest.text


@pytest.mark.parametrize("path", ["/dead", "/unrouted", "/quarantine", "/quarantine/1", "/routes", "/audit"])
async def test_page_is_sound_and_speaks_german(refused: tuple[Running, Receiver], path: str) -> None:
    running, _ = refused
    found = await page(running, path)
    assert len(found.all("h1")) == 1
    labelled = {one["for"] for one in found.all("label") if "for" in one}
    for field in [*found.all("input"), *found.all("select"), *found.all("textarea")]:
        assert field.get("type") in {"hidden", "radio", "checkbox"} or field["id"] in labelled
    german = await page(running, path, headers={"Accept-Language": "de"})
    assert german.all("html") == [{"lang": "de"}]
    assert german.text != found.text


async def test_viewer_is_offered_nothing_that_changes_anything(relay: StartRelay) -> None:
    running = await relay(
        admin={"auth": [{"username": "eve", "password": SECRET, "role": "viewer"}]},
        routes=[{"match": {"eventType": "X"}, "to": ["erp"]}],
    )
    login = {"Authorization": encode_basic_auth("eve", SECRET)}
    await running.post()
    await running.post(b"[]")
    for path, forms in (("/dead", []), ("/unrouted", ["/unrouted"]), ("/quarantine/1", [])):
        assert (await page(running, path, headers=login)).forms == forms
    answer = await send_form(running, "/routes/try", login, take="true")
    assert "no destination" in read(answer).text
    for path in ("/unrouted/deliver", "/quarantine/1/release", "/dead/discard"):
        read(await send_form(running, path, login, reason="x"), 403)


@pytest.mark.parametrize("path", ["/dead/replay", "/unrouted/deliver", "/quarantine/1/discard"])
async def test_form_of_another_site_is_refused(refused: tuple[Running, Receiver], path: str) -> None:
    running, _ = refused
    read(await send_form(running, path, {"Sec-Fetch-Site": "cross-site"}, reason="x"), 403)
    assert await changes(running) == []
