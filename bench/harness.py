"""Processes under measurement: the relay and the bare one; what they cost, and how to talk to them.

What posts to them and what receives from them is in `traffic` and `clock`.
"""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "itscope", "correct-horse"
AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PATH = "/webhooks/itscope"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A process under measurement, and where it listens.

    Attributes:
        path: of the webhooks.
        ready_seconds: from its start until it said that it was ready.
        others: processes that belong to it.
    """

    pid: int
    port: int
    admin: int = 0
    path: str = PATH
    ready_seconds: float = 0.0
    others: tuple[int, ...] = ()

    @property
    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, (self.pid, *self.others)))

    @property
    def memory_mib(self) -> float:
        """Resident memory."""
        return sum(map(memory_mib, (self.pid, *self.others)))

    def rest(self) -> None:
        """Wait until it does nothing any more, such as checking its store in the background."""
        before = -1.0
        while self.cpu_seconds - before > 0.05:
            before = self.cpu_seconds
            time.sleep(1)

    def pause(self, destination: str) -> None:
        post(f"http://127.0.0.1:{self.admin}/api/v1/destinations/{destination}/pause", {})

    def resume(self, destination: str) -> None:
        post(f"http://127.0.0.1:{self.admin}/api/v1/destinations/{destination}/resume", {})


def memory_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


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
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """Return ports that nobody has, each another one."""
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(number)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


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
    folder: Path,
    urls: list[str],
    store: Path | None = None,
    database: str | None = None,
    routes: Sequence[Mapping[str, object]] | None = None,
) -> Iterator[Process]:
    """Run the relay as it is delivered: all features at their defaults, a store on this disk.

    Args:
        folder: to be made for it.
        urls: of the destinations d0, d1, ...
        store: to be begun with, a copy of it that isn't in the system's memory; None: an empty one.
        database: URL of a PostgreSQL to be used instead.
        routes: None: everything to every destination.
    """
    port, admin = free_port(), free_port()
    folder.mkdir()
    if store is not None:
        _copy(store, folder / "relay.db")
    names = [f"d{number}" for number in range(len(urls))]
    config = {
        "server": {"listen": f"127.0.0.1:{port}"},
        "admin": {"listen": f"127.0.0.1:{admin}"},
        "store": {"url": database or "sqlite:///relay.db"},
        "sources": {"itscope": {"auth": [{"username": USER, "password": PASSWORD}]}},
        "destinations": {name: {"url": url} for name, url in zip(names, urls, strict=True)},
        "routes": [{"name": "all", "to": names}] if routes is None else list(routes),
    }
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    with serving(folder, port, admin) as process:
        yield process
    shutil.rmtree(folder)


def _copy(store: Path, to: Path) -> None:
    """Copy a file, and have it on the disk only, as after the machine was started."""
    shutil.copy(store, to)
    with to.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def serving(folder: Path, port: int, admin: int) -> Iterator[Process]:
    """Run the relay of a folder that `relay` has made."""
    command = [sys.executable, "-m", "relay", "serve", "-c", str(folder / "config.yaml")]
    started = time.monotonic()
    with running(command, ready="admin on", log=folder / "log") as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{admin}/-/ready"))
        yield Process(process.pid, port, admin, ready_seconds=time.monotonic() - started)


@contextlib.contextmanager
def bare(folder: Path, urls: list[str]) -> Iterator[Process]:
    """Run the bare relay."""
    port = free_port()
    folder.mkdir()
    command = [sys.executable, "-m", "bench.bare", str(port), *urls]
    with running(command, ready="listening", log=folder / "log") as process:
        yield Process(process.pid, port)
    shutil.rmtree(folder)


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


def answers(url: str) -> bool:
    try:
        fetch(url)
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
