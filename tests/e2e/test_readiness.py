"""A relay that can't use its store says so by itself: in a metric, and in the log when that changes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import aiohttp

from tests.e2e.receiver import Receive
from tests.e2e.relay_process import RelayProcess, Start, event, until, write_config
from tests.locked import locked
from tests.postgres import PostgresServer

READY = "itscope_relay_ready"
OFTEN = "import relay.app as app; app.READINESS_EVERY_SECONDS = 0.1"
COMMAND = (sys.executable, "-c", f"{OFTEN}\nfrom relay.cli import main; main()")


async def test_database_that_goes_and_comes_back_is_told_once_each(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    erp = await receive()
    with PostgresServer() as server:
        server.start()
        config = write_config(tmp_path, {"erp": erp.url}, store={"url": server.create_database()})
        relay = await start(config, command=COMMAND)
        assert await relay.metric(client, READY) == 1
        server.stop(signal.SIGQUIT)
        await until(lambda: says(relay, client, ready=False))
        for number in range(3):  # each waits for a connection; meanwhile it is looked at again
            assert (await relay.post(client, event(f"refused{number}")))[0] == 503
        server.start()
        await until(lambda: says(relay, client, ready=True))
    (away,) = relay.facts("relay.not_ready")
    (back,) = relay.facts("relay.ready")
    assert (away["level"], "database" in away["reason"]) == ("warning", True)
    assert (back["level"], back["seconds"] > 1) == ("info", True)


async def test_file_that_can_not_be_written_is_told(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    relay = await start(write_config(tmp_path, {"erp": "http://127.0.0.1:9/"}), command=COMMAND)
    with locked(tmp_path / "relay.db"):  # the relay waits for five seconds, then it gives up
        await until(lambda: says(relay, client, ready=False))
    await until(lambda: says(relay, client, ready=True))
    (away,) = relay.facts("relay.not_ready")
    assert away["reason"].startswith("the store ")


async def says(relay: RelayProcess, client: aiohttp.ClientSession, *, ready: bool) -> bool:
    """Tell whether both the metric and the log's last word say so."""
    word = "relay.ready" if ready else "relay.not_ready"
    words = [line["fact"] for line in relay.facts() if line["fact"] in {"relay.ready", "relay.not_ready"}]
    return await relay.metric(client, READY) == ready and words[-1:] == [word]
