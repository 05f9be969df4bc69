"""Processes of a measurement: relay, bare relay, nginx as receivers, wrk as ITscope; and what they cost."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "itscope", "correct-horse"
AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PATH = "/webhooks/itscope"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A process under measurement, and where it listens."""

    pid: int
    port: int
    admin: int = 0

    @property
    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    @property
    def memory_mib(self) -> float:
        """Resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise LookupError(self.pid)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of the children it waited for or has."""
    total = 0.0
    for stat in [Path(f"/proc/{pid}/stat"), *_children(pid)]:
        with contextlib.suppress(FileNotFoundError):
            fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / _TICKS
    return total


def _children(pid: int) -> list[Path]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    return [Path(f"/proc/{child}/stat") for child in text.split()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], *, ready: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the block ends; enter it when the command has printed `ready`."""
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,  # noqa: S603
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(ready):
                    break
            else:
                raise RuntimeError(f"{command[0]} ended: {log.read_text(encoding='utf-8')[-2000:]}")
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def relay(
    folder: Path, urls: list[str], store: Path | None = None, database: str | None = None
) -> Iterator[Process]:
    """Run the relay as it is delivered: all features at their defaults, a store on this disk.

    Args:
        folder: to be made for it.
        urls: of the destinations d0, d1, ...
        store: to be begun with, a copy of it; None: an empty one.
        database: URL of a PostgreSQL to be used instead.
    """
    port, admin = free_port(), free_port()
    folder.mkdir()
    if store is not None:
        shutil.copy(store, folder / "relay.db")
    destinations = "\n".join(f"  d{number}: {{url: '{url}'}}" for number, url in enumerate(urls))
    (folder / "config.yaml").write_text(
        f"server: {{listen: '127.0.0.1:{port}'}}\n"
        f"admin: {{listen: '127.0.0.1:{admin}'}}\n"
        f"store: {{url: '{database or 'sqlite:///relay.db'}'}}\n"
        f"sources: {{itscope: {{auth: [{{username: {USER}, password: {PASSWORD}}}]}}}}\n"
        f"destinations:\n{destinations}\n"
        f"routes: [{{name: all, to: [{', '.join(f'd{number}' for number in range(len(urls)))}]}}]\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "relay", "serve", "-c", str(folder / "config.yaml")]
    with running(command, ready="admin on", log=folder / "log") as process:
        yield Process(process.pid, port, admin)
    shutil.rmtree(folder)


@contextlib.contextmanager
def bare(folder: Path, urls: list[str]) -> Iterator[Process]:
    """Run the bare relay."""
    port = free_port()
    folder.mkdir()
    command = [sys.executable, "-m", "bench.bare", str(port), *urls]
    with running(command, ready="listening", log=folder / "log") as process:
        yield Process(process.pid, port)
    shutil.rmtree(folder)


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


@contextlib.contextmanager
def receivers(folder: Path, number: int = 3) -> Iterator[Receivers]:
    """Run nginx as the internal systems."""
    folder.mkdir()
    ports = [free_port() for _ in range(number)]
    status = free_port()
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
            _wait_until(lambda: _answers(url))
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


def load(port: int, seconds: float, connections: int = 64) -> Load:
    """Post webhooks as fast as they are answered, over some connections, for some seconds."""
    script = Path(__file__).parent / "load.lua"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script)]
    before = os.times()
    out = subprocess.run(  # noqa: S603
        [*command, f"http://127.0.0.1:{port}{PATH}", "--", uuid.uuid4().hex[:12], AUTHORIZATION],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    after = os.times()
    result = json.loads(next(line for line in out.splitlines() if line.startswith("RESULT"))[7:])
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Load(**result, cpu_seconds=used)


def loads(ports: list[int], seconds: float) -> list[Load]:
    """Post to several relays at the same time, 64 connections in all."""
    with ThreadPoolExecutor(len(ports)) as pool:
        return list(pool.map(lambda port: load(port, seconds, 64 // len(ports)), ports))


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        text: str = response.read().decode()
    return text


def post(url: str, payload: dict[str, object]) -> dict[str, object]:
    """Post JSON and return the JSON that is answered."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(payload).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=600) as response:  # noqa: S310
        answer: dict[str, object] = json.load(response)
    return answer


def _answers(url: str) -> bool:
    try:
        fetch(url)
    except OSError:
        return False
    return True


def _wait_until(true: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
