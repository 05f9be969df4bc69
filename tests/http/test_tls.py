"""HTTPS at the public listener, with a certificate that is renewed while the relay runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from relay.config import load
from relay.errors import ConfigError
from tests.http.conftest import StartRelay
from tests.http.test_reload import free_port
from tests.http.world import Running, head

FILES = {"cert_file": "fullchain.pem", "key_file": "privkey.pem"}


@pytest.fixture
def trust(ca: trustme.CA) -> ssl.SSLContext:
    """What ITscope trusts."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def renew(folder: Path, ca: trustme.CA) -> None:
    """Write a new certificate for localhost with its key."""
    issued = ca.issue_cert("localhost")
    for file, parts in (
        (folder / FILES["cert_file"], [blob.bytes() for blob in issued.cert_chain_pems]),
        (folder / FILES["key_file"], [issued.private_key_pem.bytes()]),
    ):
        file.write_bytes(b"".join(parts))


async def served(running: Running, trust: ssl.SSLContext) -> str:
    """Send a webhook, and return the serial number of the certificate that the relay showed."""
    wire = await running.wire(ssl_context=trust)
    await wire.send(head("Content-Length: 2", "Connection: close") + b"{}")
    assert (await wire.answer()).status == 200
    serial: str = wire.certificate["serialNumber"]
    return serial


async def test_webhooks_are_taken_over_https(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA, trust: ssl.SSLContext
) -> None:
    renew(tmp_path, ca)
    running = await relay(server={"tls": FILES})
    await served(running, trust)
    assert len(running.events()) == 1


async def test_plain_http_to_the_https_port_does_no_harm(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA, trust: ssl.SSLContext
) -> None:
    renew(tmp_path, ca)
    running = await relay(server={"tls": FILES})
    wire = await running.wire()
    await wire.send(head("Content-Length: 2") + b"{}")
    assert b"HTTP" not in await wire.rest()
    await served(running, trust)


async def test_old_tls_versions_are_refused(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA, trust: ssl.SSLContext
) -> None:
    renew(tmp_path, ca)
    running = await relay(server={"tls": FILES})
    trust.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        trust.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        trust.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await running.wire(ssl_context=trust)


async def test_renewed_certificate_is_served_after_a_reload(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA, trust: ssl.SSLContext
) -> None:
    renew(tmp_path, ca)
    running = await relay(server={"tls": FILES})
    first, address = await served(running, trust), running.public
    renew(tmp_path, ca)
    assert (await running.reload()).status == 200
    assert await served(running, trust) != first
    assert running.public == address


@pytest.mark.parametrize("broken", ["cert_file", "key_file"])
async def test_half_written_certificate_does_not_replace_a_good_one(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA, trust: ssl.SSLContext, broken: str
) -> None:
    renew(tmp_path, ca)
    running = await relay(server={"tls": FILES})
    first = await served(running, trust)
    other = tmp_path / "other"
    other.mkdir()
    renew(other, ca)
    (tmp_path / FILES[broken]).write_bytes((other / FILES[broken]).read_bytes())  # not the other one's mate

    running.relay.public.refresh_certificate()
    assert await served(running, trust) == first
    answer = await running.reload()
    assert answer.status == 422
    assert "server.tls: can't use" in answer.json["problems"][0]
    assert await served(running, trust) == first

    for file in FILES.values():
        (tmp_path / file).write_bytes((other / file).read_bytes())
    running.relay.public.refresh_certificate()
    assert await served(running, trust) != first


async def test_tls_can_be_turned_on_and_off_by_a_reload(
    relay: StartRelay, tmp_path: Path, ca: trustme.CA, trust: ssl.SSLContext
) -> None:
    renew(tmp_path, ca)
    running = await relay()
    assert (await running.post()).status == 200
    assert (await running.reload(server={"tls": FILES})).status == 200
    await served(running, trust)
    assert (await running.reload(server={"tls": None})).status == 200
    assert (await running.post()).status == 200


@pytest.mark.parametrize("begins_with_tls", [False, True], ids=["http", "https"])
async def test_certificate_that_becomes_unusable_during_a_reload_changes_nothing(
    relay: StartRelay,
    tmp_path: Path,
    ca: trustme.CA,
    trust: ssl.SSLContext,
    *,
    begins_with_tls: bool,
) -> None:
    renew(tmp_path, ca)
    (tmp_path / "other").mkdir()
    renew(tmp_path / "other", ca)
    port = free_port()
    running = await relay(
        server={"listen": f"127.0.0.1:{port}", **({"tls": FILES} if begins_with_tls else {})}
    )
    other = {name: f"other/{file}" for name, file in FILES.items()}
    running.config["server"]["tls"] = other
    running.write()
    config = load(running.file, {})  # found good ...
    (tmp_path / "other" / FILES["key_file"]).write_text("half")  # ... and then it isn't
    with pytest.raises(ConfigError) as found:
        await running.relay._bind(config)
    (problem,) = found.value.problems
    assert problem.startswith(f"{running.file}: can't use ")
    assert running.public == ("127.0.0.1", port)
    if begins_with_tls:
        await served(running, trust)
    else:
        assert (await running.post()).status == 200
    assert (await running.reload()).status == 422
    assert running.public == ("127.0.0.1", port)
