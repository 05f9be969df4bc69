"""`itscope-relay notify-test` tells everybody, and says who wasn't reached."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.e2e.receiver import Receive, Received
from tests.e2e.relay_process import run, write_config

TOKEN = "t0k3n-of-the-chat"


async def test_every_channel_is_tried_and_a_failure_is_said(tmp_path: Path, receive: Receive) -> None:
    async def refuse(_received: Received) -> int:
        return 403

    good, bad = await receive(), await receive(refuse)
    webhooks = [
        {"url": f"http://127.0.0.1:{bad.port}/{TOKEN}", "format": "teams"},
        {"url": f"http://127.0.0.1:{good.port}/{TOKEN}", "format": "slack"},
    ]
    config = write_config(tmp_path, {"erp": good.url}, notify={"name": "ours", "webhooks": webhooks})
    done = await asyncio.to_thread(run, "notify-test", "-c", config)
    assert (done.returncode, done.stdout) == (1, "webhooks[1] (slack): sent\n")
    assert done.stderr == "webhooks[0] (teams): not sent: it answered 403\n"
    ((request,),) = (good.requests,)
    assert "This is a test." in json.loads(request.body)["text"]
    assert json.loads(request.body)["text"].startswith("ours, ")


async def test_success_of_all_is_exit_code_0(tmp_path: Path, receive: Receive) -> None:
    good = await receive()
    hook = {"url": good.url, "format": "mattermost"}
    config = write_config(tmp_path, {"erp": good.url}, notify={"webhooks": [hook]})
    done = await asyncio.to_thread(run, "notify-test", "-c", config)
    assert (done.returncode, done.stdout, done.stderr) == (0, "webhooks[0] (mattermost): sent\n", "")


def test_configuration_without_notify_is_said(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"erp": "http://127.0.0.1:9/"})
    done = run("notify-test", "-c", config)
    assert done.returncode == 1
    assert "there is no notify" in done.stderr
