"""The pages for repairs in a real browser: bulk replay, quarantine, routes, and how all of them are made."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Locator, Page, expect

from tests.e2e.browser import CHROMIUM, browser
from tests.e2e.receiver import Receive
from tests.e2e.relay_process import Start, event, until, write_config
from tests.e2e.room import NASTY, Room

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt install chromium)")

NUMBER = 150  # of dead letters: some steps, and more than one answer
SECRET = "T0K3N-that-is-nobodys-business"
ADDRESSES = (
    "/dead",
    "/dead?destination=crm",
    "/unrouted",
    "/quarantine",
    "/quarantine/1",
    "/routes",
    "/audit",
)


@pytest.fixture
async def room(tmp_path: Path, start: Start, receive: Receive, client: aiohttp.ClientSession) -> Room:
    """Run a relay with many dead letters, unrouted events, and something in quarantine."""
    erp, crm = await receive(), await receive()
    config = write_config(
        tmp_path,
        {"erp": erp.url, "crm": {"url": f"{crm.url}?sig={SECRET}", "headers": {"X-Key": SECRET}}},
        routes=[
            {"name": "orders", "match": {"eventType": "ORDER"}, "to": ["erp"]},
            {"name": "notes", "match": {"eventType": "DELIVERY"}, "to": ["crm"]},
        ],
    )
    room = Room(await start(config), client)
    crm.script = room.answer_for_crm
    for number in range(NUMBER):
        await room.relay.post(client, event(eventType="DELIVERY", orderId=f"PO-{number}"))
    for kind in ("RETURN", NASTY):
        await room.relay.post(client, event(eventType=kind, orderId=NASTY, transactionStatus=NASTY))
    await room.relay.post(client, f"{{{NASTY}".encode())
    await until(lambda: room.relay.owes_nothing(client))
    return room


async def dead(room: Room) -> float:
    return await room.relay.metric(room.client, "itscope_relay_backlog", 'destination="crm"', 'state="dead"')


async def audit(room: Room) -> list[tuple[str, int]]:
    async with room.client.get(room.address("/api/v1/changes")) as answer:
        return [(one["action"], one["number"]) for one in (await answer.json())["changes"]]


async def confirm_replay(page: Page, room: Room, pace: str) -> None:
    """Have all dead letters of the CRM counted, and begin to replay them."""
    await page.goto(room.address("/dead?destination=crm"))
    await page.get_by_text("Deliver all of these again…").click()
    await page.get_by_label("Pace, so that the destination can keep up").fill(pace)
    await page.get_by_role("button", name="Count first").first.click()
    await expect(
        page.get_by_role("heading", name=f"{NUMBER} dead letters would be delivered")
    ).to_be_visible()
    assert await audit(room) == []
    await page.get_by_role("button", name=f"Deliver {NUMBER} dead letters again").click()


async def lines(found: Locator) -> list[int]:
    """Return on how many lines each of some texts stands."""
    counted: list[int] = await found.evaluate_all(
        """texts => texts.map(text => {
          const all = document.createRange();
          all.selectNodeContents(text);
          return all.getClientRects().length;
        })"""
    )
    return counted


# ---- flows


async def test_dead_letters_are_replayed_after_a_dry_run_and_the_page_shows_how_far_it_is(room: Room) -> None:
    room.crm_status = 200
    async with browser(room.host) as watched:
        page = watched.page
        await confirm_replay(page, room, "50/s")
        await page.evaluate("window.same = true")
        await expect(page.get_by_role("progressbar")).to_be_visible()
        assert await watched.findings() == []
        await expect(page.get_by_text("finished", exact=True)).to_be_visible(timeout=30_000)
        done = page.get_by_role("heading", name=f"{NUMBER} dead letters are being delivered again")
        await expect(done).to_be_focused()
        await expect(page.get_by_role("status")).to_have_text("Finished")
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        assert await page.evaluate("window.same")
        assert await watched.findings() == []
    await until(lambda: room.relay.owes_nothing(room.client))
    assert await dead(room) == 0
    assert await audit(room) == [("replay", NUMBER)]


async def test_replay_stops_when_that_is_asked_for_and_goes_on_where_it_was(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await confirm_replay(page, room, "10/s")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_text("stopped", exact=True)).to_be_visible(timeout=30_000)
        ((_, number),) = await audit(room)
        assert 0 < number < NUMBER
        await expect(page.get_by_role("heading", name=f"{number} dead letters are being")).to_be_visible()
        await asyncio.sleep(1)  # as long as two answers
        assert await audit(room) == [("replay", number)]
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_text("finished", exact=True)).to_be_visible(timeout=30_000)
        assert await audit(room) == [("replay", NUMBER)]


async def test_closed_window_ends_a_replay_and_the_audit_says_how_far_it_came(room: Room) -> None:
    async with browser(room.host) as watched:
        await confirm_replay(watched.page, room, "10/s")
        await expect(watched.page.get_by_role("progressbar")).to_be_visible()
        await watched.page.close()
        await asyncio.sleep(1)  # the steps that were under way are made
        ((_, number),) = await audit(room)
        await asyncio.sleep(1)
        assert await audit(room) == [("replay", number)]
        assert 0 < number < NUMBER
        page = await watched.context.new_page()
        await page.goto(room.address("/audit"))
        await expect(page.get_by_role("row").filter(has_text="delivered again")).to_contain_text(str(number))


async def test_replay_that_lost_the_relay_says_so_and_can_go_on(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await confirm_replay(page, room, "10/s")
        await expect(page.get_by_role("progressbar")).to_be_visible()
        await watched.context.set_offline(True)
        await expect(page.get_by_text("The last step failed.")).to_be_visible()
        await watched.context.set_offline(False)
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_text("finished", exact=True)).to_be_visible(timeout=30_000)
        await expect(page.get_by_text("The last step failed.")).to_be_hidden()
        watched.wrong.clear()  # the browser and htmx say so as well
    assert sum(number for _, number in await audit(room)) == NUMBER


async def test_dead_letters_are_discarded_with_the_keyboard_and_without_scripts(room: Room) -> None:
    async with browser(room.host, java_script_enabled=False) as watched:
        page = watched.page
        await page.goto(room.address("/dead"))
        await page.get_by_text("Discard all of these…").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.type("Entered by hand")
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name=f"Discard {NUMBER} deliveries").press("Enter")
        while await page.get_by_text("under way", exact=True).is_visible():
            await page.locator("noscript button").press("Enter")
        await expect(page.get_by_text("finished", exact=True)).to_be_visible()
    assert await dead(room) == 0
    assert await audit(room) == [("discard", NUMBER)]


async def test_unrouted_events_of_one_kind_are_delivered(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/unrouted"))
        await page.get_by_role("link", name="RETURN").click()
        await page.get_by_text("Deliver all of these…").click()
        await page.get_by_label("Deliver to").select_option("erp")
        await page.get_by_role("button", name="Count first").click()
        await page.get_by_role("button", name="Make 1 delivery").click()
        await expect(page.get_by_role("heading", name="1 delivery was made")).to_be_visible()
    await until(lambda: room.relay.owes_nothing(room.client))
    assert await room.states("erp") == ["delivered"]


async def test_quarantined_request_is_released_to_a_chosen_destination(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/quarantine"))
        await page.get_by_role("row").nth(-1).get_by_role("link").click()
        await expect(page.locator("pre")).to_contain_text("<script>")
        await page.get_by_label("only these destinations:").check()
        await page.get_by_label("erp").check()
        await page.get_by_role("button", name="Release").click()
        await expect(page.get_by_role("status")).to_have_text("It was accepted as an event.")
    await until(lambda: room.relay.owes_nothing(room.client))
    assert await room.states("erp") == ["delivered"]


async def test_quarantined_request_is_discarded_only_when_that_is_confirmed(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/quarantine/1"))
        await page.get_by_label("Why? It is kept in the audit.").fill("noise")
        page.once("dialog", lambda dialog: dialog.dismiss())
        await page.get_by_role("button", name="Discard").click()
        assert await audit(room) == []
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Discard").click()
        await expect(page.get_by_role("status")).to_have_text("It was discarded.")
        await expect(page.get_by_text("Nothing is in quarantine.")).to_be_visible()


async def test_name_in_the_audit_is_in_one_piece(
    tmp_path: Path, start: Start, receive: Receive, client: aiohttp.ClientSession
) -> None:
    login = {"username": "erika.mustermann@erp.example", "password": "an-operators-password"}
    config = write_config(
        tmp_path, {"erp": (await receive()).url}, admin={"listen": "127.0.0.1:0", "auth": [login]}
    )
    room = Room(await start(config), client)
    await room.relay.post(client, b"{nonsense")
    async with browser(room.host, http_credentials=login) as watched:
        page = watched.page
        await page.set_viewport_size({"width": 1000, "height": 900})
        await page.goto(room.address("/quarantine/1"))
        await page.get_by_label("Why? It is kept in the audit.").fill("It was entered by hand. " * 20)
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Discard").click()
        await page.goto(room.address("/audit"))
        assert await lines(page.locator("td").filter(has_text=login["username"]).locator("bdi")) == [1]


async def test_order_and_kind_of_a_dead_letter_are_in_one_piece(
    tmp_path: Path, start: Start, receive: Receive, client: aiohttp.ClientSession
) -> None:
    erp = await receive()
    room = Room(await start(write_config(tmp_path, {"erp": erp.url})), client)
    erp.script = room.answer_for_crm
    given = {"eventType": "ORDERRESPONSE", "transactionStatus": "COMPLETED", "orderId": "PO202600001"}
    await room.relay.post(client, event(**given))
    await until(lambda: room.relay.owes_nothing(client))
    async with browser(room.host, locale="de-DE") as watched:
        page = watched.page
        await page.set_viewport_size({"width": 1000, "height": 900})
        await page.goto(room.address("/dead"))
        assert await lines(page.locator("td.name bdi")) == [1, 1, 1]
        assert await page.evaluate("document.documentElement.scrollWidth") <= 1000


async def test_payload_is_tried_against_the_routes(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/routes"))
        assert SECRET not in await page.content()
        await page.get_by_label("Sample").select_option("ORDER SENT")
        await page.get_by_role("button", name="Take the sample").click()
        await expect(page.locator("#tried")).to_contain_text("It goes to erp")
        payload = page.get_by_label("Payload, as JSON")
        await payload.fill((await payload.input_value()).replace('"ORDER"', '"RETURN"'))
        await page.get_by_role("button", name="See where it goes").click()
        row = page.locator("#tried").get_by_role("row").filter(has_text="orders")
        await expect(row).to_contain_text('eventType is "RETURN", not "ORDER"')
        await expect(page.locator("#tried")).to_contain_text("no destination")
        assert await watched.findings() == []


# ---- every page


@pytest.mark.parametrize("path", ADDRESSES)
async def test_page_is_well_made_in_every_form(room: Room, path: str) -> None:
    for language in ("en-GB", "de-DE"):
        async with browser(room.host, locale=language) as watched:
            page = watched.page
            await page.goto(room.address(path))
            await expect(page.locator("html")).to_have_attribute("lang", language[:2])
            for summary in await page.locator("main summary").all():
                await summary.click()
            for scheme, width in (("light", 1440), ("dark", 390)):
                await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                await page.set_viewport_size({"width": width, "height": 900})
                assert await watched.findings() == [], (language, scheme, width)
                assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert "taken" not in await page.title()
