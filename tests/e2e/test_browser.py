"""The pages in a real browser over a real relay: an operator finds, repairs, pauses, and watches."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from playwright.async_api import expect

from tests.e2e.browser import CHROMIUM, browser
from tests.e2e.receiver import Receive
from tests.e2e.relay_process import Start, event, until, write_config
from tests.e2e.room import NASTY, Room

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt install chromium)")

ADDRESSES = ("/", "/find", "/find?q=PO-1", "/orders/PO-1", "/events/2", "/events/5")


@pytest.fixture
async def room(tmp_path: Path, start: Start, receive: Receive, client: aiohttp.ClientSession) -> Room:
    """Run a relay that has got two orders, a surprise, and something for quarantine."""
    erp, crm = await receive(), await receive()
    config = write_config(
        tmp_path,
        {"erp": erp.url, "crm": crm.url},
        routes=[
            {"name": "known", "match": {"eventType": ["ORDER", "DELIVERY"]}, "to": ["erp"]},
            {"name": "notes", "match": {"eventType": "DELIVERY"}, "to": ["crm"]},
        ],
    )
    room = Room(await start(config), client)
    crm.script = room.answer_for_crm
    for order, kind in itertools.product(("PO-1", "PO-2"), ("ORDER", "DELIVERY")):
        await room.relay.post(client, event(eventType=kind, orderId=order, documentId=f"{kind}-{order}"))
    await room.relay.post(client, event(eventType=NASTY, orderId=NASTY, transactionStatus=NASTY, note=NASTY))
    await room.relay.post(client, b"{nonsense")
    await until(lambda: room.relay.owes_nothing(client))
    return room


# ---- flows


async def test_order_is_found_by_its_delivery_notes_number(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/"))
        await page.get_by_role("searchbox").fill("DELIVERY-PO-2")
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name="Everything of order PO-2").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Order PO-2")
        note = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Delivery note"))
        await expect(note).to_contain_text("came, but was not delivered")
        invoice = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Invoice"))
        await expect(invoice).to_contain_text("has not come")


async def test_dead_letter_is_replayed(room: Room) -> None:
    room.crm_status = 200
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/events/2"))
        crm = page.get_by_role("article").filter(has=page.get_by_role("heading", name="crm"))
        await expect(crm).to_contain_text("dead")
        await crm.get_by_role("button", name="Deliver again").click()
        await expect(page.get_by_role("status")).to_have_text("It is being delivered again.")
        await until(lambda: _holds(room.states("crm"), "delivered"))
        await page.reload()
        await expect(crm.first).to_contain_text("delivered")
    assert await room.changes() == ["replay"]


@pytest.mark.parametrize("scripts", [True, False])
async def test_delivered_one_is_replayed_only_when_that_is_confirmed(room: Room, *, scripts: bool) -> None:
    async with browser(room.host, java_script_enabled=scripts) as watched:
        page = watched.page
        await page.goto(room.address("/events/1"))
        await page.get_by_role("button", name="Deliver again").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Deliver once more?")
        if scripts:
            assert await watched.findings() == []
        await page.get_by_role("link", name="Cancel").click()
        await page.get_by_role("button", name="Deliver again").click()
        assert await room.changes() == []
        await page.get_by_role("button", name="Deliver once more").click()
        await expect(page.get_by_role("status")).to_have_text("It is being delivered again.")
    assert await room.changes() == ["replay"]


async def test_dead_letter_is_discarded_with_the_keyboard_alone(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/events/2"))
        await page.get_by_text("Discard…").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.type("Entered by hand")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("It was discarded.")
        await expect(page.get_by_text("Reason: Entered by hand")).to_be_visible()
    assert await room.changes() == ["discard"]


async def test_destination_is_paused_and_resumed(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/"))
        erp = page.get_by_role("article").filter(has=page.get_by_role("heading", name="erp"))
        await erp.get_by_role("button", name="Pause").click()
        await expect(erp).to_contain_text("Paused since")
        await expect(page.get_by_text("2 destinations need a look")).to_have_count(1)
        await erp.get_by_role("button", name="Resume").click()
        await expect(erp).not_to_contain_text("Paused since")
    assert await room.changes() == ["pause", "resume"]


async def test_overview_shows_what_happens_without_being_loaded_again(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/"))
        await page.evaluate("window.same = true")
        await page.get_by_role("button", name="Pause").first.focus()
        erp = page.get_by_role("article").filter(has=page.get_by_role("heading", name="erp"))
        async with room.client.post(room.address("/api/v1/destinations/erp/pause")) as answer:
            assert answer.status == 200
        await expect(erp).to_contain_text("Paused since", timeout=15_000)
        await expect(page.locator("#live-told")).to_have_text("2 destinations need a look")
        assert await page.evaluate("window.same")
        text = await erp.locator("time").first.text_content()
        assert text is not None
        assert "UTC" not in text  # also what came later is in the browser's zone


async def test_overview_says_when_the_relay_is_gone(room: Room) -> None:
    async with browser(room.host) as watched:
        await watched.page.goto(room.address("/"))
        room.relay.kill()
        await expect(watched.page.get_by_text("The relay doesn't answer.")).to_be_visible(timeout=15_000)
        watched.wrong.clear()  # the browser and htmx say so as well


async def test_forms_work_where_the_browser_says_nothing_of_sites(
    tmp_path: Path, start: Start, receive: Receive
) -> None:
    """Over plain HTTP, Sec-Fetch-Site is for loopback alone; elsewhere there is only Origin."""
    login = {"username": "ada", "password": "an-operators-password"}
    config = write_config(
        tmp_path, {"erp": (await receive()).url}, admin={"listen": "127.0.0.1:0", "auth": [login]}
    )
    relay = await start(config)
    host = f"relay.internal:{urlsplit(relay.admin).port}"
    async with browser(
        host, "--host-resolver-rules=MAP relay.internal 127.0.0.1", http_credentials=login
    ) as watched:
        await watched.page.goto(f"http://{host}/")
        await watched.page.get_by_role("button", name="Pause").click()
        await expect(watched.page.get_by_role("button", name="Resume")).to_be_visible()


# ---- every page


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("language", ["en", "de"])
async def test_page_is_well_made_in_every_form(room: Room, path: str, language: str) -> None:
    async with browser(room.host, locale=language) as watched:
        page = watched.page
        await page.goto(room.address(path))
        await expect(page.locator("html")).to_have_attribute("lang", language)
        assert "taken" not in await page.title()
        for scheme, width in (("light", 1440), ("dark", 390)):
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            await page.set_viewport_size({"width": width, "height": 900})
            assert await watched.findings() == [], (scheme, width)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_keyboard_reaches_the_content_at_once(room: Room) -> None:
    async with browser(room.host) as watched:
        await watched.page.goto(room.address("/find"))
        await watched.page.keyboard.press("Tab")
        await expect(watched.page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await watched.page.keyboard.press("Enter")
        await expect(watched.page.get_by_role("main")).to_be_focused()


async def test_pages_can_be_read_without_scripts(room: Room) -> None:
    async with browser(room.host, java_script_enabled=False) as watched:
        page = watched.page
        await page.goto(room.address("/"))
        await page.get_by_role("searchbox").fill("PO-1")
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name="Everything of order PO-1").click()
        await expect(page.get_by_role("heading", name="Order PO-1")).to_be_visible()
        await expect(page.locator("time").first).to_contain_text("UTC")


async def test_language_is_switched_and_stays(room: Room) -> None:
    async with browser(room.host) as watched:
        page = watched.page
        await page.goto(room.address("/find?q=PO-1"))
        await page.get_by_role("link", name="Deutsch").click()
        await expect(page).to_have_url(room.address("/find?q=PO-1"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Suchen")
        await page.goto(room.address("/"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Übersicht")


async def _holds(states: Awaitable[list[str]], state: str) -> bool:
    return state in await states
