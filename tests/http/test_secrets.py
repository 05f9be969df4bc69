"""Secrets and bodies appear in no log, no metric and no answer."""

from __future__ import annotations

import logging

import pytest
from aiohttp import encode_basic_auth

from tests.http.conftest import StartRelay
from tests.http.world import Receiver, drop

# Every secret of this test, and every body, holds this word; nothing else does.
WORD = "topsecret"


def encoded(*credentials: str) -> list[str]:
    return [encode_basic_auth(*one.split(":", 1)).removeprefix("Basic ") for one in credentials]


async def test_secrets_and_bodies_are_nowhere_to_be_seen(
    relay: StartRelay, erp: Receiver, crm: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    running = await relay(
        sources={"itscope": {"auth": [{"username": "itscope", "password": f"{WORD}-1"}]}},
        admin={"auth": [{"username": "admin", "password": f"{WORD}-2"}]},
        destinations={
            "erp": {
                "auth": {"type": "basic", "username": "r", "password": f"{WORD}-3"},
                "url": f"{erp.url}?k={WORD}",
            },
            "crm": {"auth": {"type": "bearer", "token": f"{WORD}-4"}, "url": crm.url},
            "gone": {
                "auth": {"type": "header", "name": "X-Key", "value": f"{WORD}-5"},
                "url": f"http://no-such-host.invalid/{WORD}",
                "headers": {"X-Other": f"{WORD}-6"},
            },
            "odd": {"url": f"{erp.url.replace('http:', 'https:')}?k={WORD}"},
        },
        routes=[{"to": ["erp", "crm", "gone", "odd"]}],
    )
    right = encode_basic_auth("itscope", f"{WORD}-1")
    operator = {"Authorization": encode_basic_auth("admin", f"{WORD}-2")}
    erp.script += [500, drop, (302, {"Location": f"http://{WORD}/"}), 422]
    crm.script += [400]
    answers = [
        await running.post({"eventId": "e", "x": WORD}, auth=right),
        await running.post({"eventId": "e", "y": WORD}, auth=right),
        await running.post(f"{WORD} is not JSON".encode(), auth=right),
        await running.post(f'{{"{WORD}": 1, "{WORD}": 2}}'.encode(), auth=right),
        await running.post({}, auth=encode_basic_auth("itscope", f"{WORD}-guess")),
        await running.post({}, path=f"/{WORD}", auth=right),
    ]
    await running.settled("dead")
    await running.settled("dead", "crm")
    await running.attempted(2, "gone")
    await running.attempted(2, "odd")
    answers += [
        await running.ask("/metrics", headers=operator),
        await running.ask("/metrics", headers={"Authorization": f"Basic {WORD}"}),
        await running.ask("/-/ready"),
    ]
    running.config["destinations"]["crm"]["auth"] = {"type": "bearer", "token": f"{WORD}-ü"}
    running.config["sources"]["itscope"]["auth"][0]["password_hash"] = f"{WORD}-7"
    running.config["destinations"]["erp"]["url"] = f"http://user:{WORD}@erp/"
    running.write()
    answers.append(await running.ask("/-/reload", method="POST", headers=operator))
    assert answers[-1].status == 422
    await running.drain()

    assert len(caplog.records) > 10
    words = [WORD, *encoded(f"itscope:{WORD}-1", f"admin:{WORD}-2", f"r:{WORD}-3", f"itscope:{WORD}-guess")]
    for record in caplog.records:
        if record.name.startswith("relay"):
            assert not [word for word in words if word in f"{record.getMessage()} {record.__dict__}"]
    for answer in answers:
        assert not [word for word in words if word in f"{dict(answer.headers)} {answer.body!r}"]
    errors = running.rows("SELECT error FROM attempts")
    assert not [word for word in words if word in str(errors)]
