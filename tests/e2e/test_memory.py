"""Bad input in bulk: nothing gives a 5xx, and the process' memory stays flat."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.relay_process import AUTHORIZATION, RelayProcess, Start, event, write_config

WARM_UP = 1_500
REQUESTS = 6_000
AT_ONCE = 20
GROWTH_MIB = 16

_RIGHT = f"Authorization: {AUTHORIZATION['Authorization']}\r\n"


def _request(path: str, body: bytes, headers: str = _RIGHT, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: relay\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _bad_requests(path: str, number: int) -> list[bytes]:
    """Return one of each kind, those that are kept differing by the number."""
    unique = str(number).encode()
    return [
        _request(path, b'{"broken": ' + unique),
        _request(path, b"[" * 10_000 + unique + b"]" * 10_000),
        _request(path, b'{"a": NaN}' + unique),
        _request(path, b'{"a": "\\ud800' + unique + b'"}'),
        _request(path, b"\xff" + unique),
        _request(path, b"x" * 100_000 + unique),
        _request(path, event(), headers="Authorization: Basic " + "QQ" * 2_000 + "\r\n"),
        _request(path, event(), headers=f"Authorization: Basic {number:08}\r\n"),
        _request(path, gzip.compress(b"0" * 1_000_000), headers=_RIGHT + "Content-Encoding: gzip\r\n"),
        _request(path, b"", method="GET"),
        _request(f"/{number}", b"{}"),
        _request(path, b"{}", headers=_RIGHT + "X-Long: " + "x" * 20_000 + "\r\n"),
        b"\x16\x03\x01" + unique + b"\r\n\r\n",
        _request(path, json.dumps({"eventId": number, "eventType": ["x"] * 100}).encode()),
    ]


async def _send(url: str, number: int) -> list[int]:
    """Send one of each over connections of their own; return the statuses, 0 for none."""
    parts = urlsplit(url)
    statuses = []
    for request in _bad_requests(parts.path, number):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(request)
            line = await reader.readline()
            statuses.append(int(line[9:12] or 0))
        except ConnectionError:
            statuses.append(0)
        finally:
            writer.close()
    return statuses


async def _flood(url: str, first: int, requests: int) -> Counter[int]:
    counts: Counter[int] = Counter()
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            counts.update(await _send(url, number))

    async with asyncio.TaskGroup() as group:
        for number in range(first, first + requests // len(_bad_requests("/", 0))):
            group.create_task(one(number))
    return counts


def _resident_mib(process: RelayProcess) -> float:
    status = Path(f"/proc/{process.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def test_bad_requests_give_no_5xx_and_no_growth(start: Start, tmp_path: Path) -> None:
    relay = await start(write_config(tmp_path, {"erp": "http://127.0.0.1:9/"}), "--log-level", "error")
    await _flood(relay.ingress, 0, WARM_UP)
    before = _resident_mib(relay)
    counts = await _flood(relay.ingress, WARM_UP, REQUESTS)
    after = _resident_mib(relay)
    assert set(counts) <= {0, 200, 400, 401, 404, 405, 413, 415}, counts
    assert {200, 400, 401, 404, 405, 415} <= set(counts)
    assert after - before < GROWTH_MIB, f"grew from {before:.0f} to {after:.0f} MiB"
