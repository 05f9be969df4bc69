"""What keeps `serve` from starting is said in a sentence: exit code 1, no traceback (`run` sees to it)."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.receiver import Receive
from tests.e2e.relay_process import Start, event, run, until, write_config

NOWHERE = {"erp": "http://127.0.0.1:9/"}


async def test_a_second_relay_on_the_same_store_is_refused_and_the_first_goes_on(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    config = write_config(tmp_path, NOWHERE)
    relay = await start(config)
    second = run("serve", "-c", config)
    assert second.returncode == 1
    assert f"the store {tmp_path / 'relay.db'} is in use by another relay" in second.stderr
    assert second.stdout == ""
    assert (await relay.post(client, event()))[0] == 200


def test_a_taken_address_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        public = run("serve", "-c", write_config(tmp_path, NOWHERE, server={"listen": address}))
        admin = run("serve", "-c", write_config(tmp_path, NOWHERE, admin={"listen": address}))
    for refused in (public, admin):
        assert refused.returncode == 1
        assert f"can't listen on {address}" in refused.stderr
        assert "address already in use" in refused.stderr
        assert refused.stdout == ""


def test_a_store_in_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused = run("serve", "-c", write_config(tmp_path, NOWHERE, store={"url": "sqlite:///no/relay.db"}))
    assert refused.returncode == 1
    assert f"can't open the store {tmp_path}/no/relay.db: no such file or directory" in refused.stderr


def test_a_store_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "relay.db").mkdir()  # not even root can write it
    refused = run("serve", "-c", write_config(tmp_path, NOWHERE))
    assert refused.returncode == 1
    assert f"can't open the store {tmp_path}/relay.db: " in refused.stderr


def test_a_file_that_is_no_store_is_named_and_left_alone(tmp_path: Path) -> None:
    content = b"minutes of the last meeting, in no way a database\n" * 100
    (tmp_path / "relay.db").write_bytes(content)
    refused = run("serve", "-c", write_config(tmp_path, NOWHERE))
    assert refused.returncode == 1
    assert f"the store {tmp_path}/relay.db is damaged (file is not a database)" in refused.stderr
    assert (tmp_path / "relay.db").read_bytes() == content


def test_a_wrong_configuration_is_refused_with_all_its_problems(tmp_path: Path) -> None:
    config = write_config(tmp_path, NOWHERE, server={"lisen": "x"}, admin={"listen": "nowhere"})
    refused = run("serve", "-c", config)
    assert refused.returncode == 1
    assert "server.lisen: is not a known key; did you mean listen?" in refused.stderr
    assert "admin.listen: write an address as host:port" in refused.stderr


async def test_it_says_where_it_listens_for_every_source(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    account = {"auth": [{"username": "u", "password": "p"}]}
    sources = {"itscope": account, "test": {**account, "path": "/elsewhere"}}
    relay = await start(write_config(tmp_path, NOWHERE, sources=sources))
    port = urlsplit(relay.ingress).port
    assert relay.output.splitlines()[:2] == [
        f"listening on http://127.0.0.1:{port}/webhooks/itscope",
        f"listening on http://127.0.0.1:{port}/elsewhere",
    ]
    for path, text in (("/-/healthy", "healthy"), ("/-/ready", "ready")):
        async with client.get(relay.admin + path) as response:
            assert (response.status, await response.json()) == (200, {"status": text})


async def test_it_works_without_uvloop_too(
    start: Start, receive: Receive, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not installed')\n", encoding="utf-8")
    erp = await receive()
    relay = await start(write_config(tmp_path, {"erp": erp.url}), variables={"PYTHONPATH": str(tmp_path)})
    assert (await relay.post(client, event("one")))[0] == 200
    await until(lambda: erp.taken["one"])
    await relay.reload()
    relay.signal(signal.SIGTERM)
    assert await relay.ended() == 0
