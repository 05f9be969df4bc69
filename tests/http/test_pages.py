"""The pages as a browser without scripts gets them: what stands in them, and what can't get out of them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
import pytest
from aiohttp import encode_basic_auth

from relay.admin.pages import site
from relay.admin.pages.words import NAMES, words_of
from tests.http.conftest import StartReceiver, StartRelay
from tests.http.pages import (
    HTML,
    LINK,
    NASTY,
    SCRIPT,
    TURNED,
    Page,
    assert_safe,
    page,
    read,
    refuse,
    send_form,
)
from tests.http.world import ORDER, Answer, Receiver, Running, until

LONG = "x" * (1 << 20)


@pytest.fixture
async def crm_refuses(relay: StartRelay, receiver_factory: StartReceiver) -> tuple[Running, Receiver]:
    """Run a relay with two destinations, of which one refuses everything with a nasty answer."""
    crm = await receiver_factory()
    crm.otherwise = refuse
    running = await relay(
        server={"max_body": "4MiB"},
        destinations={"crm": {"url": crm.url}},
        routes=[
            {"name": "all", "match": {"eventType": ["ORDER", "DELIVERY"]}, "to": ["erp"]},
            {"name": "notes", "match": {"eventType": "DELIVERY"}, "to": ["crm"]},
        ],
    )
    return running, crm


async def accept_order(running: Running, **more: Any) -> None:
    order = {"orderId": "4711", "itscopeOrderId": "600-1", "transactionStatus": "SENT"}
    for event_type in ("ORDER", "DELIVERY"):
        event = {"eventId": f"e-{event_type}", "eventType": event_type, "documentId": f"d-{event_type}"}
        assert (await running.post({**event, **order, **more})).status == 200
    await until(lambda: [state for state, _ in running.deliveries("crm")] == ["dead"])
    await until(lambda: [state for state, _ in running.deliveries("erp")] == ["delivered"] * 2)


# ---- the frame


@pytest.mark.parametrize("path", ["/", "/find", "/events/1", "/orders/4711"])
async def test_page_has_a_frame_that_everybody_can_use(running: Running, path: str) -> None:
    await running.post()
    found = await page(running, path)
    assert found.all("html") == [{"lang": "en"}]
    assert found.links[0] == "#main"
    assert [one["id"] for one in found.all("main")] == ["main"]
    assert len(found.all("h1")) == 1
    headings = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(headings))
    labelled = {one["for"] for one in found.all("label")}
    for field in [*found.all("input"), *found.all("select")]:
        assert field.get("type") == "hidden" or field["id"] in labelled


async def test_page_speaks_the_browsers_language_or_the_chosen_one(running: Running) -> None:
    assert "Overview" in (await page(running, "/")).text
    german = await page(running, "/", headers={"Accept-Language": "de-DE,de;q=0.9,en;q=0.5"})
    assert german.all("html") == [{"lang": "de"}]
    assert "Übersicht" in german.text
    assert "/language?to=en&back=%2F" in german.links
    chosen = await page(running, "/", headers={"Accept-Language": "de", "Cookie": "language=en"})
    assert chosen.all("html") == [{"lang": "en"}]


async def test_nobody_who_opens_the_first_page_waits_for_it_to_be_prepared(
    relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    class Recording(jinja2.Environment):
        def compile(self, source: Any, name: Any = None, *rest: Any, **more: Any) -> Any:
            compiled.append(name)
            return super().compile(source, name, *rest, **more)

    monkeypatch.setattr(jinja2, "Environment", Recording)
    monkeypatch.setattr(site, "PREPARATION_REST_SECONDS", 0.0)
    words_of.cache_clear()
    running = await relay()
    await until(lambda: len(compiled) == len(site.PREPARED))
    assert words_of.cache_info().currsize == len(NAMES)
    await page(running, "/", headers={"Accept-Language": "de"})
    assert sorted(compiled) == sorted(site.PREPARED)
    assert words_of.cache_info().currsize == len(NAMES)


async def test_choosing_a_language_leads_back(running: Running) -> None:
    answer = await running.ask("/language?to=de&back=/find%3Fq%3D4711", headers=HTML)
    assert answer.status == 303
    assert answer.headers["Location"] == "/find?q=4711"
    assert answer.headers["Set-Cookie"].startswith("language=de;")
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert attribute in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "back",
    ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "", "a\r\nb:c"],
)
async def test_choosing_a_language_leads_nowhere_else(running: Running, back: str) -> None:
    answer = await running.ask(f"/language?to=xx&back={quote(back, safe='')}", headers=HTML)
    assert answer.headers["Location"] == "/"
    assert "Set-Cookie" not in answer.headers


async def test_static_files_are_kept_for_a_year_under_their_marks_only(running: Running) -> None:
    found = await page(running, "/")
    addresses = [one["src"] or "" for one in found.all("script")]
    addresses += [one["href"] or "" for one in found.all("link") if one["rel"] == "stylesheet"]
    assert len(addresses) == 3
    for address in addresses:
        answer = await running.ask(address)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        unmarked = await running.ask(
            address.partition("?")[0], headers={"If-None-Match": answer.headers["ETag"]}
        )
        assert unmarked.status == 304
        assert unmarked.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", ["nothing.css", "..%2Fsite.py", "htmx.LICENSE", "%2Fetc%2Fpasswd"])
async def test_nothing_else_is_a_static_file(running: Running, name: str) -> None:
    assert (await running.ask(f"/static/{name}")).status == 404


# ---- errors


@pytest.mark.parametrize(
    ("path", "status", "code", "said"),
    [
        ("/nowhere", 404, "not-found", "not found"),
        ("/events/12345", 404, "not-found", "there is no event 12345"),
        ("/events/abc", 404, "not-found", "there is no event abc"),
        ("/orders/none-such", 404, "not-found", "no event has this id"),
        ("/orders/%00", 404, "not-found", "no event has this id"),
        ("/find?cursor=abc", 400, "bad-request", "cursor: send back"),
        ("/find?state=lost", 400, "bad-request", "state: must be"),
        (f"/find?q={'x' * 256}", 400, "bad-request", "q: must have at most 255"),
        ("/find?q=1&q=2", 400, "bad-request", "q: is given twice"),
    ],
)
async def test_browser_gets_an_error_as_a_page_and_a_program_as_json(
    running: Running, path: str, status: int, code: str, said: str
) -> None:
    found = await page(running, path, status)
    assert said in found.text
    assert code in found.text
    answer = await running.ask(path, headers={"Accept": "*/*"})
    assert answer.status == status
    assert answer.json["code"] == code
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_api_answers_a_browser_as_json_all_the_same(running: Running) -> None:
    answer = await running.ask("/api/v1/events/12345", headers=HTML)
    assert answer.status == 404
    assert answer.json["code"] == "not-found"


async def test_error_page_asks_for_the_login_and_tells_nothing(relay: StartRelay) -> None:
    login = {"username": "ada", "password": "an-operators-password"}
    running = await relay(admin={"auth": [login]})
    answer = await running.ask("/events/1", headers=HTML)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert "Content-Security-Policy" in answer.headers
    authorization = encode_basic_auth("ada", "an-operators-password")
    found = await page(running, "/", headers={"Authorization": authorization})
    assert "ada" in found.text
    for path in ("/", "/find"):
        shown = await page(running, path, headers={"Authorization": authorization})
        assert "password" not in shown.source.lower()


async def test_address_in_an_error_is_no_markup(running: Running) -> None:
    found = await page(running, f"/events/{quote(NASTY, safe='')}", 404)
    assert "there is no event <script>" in found.text


# ---- who may do what


async def test_page_of_another_site_can_change_nothing(crm_refuses: tuple[Running, Receiver]) -> None:
    running, _ = crm_refuses
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = await send_form(running, "/destinations/crm/pause", headers)
        assert answer.status == 403
    assert "Resume" not in (await page(running, "/")).text


async def test_viewer_is_offered_nothing_and_may_do_nothing(relay: StartRelay) -> None:
    accounts = [
        {"username": "vera", "password": "a-viewers-password", "role": "viewer"},
        {"username": "otto", "password": "an-operators-password"},
    ]
    running = await relay(admin={"auth": accounts})
    await running.post()
    await running.settled("delivered")
    viewer = {"Authorization": encode_basic_auth("vera", "a-viewers-password")}
    operator = {"Authorization": encode_basic_auth("otto", "an-operators-password")}
    for path in ("/", "/events/1"):
        assert [one for one in (await page(running, path, headers=viewer)).forms if one != "/find"] == []
        assert [one for one in (await page(running, path, headers=operator)).forms if one != "/find"] != []
    assert (await send_form(running, "/destinations/erp/pause", viewer)).status == 403
    assert (await send_form(running, "/deliveries/1/replay", viewer)).status == 403
    assert (await send_form(running, "/destinations/erp/pause", operator)).status == 303


# ---- overview


async def test_overview_shows_lanes_sources_and_what_waits(crm_refuses: tuple[Running, Receiver]) -> None:
    running, _ = crm_refuses
    assert "no event from itscope lately" in (await page(running, "/")).text
    await accept_order(running)
    await running.post({"eventId": "e-9", "eventType": "SURPRISE"})
    await running.post(b"{nonsense")
    await page(running, "/")

    async def counted() -> bool:
        text = " ".join((await page(running, "/")).text.split())
        return "1 dead letter 1 unrouted event 1 in quarantine" in text

    await until(counted)
    found = await page(running, "/")
    assert "itscope silent since" in found.text
    assert {"/dead", "/unrouted", "/quarantine", "/dead?destination=crm"} <= set(found.links)


async def test_overview_says_in_a_sentence_whether_everything_flows(running: Running, erp: Receiver) -> None:
    assert "Everything flows" in (await page(running, "/")).text
    await running.post(b"{nonsense")

    async def says(sentence: str) -> bool:
        return sentence in (await page(running, "/")).text

    await until(lambda: says("Everything flows, but something waits for you"))
    erp.otherwise = 503
    await running.post()
    await until(lambda: says("1 destination needs a look"))


async def test_overview_shows_dead_letters_beside_what_their_destination_does(
    crm_refuses: tuple[Running, Receiver],
) -> None:
    running, _ = crm_refuses
    await accept_order(running)
    badges = {
        (one.get("class"), one.get("href"))
        for tag, one in (await page(running, "/")).tags
        if tag in {"a", "span"} and (one.get("class") or "").startswith("badge")
    }
    assert badges == {("badge good", None), ("badge bad", "/dead?destination=crm")}
    assert re.search(r"crm\s+delivering\s+1 dead letter\s", (await page(running, "/")).text)


async def test_overviews_live_part_is_the_same_without_the_frame(running: Running) -> None:
    whole = await page(running, "/")
    part = await running.ask("/", headers={**HTML, "HX-Request": "true"})
    assert_safe(part)
    assert b"<html" not in part.body
    (live,) = [one for one in whole.all("div") if one.get("id") == "live"]
    (again,) = [one for one in Page(part).all("div") if one.get("id") == "live"]
    assert live == again
    assert live["hx-get"] == "/"


async def test_destination_is_paused_and_resumed_with_a_record(running: Running) -> None:
    paused = await send_form(running, "/destinations/erp/pause")
    assert paused.status == 303
    assert paused.headers["Location"] == "/?done=paused"
    assert_safe(paused)
    found = await page(running, paused.headers["Location"])
    assert "The destination is paused." in found.text
    assert "/destinations/erp/resume" in found.forms
    resumed = await send_form(running, "/destinations/erp/resume", back="/find?q=1")
    assert resumed.headers["Location"] == "/find?q=1&done=resumed"
    assert [row[0] for row in running.rows("SELECT action FROM changes ORDER BY id")] == ["pause", "resume"]


async def test_unknown_destination_is_an_error_page(running: Running) -> None:
    answer = await send_form(running, "/destinations/epr/pause")
    assert answer.status == 404
    assert "did you mean" in Page(answer).text


async def test_form_leads_back_to_this_site_only(running: Running) -> None:
    answer = await send_form(running, "/destinations/erp/pause", back="//evil.example/")
    assert answer.headers["Location"] == "/?done=paused"


async def test_said_is_only_what_the_pages_know(running: Running) -> None:
    found = await page(running, f"/?done={quote('Call 0190 666', safe='')}")
    assert "0190" not in found.text


async def test_form_that_is_none_is_refused(running: Running) -> None:
    answer = await running.ask(
        "/destinations/erp/pause",
        method="POST",
        headers={**HTML, "Content-Type": "application/json"},
        data=b"{}",
    )
    assert answer.status == 415


# ---- find


@pytest.mark.parametrize("id_", ["4711", "600-1", "d-DELIVERY", "e-DELIVERY"])
async def test_event_is_found_by_any_id(crm_refuses: tuple[Running, Receiver], id_: str) -> None:
    running, _ = crm_refuses
    await accept_order(running)
    found = await page(running, f"/find?q={id_}")
    assert "Events with exactly this id" in found.text
    assert "/events/2" in found.links
    assert "/orders/4711" in found.links
    beginning = await page(running, f"/find?q={id_[:-1]}")
    assert "Events with an id that begins so" in beginning.text
    assert "/events/2" in beginning.links


async def test_empty_fields_of_the_form_are_no_filter(running: Running) -> None:
    await running.post()
    found = await page(running, "/find?q=&type=&status=&source=&state=&destination=&since=&until=&cursor=")
    assert "/events/1" in found.links


async def test_filters_narrow_the_list(crm_refuses: tuple[Running, Receiver]) -> None:
    running, _ = crm_refuses
    await accept_order(running)
    for query, numbers in {
        "type=ORDER": {1},
        "state=dead": {2},
        "destination=crm": {2},
        "state=unrouted": set(),
        "status=SENT&since=1h": {1, 2},
        "until=1h": set(),
    }.items():
        found = await page(running, f"/find?{query}")
        shown = {number for number in (1, 2) if f"/events/{number}" in found.links}
        assert shown == numbers, query
        name, _, value = query.partition("&")[0].partition("=")
        assert name == "status" or {"value": value, "selected": None} in found.all("option")


async def test_list_goes_on_where_it_ended_the_newest_first(running: Running) -> None:
    for number in range(120):
        await running.post({"eventId": f"e-{number:03}", "orderId": "4711"})
    address, seen = "/find?q=4711", []
    while address:
        found = await page(running, address)
        seen += [int(link[8:]) for link in found.links if re.fullmatch("/events/[0-9]+", link)]
        address = next((one["href"] or "" for one in found.all("a") if one.get("rel") == "next"), "")
    assert seen == list(range(120, 0, -1))


async def test_search_that_takes_long_says_how_far_it_came(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.admin.pages.find.SEARCH_SECONDS", -1.0)
    for number in range(60):
        await running.post({"eventId": f"e-{number}"})
    found = await page(running, "/find")
    assert len([link for link in found.links if link.startswith("/events/")]) <= 50
    assert any(one.get("rel") == "next" for one in found.all("a"))


# ---- order


async def test_order_shows_what_has_come_and_where_it_stands(crm_refuses: tuple[Running, Receiver]) -> None:
    running, _ = crm_refuses
    await accept_order(running)
    for id_ in ("4711", "600-1", "d-ORDER", "e-DELIVERY"):
        found = await page(running, f"/orders/{id_}")
        kinds, course = found.text.split("In order of acceptance")
        assert re.search(r"Purchase order\s+ORDER\s+delivered", kinds)
        assert re.search(r"Order response\s+ORDERRESPONSE\s+has not come", kinds)
        assert re.search(r"Delivery note\s+DELIVERY\s+came, but was not delivered", kinds)
        assert re.search(r"Invoice\s+INVOICE\s+has not come", kinds)
        assert course.index("ORDER · SENT") < course.index("DELIVERY · SENT") < course.index("HTTP 422")
        assert "<script>alert(1)</script>javascript:alert(2)[U+202E]" in course


@pytest.mark.parametrize("id_", ["PO/47 11?#%&", "..", ".", "a\\b", "ä€😀", "{id}", NASTY, "1" * 255])
async def test_order_of_any_name_has_a_page_that_the_search_leads_to(running: Running, id_: str) -> None:
    await running.post({**ORDER, "orderId": id_})
    found = await page(running, f"/find?{urlencode({'q': id_})}")
    assert "/events/1" in found.links
    (link,) = {link for link in found.links if link.startswith("/orders/") or link == f"/find?q={id_}"}
    assert "/events/1" in (await page(running, link)).links


async def test_order_with_very_many_events_says_that_there_are_more(running: Running) -> None:
    for number in range(110):
        await running.post({"eventId": f"e-{number}", "eventType": "ORDER", "orderId": "SAMPLE"})
    found = await page(running, "/orders/SAMPLE")
    assert "There are more events" in found.text
    assert "/events/110" in found.links
    assert "/events/1" not in found.links


# ---- event


async def test_event_shows_payload_routes_and_answers(crm_refuses: tuple[Running, Receiver]) -> None:
    running, _ = crm_refuses
    await accept_order(running, amount=json.loads("1.50"))
    found = await page(running, "/events/2")
    assert '"eventType": "DELIVERY"' in found.text
    assert "everything under match holds" in found.text
    assert "HTTP 422" in found.text
    assert "<script>alert(1)</script>" in found.text
    assert "/api/v1/events/2/body" in found.links
    assert '"SENT"' in found.text


async def test_event_says_in_german_why_it_goes_where_it_goes(running: Running) -> None:
    await running.post()
    found = await page(running, "/events/1", headers={"Accept-Language": "de"})
    assert "alles unter match trifft zu" in found.text
    assert "holds" not in found.text


async def test_dead_delivery_is_replayed_by_a_form(crm_refuses: tuple[Running, Receiver]) -> None:
    running, crm = crm_refuses
    await accept_order(running)
    found = await page(running, "/events/2")
    replays = [form for form in found.forms if form.endswith("/replay")]
    crm.otherwise = 200
    (number,) = [row[0] for row in running.rows("SELECT id FROM deliveries WHERE destination = 'crm'")]
    assert f"/deliveries/{number}/replay" in replays
    answer = await send_form(running, f"/deliveries/{number}/replay")
    assert answer.headers["Location"] == "/events/2?done=replayed"
    await until(lambda: ("delivered", 1) in running.deliveries("crm"))
    assert "It is being delivered again." in (await page(running, answer.headers["Location"])).text


async def test_what_was_delivered_is_delivered_again_only_when_that_is_confirmed(
    crm_refuses: tuple[Running, Receiver],
) -> None:
    running, _ = crm_refuses
    await accept_order(running)
    asked = read(await send_form(running, "/deliveries/1/replay", back="/events/1?x=y"))
    assert "It may book it twice" in asked.text
    assert "/orders/4711" in asked.links
    assert "/events/1?x=y" in asked.links
    assert [state for state, _ in running.deliveries("erp")] == ["delivered"] * 2
    fields = {one["name"] or "": one["value"] or "" for one in asked.all("input")}
    (action,) = asked.forms
    answer = await send_form(running, action, None, **fields)
    assert answer.headers["Location"] == "/events/1?x=y&done=replayed"
    await running.settled("delivered", "erp", 3)
    twice = read(await send_form(running, action, None, **fields))  # as a second click sends it
    assert "It may book it twice" in twice.text
    assert [state for state, _ in running.deliveries("erp")] == ["delivered"] * 3


async def replay_to_crm(running: Running, crm: Receiver) -> int:
    """Have an order accepted, and what died at crm delivered after all; return the number of what died."""
    await accept_order(running)
    (number,) = [row[0] for row in running.rows("SELECT id FROM deliveries WHERE destination = 'crm'")]
    crm.otherwise = 200
    await send_form(running, f"/deliveries/{number}/replay")
    await until(lambda: ("delivered", 1) in running.deliveries("crm"))
    return int(number)


async def test_page_that_is_out_of_date_does_not_deliver_twice(
    crm_refuses: tuple[Running, Receiver],
) -> None:
    """Two operators see a dead letter, and both have it delivered again."""
    running, crm = crm_refuses
    number = await replay_to_crm(running, crm)
    asked = read(await send_form(running, f"/deliveries/{number}/replay"))
    assert "It may book it twice" in asked.text
    assert len(running.deliveries("crm")) == 2


@pytest.mark.parametrize("path", ["/events/2", "/orders/4711"])
async def test_delivery_that_was_replayed_is_closed_and_leads_to_the_newer_one(
    crm_refuses: tuple[Running, Receiver], path: str
) -> None:
    running, crm = crm_refuses
    number = await replay_to_crm(running, crm)
    found = await page(running, path)
    assert f"/events/2#delivery-{number + 1}" in found.links
    assert re.search(rf"crm\s+closed.*Replayed as delivery {number + 1}\b", found.text, re.DOTALL)
    assert "discarded" not in found.text


async def test_reason_that_an_operator_gives_makes_no_delivery_a_replayed_one(
    crm_refuses: tuple[Running, Receiver],
) -> None:
    running, _ = crm_refuses
    await accept_order(running)
    ids = dict(running.rows("SELECT destination, id FROM deliveries WHERE event = 2"))
    await send_form(running, f"/deliveries/{ids['crm']}/discard", reason=f"replayed as {ids['erp']}")
    found = await page(running, "/events/2")
    assert "Replayed as" not in found.text
    assert "discarded" in found.text


async def test_dead_delivery_is_discarded_for_a_reason(crm_refuses: tuple[Running, Receiver]) -> None:
    running, _ = crm_refuses
    await accept_order(running)
    (number,) = [row[0] for row in running.rows("SELECT id FROM deliveries WHERE destination = 'crm'")]
    without = await send_form(running, f"/deliveries/{number}/discard", reason=" ")
    assert without.status == 400
    assert "reason: is required" in Page(without).text
    answer = await send_form(running, f"/deliveries/{number}/discard", reason=NASTY)
    assert answer.status == 303
    found = await page(running, "/events/2")
    assert "discarded" in found.text
    assert SCRIPT in found.text
    assert (await send_form(running, f"/deliveries/{number}/discard", reason="again")).status == 409


async def test_texts_of_strangers_are_shown_harmlessly(crm_refuses: tuple[Running, Receiver]) -> None:
    running, _ = crm_refuses
    names = ("orderId", "itscopeOrderId", "documentId", "transactionId", "transactionStatus")
    nasty = dict.fromkeys(names, NASTY)
    await running.post({"eventId": NASTY, "eventType": NASTY, "documentUrl": LINK, "deep": [NASTY], **nasty})
    await accept_order(running, orderId=NASTY, documentId=TURNED, note=NASTY)
    await running.post({"eventId": "long", "eventType": "DELIVERY", "orderId": LONG, "note": LONG})
    await running.post(json.dumps({"eventType": "ORDER", LONG[: 1 << 19]: [LONG[: 1 << 18]] * 2}).encode())
    nothing = {"/", "/events/5"}
    searched, order = f"/find?{urlencode({'q': NASTY})}", f"/orders/{quote(NASTY, safe='')}"
    for path in ("/", "/find", searched, order, *(f"/events/{number}" for number in range(1, 6))):
        found = await page(running, path)  # which looks for markup, links and marks
        assert len(found.source) < 400_000
        assert (SCRIPT in found.text) == (path not in nothing), path
    assert "Only the beginning is shown" in (await page(running, "/events/4")).text


async def test_body_that_is_no_json_is_shown_as_text(running: Running) -> None:
    await running.post(b'{"eventType": "ORDER", "note": "\xff\xfe<script>", "twice": 1, "twice": 2}')
    answer = await send_form_json(running, "/api/v1/quarantine/1/release")
    assert answer.status == 200
    found = await page(running, f"/events/{answer.json['event']}")
    assert "<script>" in found.text
    assert "\ufffd" in found.text


async def send_form_json(running: Running, path: str) -> Answer:
    return await running.ask(path, method="POST", headers={"Content-Type": "application/json"}, data=b"{}")
