"""Messages of a running relay, to a real mail server and a real HTTP receiver."""

from __future__ import annotations

import asyncio
import email.policy
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from relay import notify
from relay.config import NotifyEmail, NotifyWebhook
from relay.notify import NotSentError, channels, conditions, wording
from relay.notify import notifier as shell
from relay.store import sqlite_count
from relay.store.counts import NEWEST_EVENTS
from tests.http.conftest import StartReceiver, StartRelay
from tests.http.world import ORDER, PASSWORD, USER, Receiver, Running, lives, until

MAIL_PASSWORD = "mail-secret-77"
TOKEN = "T0K3N-in-the-url"
FIELDS: list[str] = [str(value) for value in ORDER.values()]  # what a payload holds


@dataclass
class MailServer:
    """A mail server on loopback that keeps what it gets."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)
    answer: str = "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        made = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(made, EmailMessage)
        if self.answer.startswith("250"):
            self.mails.append(made)
            self.recipients.append(envelope.rcpt_tos)
        return self.answer

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=data.password == MAIL_PASSWORD.encode(), handled=False)


StartMail = Callable[..., Awaitable[MailServer]]


@pytest.fixture
async def mail_server() -> AsyncIterator[StartMail]:
    """Starts mail servers; options are those of aiosmtpd."""
    async with AsyncExitStack() as stack:

        async def start(*, login: bool = False, **options: Any) -> MailServer:
            kept = MailServer()
            connections: list[SMTP] = []
            if login:
                options |= {"authenticator": kept.authenticate, "auth_required": True}

            def connected() -> SMTP:
                connections.append(SMTP(kept, hostname="localhost", **options))
                return connections[-1]

            async def stop() -> None:
                server.close()
                for connection in connections:
                    if connection.transport is not None:
                        connection.transport.close()
                await asyncio.sleep(0)

            server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
            stack.push_async_callback(stop)
            kept.port = server.sockets[0].getsockname()[1]
            return kept

        yield start


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and believe at once that something is over."""
    monkeypatch.setattr(shell, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(shell, "RETRY", replace(shell.RETRY, initial=timedelta(milliseconds=20)))
    monkeypatch.setattr("relay.notify.conditions.OVER_SECONDS", 0.05)


def mail(server: MailServer, **options: Any) -> dict[str, Any]:
    return {
        "smtp": f"127.0.0.1:{server.port}",
        "tls": "none",
        "from": "relay@example.com",
        "to": ["it@example.com", "boss@example.com"],
        **options,
    }


def chat(receiver: Receiver, form: str = "slack") -> dict[str, str]:
    return {"url": f"{receiver.url}?token={TOKEN}", "format": form}


def texts(receiver: Receiver) -> list[str]:
    return [str(json.loads(request.body)["text"]) for request in receiver.requests]


async def make_dead(running: Running, erp: Receiver) -> None:
    """Have the destination reject an event."""
    erp.otherwise = 422
    assert (await running.post()).status == 200
    await running.settled("dead")


async def discard(running: Running) -> None:
    ((delivery,),) = running.rows("SELECT id FROM deliveries WHERE state = 'dead'")
    answer = await running.ask(
        f"/api/v1/deliveries/{delivery}/discard",
        method="POST",
        headers={"Content-Type": "application/json"},
        data=b'{"reason": "test"}',
    )
    assert answer.status == 200, answer


async def test_dead_delivery_and_its_end_are_told_by_mail_and_chat(
    relay: StartRelay, erp: Receiver, crm: Receiver, mail_server: StartMail
) -> None:
    server = await mail_server()
    running = await relay(
        notify={
            "name": "relay of Example GmbH",
            "webhooks": [chat(crm)],
            "email": mail(server),
            "link": "https://relay.example/",
        }
    )
    await make_dead(running, erp)
    await until(lambda: server.mails and crm.requests)
    await discard(running)
    await until(lambda: len(server.mails) == 2 and len(crm.requests) == 2)

    first, second = server.mails
    assert first["From"] == "relay@example.com"
    assert first["To"] == "it@example.com, boss@example.com"
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["Message-ID"] != second["Message-ID"]
    assert (
        first["Subject"]
        == "relay of Example GmbH: erp: 1 delivery is dead, and waits to be replayed or discarded"
    )
    assert server.recipients == [["it@example.com", "boss@example.com"]] * 2
    for heard in (
        [made.get_content().replace("\r\n", "\n").strip() for made in server.mails],
        texts(crm),
    ):
        assert (
            "\nerp: 1 delivery is dead, and waits to be replayed or discarded\nhttps://relay.example/"
            in heard[0]
        )
        assert "\nrecovered: erp: no delivery is dead any more (it lasted " in heard[1]
        assert not any(value in text for value in FIELDS for text in heard)


async def test_condition_that_stays_is_told_once(relay: StartRelay, erp: Receiver, crm: Receiver) -> None:
    running = await relay(notify={"webhooks": [chat(crm)]})
    await make_dead(running, erp)
    await crm.arrived(1)
    looks = 0

    async def looked_often() -> bool:
        nonlocal looks
        looks += await running.relay._store.backlog() is not None
        return looks > 50

    await until(looked_often)
    assert len(crm.requests) == 1


@pytest.mark.parametrize(
    ("form", "key"), [("slack", "text"), ("mattermost", "text"), ("teams", "attachments")]
)
async def test_each_chat_gets_its_form(
    relay: StartRelay, erp: Receiver, crm: Receiver, form: str, key: str
) -> None:
    running = await relay(notify={"webhooks": [chat(crm, form)]})
    await make_dead(running, erp)
    (request, *_) = await crm.arrived(1)
    assert key in json.loads(request.body)
    assert request.headers["Content-Type"].startswith("application/json")
    assert request.target.endswith(f"?token={TOKEN}")


async def test_open_breaker_is_told(relay: StartRelay, erp: Receiver, crm: Receiver) -> None:
    erp.otherwise = 500
    destination = {"url": erp.url, "breaker": {"failures": 1}}
    running = await relay(
        destinations={"erp": destination}, notify={"webhooks": [chat(crm)], "when": {"breaker": "50ms"}}
    )
    await running.post()
    await crm.arrived(1)
    assert "erp: it fails, and its breaker has been open for " in texts(crm)[0]


async def test_silence_is_told_and_the_event_that_ends_it(relay: StartRelay, crm: Receiver) -> None:
    running = await relay(notify={"webhooks": [chat(crm)], "when": {"silent": {"after": "2h"}}})
    await running.post()
    await running.settled("delivered")
    running.clock.moved_seconds = 7201
    await crm.arrived(1)
    assert "itscope: no event since " in texts(crm)[0]
    await running.post({**ORDER, "eventId": "e-2"})
    await crm.arrived(2)
    assert "recovered: itscope: events come again" in texts(crm)[1]


async def test_quiet_source_beside_a_busy_one_is_silent_since_its_last_event(
    relay: StartRelay, crm: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return conditions.look(*arguments)

    monkeypatch.setattr(shell, "look", counted)
    newest_one = sqlite_count._LAST.replace(f"LIMIT {NEWEST_EVENTS}", "LIMIT 1")
    monkeypatch.setattr(sqlite_count, "_LAST", newest_one)
    busy = {"busy": {"path": "/busy", "auth": [{"username": USER, "password": PASSWORD}]}}
    running = await relay(sources=busy, notify={"webhooks": [chat(crm)], "when": {"silent": {"after": "2h"}}})
    running.clock.moved_seconds = 3600
    assert (await running.post()).status == 200
    ((last_at,),) = running.rows("SELECT received_at FROM events")
    seen = looks
    await until(lambda: looks > seen + 1)
    running.clock.moved_seconds = 2 * 3600 - 10
    await running.post(path="/busy")
    running.clock.moved_seconds = 3 * 3600 + 10
    await crm.arrived(1)
    last = datetime.fromtimestamp(last_at, UTC)
    assert f"itscope: no event since {last:%Y-%m-%d %H:%M UTC}" in texts(crm)[0]


async def test_silence_counts_from_the_reload_that_asks_for_it(relay: StartRelay, crm: Receiver) -> None:
    running = await relay(notify={"webhooks": [chat(crm)]})
    running.clock.moved_seconds = 3 * 3600
    assert (await running.reload(notify={"when": {"silent": {"after": "2h"}}})).status == 200
    asked_at = running.clock()
    running.clock.moved_seconds = 5 * 3600 + 120
    await crm.arrived(1)
    around = {datetime.fromtimestamp(asked_at - early, UTC) for early in (0, 60)}
    assert any(f"no event since {at:%Y-%m-%d %H:%M UTC}" in texts(crm)[0] for at in around)


async def test_event_that_waits_too_long_is_told(relay: StartRelay, erp: Receiver, crm: Receiver) -> None:
    erp.otherwise = erp.hang
    running = await relay(notify={"webhooks": [chat(crm)]})
    await running.post()
    running.clock.moved_seconds = 1860
    await crm.arrived(1)
    assert "erp: an event has been waiting for 31m" in texts(crm)[0]


# ---- what fails


async def test_message_is_sent_again_until_the_chat_takes_it(
    relay: StartRelay, erp: Receiver, crm: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    crm.script.extend([500, 404])
    running = await relay(notify={"webhooks": [chat(crm)]})
    await make_dead(running, erp)
    first, second, third = await crm.arrived(3)
    assert first.body == second.body == third.body
    await until(lambda: facts(caplog, "notification.sent"))
    assert [fields["error"] for fields in facts(caplog, "notification.not_sent")] == [
        "it answered 500",
        "it answered 404",
    ]
    assert facts(caplog, "notification.sent") == [{"channel": "webhooks[0] (slack)", "attempts": 3}]


async def test_channel_that_hangs_holds_up_neither_another_nor_the_relay(
    relay: StartRelay, erp: Receiver, crm: Receiver, receiver_factory: StartReceiver
) -> None:
    good = await receiver_factory()
    crm.otherwise = crm.hang
    running = await relay(notify={"webhooks": [chat(crm), chat(good)]})
    await make_dead(running, erp)
    await good.arrived(1)
    erp.otherwise = 200
    await running.post({**ORDER, "eventId": "e-2"})
    await until(lambda: [state for state, _ in running.deliveries()] == ["dead", "delivered"])
    assert lives(running)


async def test_fault_of_a_look_ends_nothing(
    relay: StartRelay,
    erp: Receiver,
    crm: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(shell, "look", lambda *_arguments: 1 / 0)
        running = await relay(notify={"webhooks": [chat(crm)]})
        await until(lambda: "notification.look_failed" in caplog.messages)
    await make_dead(running, erp)
    await crm.arrived(1)
    assert lives(running)


async def test_of_too_many_messages_the_oldest_is_dropped(
    crm: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shell, "MAX_WAITING", 2)
    options = NotifyWebhook.model_validate(chat(crm))
    outbox = shell.Outbox(channels.Chat("chat", options), asyncio.get_running_loop().time)
    for number in range(4):
        outbox.put(wording.Message(f"{number}", (f"{number}",)))
    await crm.arrived(2)
    outbox.close()
    assert texts(crm) == ["2", "3"]
    assert len(facts(caplog, "notification.dropped")) == 2


async def test_message_too_old_to_be_of_use_is_dropped(
    relay: StartRelay,
    erp: Receiver,
    crm: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shell, "RETRY", replace(shell.RETRY, give_up_after=timedelta(milliseconds=100)))
    crm.otherwise = 500
    running = await relay(notify={"webhooks": [chat(crm)]})
    await make_dead(running, erp)
    await until(lambda: facts(caplog, "notification.dropped"))
    assert facts(caplog, "notification.dropped")[0]["reason"] == "it answered 500"


# ---- mail


async def sent(options: dict[str, Any]) -> None:
    """Send a message by mail."""
    channel = channels.Mail("email", NotifyEmail.model_validate(options))
    await notify.send(channel, notify.trial("itscope-relay", None, 0.0))


@pytest.fixture
def trusted(tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's certificate for localhost that everybody here trusts."""
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return server_context(ca)


def server_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    return context


async def test_mail_goes_by_starttls_with_a_login(mail_server: StartMail, trusted: ssl.SSLContext) -> None:
    server = await mail_server(login=True, tls_context=trusted, require_starttls=True)
    login = {"username": "relay", "password": MAIL_PASSWORD, "tls": "starttls"}
    await sent(mail(server, smtp=f"localhost:{server.port}", **login))
    assert len(server.mails) == 1
    assert server.logins == [b"relay"]


async def test_wrong_login_is_said_without_the_password(
    mail_server: StartMail, trusted: ssl.SSLContext
) -> None:
    server = await mail_server(login=True, tls_context=trusted, require_starttls=True)
    login = {"username": "relay", "password": "wrong-secret", "tls": "starttls"}
    with pytest.raises(NotSentError, match=r"^the login was refused \(535\)$"):
        await sent(mail(server, smtp=f"localhost:{server.port}", **login))
    assert server.mails == []


async def test_nothing_is_sent_in_the_clear_where_tls_is_wanted(mail_server: StartMail) -> None:
    server = await mail_server()
    with pytest.raises(NotSentError, match=r"^the server doesn't offer what is configured: TLS, or a login$"):
        await sent(mail(server, tls="starttls"))
    assert server.mails == []


async def test_mail_server_that_is_not_trusted_gets_nothing(mail_server: StartMail) -> None:
    server = await mail_server(tls_context=server_context(trustme.CA()), require_starttls=True)
    with pytest.raises(NotSentError, match=r"^the certificate isn't trusted: "):
        await sent(mail(server, smtp=f"localhost:{server.port}", tls="starttls"))
    assert server.mails == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [("554 no", "the server refused it (554)"), ("451 later", "the server refused it (451)")],
)
async def test_refusal_of_the_server_is_said_by_its_code(
    mail_server: StartMail, answer: str, error: str
) -> None:
    server = await mail_server()
    server.answer = answer
    with pytest.raises(NotSentError) as refused:
        await sent(mail(server))
    assert str(refused.value) == error


async def test_no_mail_server_is_said(unused_tcp_port: int) -> None:
    with pytest.raises(NotSentError, match=r"^can't connect: connection refused$"):
        await sent(mail(MailServer(unused_tcp_port)))


async def test_no_chat_is_said_without_its_url(unused_tcp_port: int) -> None:
    options = NotifyWebhook.model_validate(
        {"url": f"http://127.0.0.1:{unused_tcp_port}/{TOKEN}", "format": "teams"}
    )
    with pytest.raises(NotSentError, match=r"^can't connect: connection refused$"):
        await notify.send(channels.Chat("chat", options), notify.trial("r", None, 0.0))


async def test_redirect_of_a_chat_is_not_followed(crm: Receiver) -> None:
    crm.otherwise = (307, {"Location": "/elsewhere"})
    channel = channels.Chat("chat", NotifyWebhook.model_validate(chat(crm)))
    with pytest.raises(NotSentError, match=r"^it answered 307$"):
        await notify.send(channel, notify.trial("r", None, 0.0))
    assert len(crm.requests) == 1


# ---- reload


async def test_reload_begins_and_ends_messages(relay: StartRelay, erp: Receiver, crm: Receiver) -> None:
    running = await relay()
    await make_dead(running, erp)
    assert (await running.reload(notify={"webhooks": [chat(crm)]})).status == 200
    await crm.arrived(1)
    assert (await running.reload(notify=None)).status == 200
    outboxes = running.relay._notifier._outboxes
    assert outboxes == []


async def test_reload_that_leaves_a_channel_leaves_what_it_has_to_send(
    relay: StartRelay, erp: Receiver, crm: Receiver
) -> None:
    crm.otherwise = 500
    running = await relay(notify={"webhooks": [chat(crm)]})
    await make_dead(running, erp)
    await crm.arrived(1)
    assert (await running.reload(server={"max_body": "2MiB"})).status == 200
    crm.otherwise = 200
    tried = len(crm.requests)
    await crm.arrived(tried + 1)
    assert len(set(texts(crm))) == 1


async def test_channel_that_a_reload_moves_keeps_what_it_has_to_send(
    relay: StartRelay, erp: Receiver, crm: Receiver, receiver_factory: StartReceiver
) -> None:
    first = await receiver_factory()
    crm.otherwise = 500
    running = await relay(notify={"webhooks": [chat(crm)]})
    await make_dead(running, erp)
    await crm.arrived(1)
    assert (await running.reload(notify={"webhooks": [chat(first), chat(crm)]})).status == 200
    crm.otherwise = 200
    tried = len(crm.requests)
    await crm.arrived(tried + 1)
    assert len(set(texts(crm))) == 1


# ---- the log


def facts(caplog: pytest.LogCaptureFixture, fact: str) -> list[dict[str, Any]]:
    """Return the fields of each line with a fact."""
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == fact]


async def test_no_secret_and_no_payload_is_logged(
    relay: StartRelay,
    erp: Receiver,
    crm: Receiver,
    mail_server: StartMail,
    caplog: pytest.LogCaptureFixture,
    *,
    trusted: ssl.SSLContext,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await mail_server(login=True, tls_context=trusted, require_starttls=True)
    crm.otherwise = 500
    login = {"username": "relay", "password": "wrong-secret", "tls": "starttls"}
    options = mail(server, smtp=f"localhost:{server.port}", **login)
    running = await relay(notify={"webhooks": [chat(crm)], "email": options})
    await make_dead(running, erp)
    await until(lambda: len({fields["channel"] for fields in facts(caplog, "notification.not_sent")}) == 2)
    await running.drain()
    logged = " ".join(
        f"{logging.Formatter().format(record)} {record.__dict__.get('fields')}"  # with what was raised
        for record in caplog.records
        if record.name not in {"aiohttp.access", "mail.log"}  # which are the receivers'
    )
    assert "notification.not_sent" in logged
    for secret in (TOKEN, "wrong-secret", crm.url):
        assert secret not in logged
