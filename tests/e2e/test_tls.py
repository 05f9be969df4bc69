"""HTTPS on the public listener, with a certificate that is renewed while it runs."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.e2e.relay_process import (
    PASSWORD,
    USERNAME,
    RelayProcess,
    Start,
    connect,
    event,
    run,
    until,
    write_config,
)

NOWHERE = {"erp": "http://127.0.0.1:9/"}


class Certificates:
    """A CA of our own, whose certificates are put where the relay reads them."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.trust = ssl.create_default_context()
        self._authority.configure_trust(self.trust)
        self.authority_file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.authority_file))
        self.files = {"cert_file": str(folder / "fullchain.pem"), "key_file": str(folder / "privkey.pem")}
        self.renew()

    def renew(self) -> None:
        """Put a new certificate where the old one was."""
        issued = self._authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.files["key_file"])
        with Path(self.files["cert_file"]).open("wb") as chain:
            chain.writelines(pem.bytes() for pem in issued.cert_chain_pems)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
async def relay(start: Start, certificates: Certificates, tmp_path: Path) -> RelayProcess:
    server = {"listen": "127.0.0.1:0", "tls": certificates.files}
    return await start(write_config(tmp_path, NOWHERE, server=server))


async def serial_number(relay: RelayProcess, trust: ssl.SSLContext) -> str:
    """Return the serial number of the certificate that a new connection gets, after verifying it."""
    async with connect(relay.ingress, trust) as (_, writer):
        number: str = writer.get_extra_info("peercert")["serialNumber"]
        return number


async def test_webhooks_arrive_over_https_that_the_client_verifies(
    relay: RelayProcess, certificates: Certificates
) -> None:
    assert relay.ingress.startswith("https://127.0.0.1:")
    assert relay.admin.startswith("http://")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=certificates.trust)) as client:
        assert (await relay.post(client, event()))[0] == 200
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await relay.post(client, event())


async def test_send_verifies_the_certificate_unless_told_otherwise(
    relay: RelayProcess, certificates: Certificates
) -> None:
    command = ("send", relay.ingress, "--count", "1", "--user", f"{USERNAME}:{PASSWORD}")
    untrusted = await asyncio.to_thread(run, *command)
    assert untrusted.returncode == 1
    assert "certificate verify failed" in untrusted.stdout
    trusting = {"SSL_CERT_FILE": str(certificates.authority_file)}
    assert (await asyncio.to_thread(run, *command, variables=trusting)).returncode == 0
    assert (await asyncio.to_thread(run, *command, "--insecure")).returncode == 0


async def test_a_renewed_certificate_is_served_after_a_reload_and_connections_stay(
    relay: RelayProcess, certificates: Certificates
) -> None:
    first = await serial_number(relay, certificates.trust)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=certificates.trust)) as client:
        assert (await relay.post(client, event()))[0] == 200
        certificates.renew()
        await relay.reload()
        assert relay.facts("certificate.reloaded")
        assert await serial_number(relay, certificates.trust) != first
        assert (await relay.post(client, event()))[0] == 200


async def test_a_half_written_certificate_is_refused_and_the_old_one_stays(
    relay: RelayProcess, certificates: Certificates
) -> None:
    first = await serial_number(relay, certificates.trust)
    Path(certificates.files["cert_file"]).write_text("-----BEGIN CERTIFICATE-----\n", encoding="utf-8")
    await relay.reload()
    (rejected,) = relay.facts("config.rejected")
    assert "server.tls: can't use " in rejected["problems"][0]
    assert await serial_number(relay, certificates.trust) == first
    certificates.renew()
    await relay.reload()
    assert await serial_number(relay, certificates.trust) != first


async def test_a_client_that_speaks_no_tls_does_no_harm(
    relay: RelayProcess, certificates: Certificates
) -> None:
    async with connect(relay.ingress) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with_tls_answer = await reader.read()
    assert b"HTTP/1.1 200" not in with_tls_answer
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=certificates.trust)) as client:
        assert (await relay.post(client, event()))[0] == 200
    await until(lambda: "relay.started" in relay.errors)
    assert "Traceback" not in relay.errors
