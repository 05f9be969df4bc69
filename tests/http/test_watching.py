"""What the relay says in its metrics about the machine it runs on."""

from __future__ import annotations

import math
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from relay import app
from tests.http.conftest import StartRelay
from tests.http.world import Running, until

FILES = {"cert_file": "fullchain.pem", "key_file": "privkey.pem"}
EXPIRY = "itscope_relay_certificate_expiry_timestamp_seconds"


def write_certificate(folder: Path, ca: trustme.CA, year: int) -> float:
    """Write a certificate with its key, and return when it expires."""
    expiry = datetime(year, 1, 1, tzinfo=UTC)
    issued = ca.issue_cert("localhost", not_after=expiry)
    key = issued.private_key_pem.bytes()
    chain = [*(blob.bytes() for blob in issued.cert_chain_pems), ca.cert_pem.bytes()]
    (folder / FILES["cert_file"]).write_bytes(b"".join([b"a comment\n", key, *chain]))  # the first counts
    (folder / FILES["key_file"]).write_bytes(key)
    return expiry.timestamp()


async def test_room_on_the_disk_of_the_database_is_told(running: Running) -> None:
    size = shutil.disk_usage(running.folder).total
    await until_told(running, "itscope_relay_disk_size_bytes", size)
    assert 0 < await running.metric("itscope_relay_disk_free_bytes") < size


async def test_disk_that_hangs_keeps_neither_a_stop_nor_the_process(
    relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging: list[threading.Thread] = []
    released = threading.Event()

    def hang(_folder: Path) -> None:
        hanging.append(threading.current_thread())
        released.wait()
        raise OSError

    monkeypatch.setattr(shutil, "disk_usage", hang)
    running = await relay()
    try:
        await until(lambda: hanging)
        await running.drain()
        assert [thread.daemon for thread in hanging] == [True]  # at the end, Python waits for no such thread
    finally:
        released.set()


async def test_without_tls_no_certificate_expires(running: Running) -> None:
    assert math.isnan(await running.metric(EXPIRY))


async def test_expiry_is_that_of_the_certificate_in_use(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "CERTIFICATE_EVERY_SECONDS", 0.02)
    first = write_certificate(tmp_path, ca, 2031)
    running = await relay(server={"tls": FILES})
    assert await running.metric(EXPIRY) == first
    await until_told(running, EXPIRY, write_certificate(tmp_path, ca, 2032))


async def test_certificate_that_cannot_be_used_leaves_the_expiry_of_the_one_in_use(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA
) -> None:
    first = write_certificate(tmp_path, ca, 2031)
    running = await relay(server={"tls": FILES})
    key = (tmp_path / FILES["key_file"]).read_bytes()
    write_certificate(tmp_path, ca, 2032)
    (tmp_path / FILES["key_file"]).write_bytes(key)
    running.relay.public.refresh_certificate()
    assert running.relay.public.certificate_expires_at == first


async def test_reload_without_tls_ends_the_expiry(relay: StartRelay, tmp_path: Path, ca: trustme.CA) -> None:
    write_certificate(tmp_path, ca, 2031)
    running = await relay(server={"tls": FILES})
    answer = await running.reload(server={"tls": None})
    assert answer.status == 200, answer
    assert math.isnan(await running.metric(EXPIRY))


async def until_told(running: Running, metric: str, value: float) -> None:
    """Wait until a metric has a value."""

    async def told() -> bool:
        return await running.metric(metric) == value

    await until(told)
