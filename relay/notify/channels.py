"""Where messages go: the incoming webhook of a chat, and mail.

A failure is an error with a sentence that can be logged: neither the address nor what a server answered is in
it, as both may hold a secret. Trying again is left to `notifier`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

import aiohttp
import aiosmtplib
from aiohttp import hdrs

from relay import __version__
from relay.config import Notify, NotifyEmail, NotifyWebhook, split_address
from relay.errors import RelayError
from relay.notify.wording import Message, as_json
from relay.units import format_duration

_log = logging.getLogger(__name__)

SEND_SECONDS = 30.0  # for one try


class NotSentError(RelayError):
    """A message was not sent."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A channel of a chat. `label` is how the log and `notify-test` call it."""

    label: str
    options: NotifyWebhook

    async def deliver(self, message: Message) -> None:
        """Post a message."""
        headers = {hdrs.USER_AGENT: f"itscope-relay/{__version__}"}
        async with (
            aiohttp.ClientSession(headers=headers, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(
                self.options.secret, json=as_json(message, self.options.format), allow_redirects=False
            ) as answer,
        ):
            if not 200 <= answer.status < 300:
                raise NotSentError(f"it answered {answer.status}")


@dataclass(frozen=True, slots=True)
class Mail:
    """Mail to all recipients at once. `label` as of `Chat`."""

    label: str
    options: NotifyEmail

    async def deliver(self, message: Message) -> None:
        """Hand a message to the server."""
        options = self.options
        host, port = split_address(options.smtp)
        username, password = options.login or (None, None)
        refused, _ = await aiosmtplib.send(
            self.written(message),
            hostname=host,
            port=port,
            username=username,
            password=password,
            use_tls=options.tls == "implicit",
            start_tls=options.tls == "starttls",
            local_hostname=_domain(options.from_),
            timeout=SEND_SECONDS,
        )
        if refused:
            fields = {"channel": self.label, "recipients": len(refused)}
            _log.warning("notification.recipients_refused", extra={"fields": fields})

    def written(self, message: Message) -> EmailMessage:
        """Return the mail, with a new id."""
        mail = EmailMessage()
        mail["From"] = self.options.from_
        mail["To"] = ", ".join(self.options.to)
        mail["Subject"] = message.subject
        mail["Date"] = formatdate()
        mail["Message-ID"] = make_msgid(domain=_domain(self.options.from_))
        mail["Auto-Submitted"] = "auto-generated"  # no out-of-office answers (RFC 3834)
        mail.set_content(message.text + "\n")
        return mail


Channel = Chat | Mail


def channels_of(notify: Notify | None) -> list[Channel]:
    """Return the channels of a configuration; those with the same label and options are equal."""
    if notify is None:
        return []
    chats: list[Channel] = [
        Chat(f"webhooks[{number}] ({options.format})", options)
        for number, options in enumerate(notify.webhooks)
    ]
    return [*chats, Mail("email", notify.email)] if notify.email else chats


async def send(channel: Channel, message: Message) -> None:
    """Send a message once, in a bounded time.

    Raises:
        NotSentError: it wasn't sent, or that isn't known.
    """
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await channel.deliver(message)
    except NotSentError:
        raise
    except Exception as error:
        raise NotSentError(_described(error)) from error


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _described(error: BaseException) -> str:
    """Return a sentence for operators: without the address, and without words of the server."""
    match error:
        case TimeoutError():
            return f"no answer within {format_duration(SEND_SECONDS)}"
        case aiosmtplib.SMTPException() if said := _refusal(error):
            return said
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return "the host name can't be resolved"
        case ssl.SSLCertVerificationError(verify_message=str() as reason):
            return f"the certificate isn't trusted: {reason}"
        case ssl.SSLError():
            return "TLS failed"
        case BaseException(__cause__=BaseException() as cause):
            return _described(cause)
        case OSError(errno=int() as number) if number > 0:
            return f"can't connect: {os.strerror(number).lower()}"
        case aiosmtplib.SMTPException() | aiohttp.ClientError() | OSError():
            return "the connection failed"
        case _:
            return f"an unexpected error in the relay ({type(error).__name__})"


def _refusal(error: aiosmtplib.SMTPException) -> str | None:
    """Return what a mail server said no to, None where it didn't get so far."""
    match error:
        case aiosmtplib.SMTPAuthenticationError(code=code):
            return f"the login was refused ({code})"
        case aiosmtplib.SMTPRecipientsRefused():
            return "the server takes no mail for any of the recipients"
        case aiosmtplib.SMTPResponseException(code=code):
            return f"the server refused it ({code})"
        case _ if type(error) in {aiosmtplib.SMTPNotSupported, aiosmtplib.SMTPException}:  # the client's own
            return "the server doesn't offer what is configured: TLS, or a login"
        case _:
            return None
