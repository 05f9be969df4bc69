"""An answer of the public listener: a status and a JSON text, sent as one piece.

aiohttp's Response is made for any answer, and takes as long as all else that its server does for a small
request. This one knows its headers beforehand. What it says is the ingress's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache

from aiohttp import HttpVersion10, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from relay.listener import JSON, SERVER


class Answer(web.StreamResponse):
    """An answer that aiohttp's server sends; nothing can be added to it."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        """Make it.

        Args:
            status: of HTTP; one whose answers have a body.
            text: JSON.
            headers: further ones, as they stand on the wire.
        """
        super().__init__(status=status)
        self._text = text.encode()
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) if headers else ""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Send it, as answer to a request."""
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        version = request.version
        connection = ""
        if not self._keep_alive:
            connection = "Connection: close\r\n"
        elif version == HttpVersion10:
            connection = "Connection: keep-alive\r\n"
        head = (
            f"HTTP/{version.major}.{version.minor} {self._status} {self._reason}\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: {len(self._text)}\r\n"
            f"Server: {SERVER}\r\nDate: {_date(int(time.time()))}\r\n{self._lines}{connection}\r\n"
        ).encode("ascii")
        writer = request.writer
        await writer.write(head if request.method == hdrs.METH_HEAD else head + self._text)
        if request.protocol.writing_paused:  # by a client that reads nothing: it is asked for nothing more
            await writer.drain()
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: all has been sent."""


@lru_cache(maxsize=1)
def _date(at: int) -> str:
    return formatdate(at, usegmt=True)
