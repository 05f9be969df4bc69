"""Traffic as fast as it goes: wrk as ITscope, nginx as the internal systems."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.harness import AUTHORIZATION, Process, answers, fetch, free_ports, wait_until

CONNECTIONS = 64
_PATIENCE_SECONDS = 30.0


def is_installed() -> bool:
    """Tell whether wrk and nginx are there."""
    return bool(shutil.which("wrk") and shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"))


class Receivers:
    """nginx answering 200 on some ports, counting."""

    def __init__(self, process: Process, urls: list[str], status_url: str) -> None:
        self.process = process
        self.urls = urls
        self._status_url = status_url
        self._before = self._asked = 0
        self._before = self.received

    @property
    def received(self) -> int:
        """Deliveries answered since this was made; nginx counts being asked for it too."""
        self._asked += 1
        return int(fetch(self._status_url).split()[9]) - self._asked - self._before

    def settle(self) -> None:
        """Wait until nothing arrives any more."""
        before = -1
        while self.received != before:
            before = self.received
            time.sleep(0.5)

    def await_arrival(self, number: int) -> None:
        """Wait until so many were received since this was made.

        Raises:
            RuntimeError: nothing arrives any more.
        """
        before, since = -1, time.monotonic()
        while (received := self.received) < number:
            if received != before:
                before, since = received, time.monotonic()
            if time.monotonic() - since > _PATIENCE_SECONDS:
                raise RuntimeError(f"{number - received} deliveries are missing")
            time.sleep(0.005)


@contextlib.contextmanager
def receivers(folder: Path, number: int = 3) -> Iterator[Receivers]:
    """Run nginx as the internal systems."""
    folder.mkdir()
    status, *ports = free_ports(number + 1)
    servers = "\n".join(
        f"server {{ listen 127.0.0.1:{port}; location / {{ return 200; }} }}" for port in ports
    )
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 120s; client_body_temp_path {folder}/body;
  {servers}
  server {{ listen 127.0.0.1:{status}; location / {{ stub_status; }} }}
}}
""",
        encoding="utf-8",
    )
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [nginx, "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command) as process:  # noqa: S603
        try:
            url = f"http://127.0.0.1:{status}/"
            wait_until(lambda: answers(url))
            yield Receivers(
                Process(process.pid, 0), [f"http://127.0.0.1:{port}/itscope" for port in ports], url
            )
        finally:
            process.terminate()
            process.wait(10)


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk reports, and its CPU time."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float
    cpu_seconds: float


def load(process: Process, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Post webhooks as fast as they are answered, over some connections, for some seconds (whole ones)."""
    script = Path(__file__).parent / "load.lua"
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
    ]
    before = os.times()
    out = subprocess.run(  # noqa: S603
        [
            *command,
            f"http://127.0.0.1:{process.port}{process.path}",
            "--",
            uuid.uuid4().hex[:12],
            AUTHORIZATION,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    after = os.times()
    result = json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[7:])
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(**result, cpu_seconds=used)


def loads(processes: Sequence[Process], seconds: float) -> list[Load]:
    """Post to several relays at the same time, CONNECTIONS in all."""
    with ThreadPoolExecutor(len(processes)) as pool:
        return list(
            pool.map(lambda process: load(process, seconds, CONNECTIONS // len(processes)), processes)
        )
