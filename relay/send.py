"""Plays ITscope: posts webhooks to a URL and reports the answers and their latency."""

from __future__ import annotations

import asyncio
import collections
import os
import ssl
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp import hdrs

from relay import __version__

_AT_ONCE = 50
_TIMEOUT_SECONDS = 60.0
_MAX_ANSWER_BYTES = 4096


@dataclass(slots=True)
class Report:
    """What came of a run.

    Attributes:
        answers: how often each answer came: a status, or the name of what failed.
        latencies_seconds: of those that were answered.
    """

    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    latencies_seconds: list[float] = field(default_factory=list)

    @property
    def all_accepted(self) -> bool:
        """Whether every answer was a 200."""
        return set(self.answers) <= {"200"}

    def quantile_seconds(self, share: float) -> float:
        """Return the latency that `share` of the answers didn't exceed."""
        ordered = sorted(self.latencies_seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def summary(self) -> str:
        """Return the run in one line for people."""
        counts = ", ".join(f"{number} x {answer}" for answer, number in sorted(self.answers.items()))
        if not self.latencies_seconds:
            return counts
        mean = statistics.fmean(self.latencies_seconds)
        return (
            f"{counts}; latency mean {mean * 1000:.1f} ms, p50 {self.quantile_seconds(0.5) * 1000:.1f} ms,"
            f" p99 {self.quantile_seconds(0.99) * 1000:.1f} ms"
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a status and the start of its text, or status 0 and what failed."""

    status: int
    text: str


class Player:
    """Posts webhooks over connections of its own. Use `async with`."""

    def __init__(self, url: str, authorization: str | None, verify: ssl.SSLContext | bool = True) -> None:  # noqa: FBT001, FBT002
        """Prepare.

        Args:
            url: where to post.
            authorization: the header's value, None for none.
            verify: how to check the certificate of an https URL.
        """
        self._url = url
        self._verify = verify
        self._headers = {
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.USER_AGENT: f"itscope-relay-send/{__version__}",
        }
        if authorization is not None:
            self._headers[hdrs.AUTHORIZATION] = authorization
        self.report = Report()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_AT_ONCE, ssl=self._verify),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._session.close()

    async def post(self, body: bytes) -> Answer:
        """Post one webhook and note the answer."""
        started = time.perf_counter()
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                text = (await response.content.read(_MAX_ANSWER_BYTES)).decode(errors="replace")
                answer = Answer(response.status, text)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = _reason(error)
            self.report.answers[reason] += 1
            return Answer(0, reason)
        self.report.latencies_seconds.append(time.perf_counter() - started)
        self.report.answers[str(answer.status)] += 1
        return answer

    async def post_all(self, bodies: Iterable[bytes], rate: float | None = None) -> Report:
        """Post many, at a steady rate a second or as fast as they are answered."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(body: bytes) -> None:
            async with room:
                await self.post(body)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, body in enumerate(bodies):
                if rate is not None:
                    await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
                async with room:  # not more tasks than can run
                    pass
                group.create_task(one(body))
        return self.report


def _reason(error: Exception) -> str:
    """Return what failed in words that can be counted: no addresses, no ports."""
    match error:
        case aiohttp.ClientSSLError(strerror=str() as why):
            return why
        case OSError(errno=int() as number) if number > 0:
            return os.strerror(number)
        case OSError(strerror=str() as why):
            return why
        case _:
            return type(error).__name__
