"""`python -m bench [PART ...]`: throughput, replicas, latency, island, replay. Ratios first, then parts.

Every comparison runs side by side and interleaved (A B A B), each side with fresh processes; medians over the
rounds are given with their range. The machine is part of the result: compare ratios, not figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import apsw
import uvloop

from bench import clock, harness, history
from tests.postgres import PostgresServer

WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """One run of one side under full load."""

    accepted: float
    delivered: float
    p50_ms: float
    p99_ms: float
    memory_mib: float
    cpu: str


def throughput(folder: Path, seconds: float, rounds: int) -> None:
    """Accepted and delivered as fast as it goes, 64 connections, 3 destinations, 600-byte events.

    The relay with SQLite and, on the same two cores as everything else, with PostgreSQL.
    """
    sides: dict[str, Callable[[Path, list[str]], AbstractContextManager[harness.Process]]] = {
        "bare": harness.bare,
        "relay": harness.relay,
        "postgres": _on_postgres,
    }
    results: dict[str, list[Round]] = {side: [] for side in sides}
    with harness.receivers(folder / "nginx") as receivers:
        for number in range(rounds):
            for side, start in sides.items():
                with start(folder / f"{side}{number}", receivers.urls) as process:
                    results[side].append(_full_load(process, receivers, seconds))
    print("throughput: accepted and delivered to 3 destinations, as fast as it goes")
    for side, (name, unit) in itertools.product(
        ("relay", "postgres"), (("delivered", "events/s"), ("accepted", "accepts/s"))
    ):
        relay, bare = ([getattr(one, name) for one in results[each]] for each in (side, "bare"))
        ratios = [a / b for a, b in zip(relay, bare, strict=True)]
        print(f"  ratio {side}/bare, {unit:10} {_spread(ratios, '.2f')}")
    for side, runs in results.items():
        print(
            f"  {side:8}  accepts/s {_spread([run.accepted for run in runs], '.0f')}"
            f"  deliveries/s {_spread([3 * run.delivered for run in runs], '.0f')}"
            f"  answer p50 {_spread([run.p50_ms for run in runs], '.1f')} ms"
            f"  p99 {_spread([run.p99_ms for run in runs], '.1f')} ms"
            f"  memory {_spread([run.memory_mib for run in runs], '.0f')} MiB"
        )
        print(f"         cores used, last round: {runs[-1].cpu}")


def _full_load(process: harness.Process, receivers: harness.Receivers, seconds: float) -> Round:
    harness.load(process.port, WARM_UP_SECONDS)
    _settle(receivers)
    received, started = receivers.received, time.monotonic()
    cpu = process.cpu_seconds, receivers.process.cpu_seconds
    load = harness.load(process.port, seconds)
    deadline = time.monotonic() + 120
    while receivers.received - received < 3 * load.requests and time.monotonic() < deadline:
        time.sleep(0.005)
    took = time.monotonic() - started
    missing = 3 * load.requests - (receivers.received - received)
    if load.errors or missing > 0:
        raise RuntimeError(f"{load.errors} errors, {missing} deliveries missing")
    return Round(
        accepted=load.requests / load.seconds,
        delivered=load.requests / took,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        memory_mib=process.memory_mib,
        cpu=(
            f"relay {(process.cpu_seconds - cpu[0]) / took:.2f},"
            f" nginx {(receivers.process.cpu_seconds - cpu[1]) / took:.2f},"
            f" wrk {load.cpu_seconds / load.seconds:.2f} (of {os.cpu_count()})"
        ),
    )


def _settle(receivers: harness.Receivers) -> None:
    """Wait until nothing arrives any more."""
    before = -1
    while receivers.received != before:
        before = receivers.received
        time.sleep(0.5)


def latency(folder: Path, seconds: float, rounds: int, rate: float = 200.0) -> None:
    """Answer and delivery times at a steady rate; the bare relay's answers show what the machine adds."""

    async def run() -> None:
        runs: dict[str, list[list[float]]] = {"relay answer": [], "bare answer": [], "relay arrival": []}
        for number in range(rounds):
            for side, start, answering in (("bare", harness.bare, 0), ("relay", harness.relay, 3)):
                receivers = clock.Receivers()
                await receivers.start(3)
                with start(folder / f"{side}-latency{number}", receivers.urls) as process:
                    await receivers.run(process.port, rate, 2, answering)
                    times = await receivers.run(process.port, rate, seconds, answering)
                    runs[f"{side} answer"].append(sorted(times.answers))
                    memory = process.memory_mib
                if times.refused:
                    raise RuntimeError(f"{times.refused} webhooks were refused")
            runs["relay arrival"].append(sorted(itertools.chain.from_iterable(times.deliveries.values())))
        print(f"latency at {rate:g} events/s, 3 destinations, open loop; arrival counts from the post")
        for name, ordered in runs.items():
            quantiles = "  ".join(
                f"p{share:g} {_spread([_quantile(run, share / 100) * 1000 for run in ordered], '.2f')} ms"
                for share in (50, 99, 99.9)
            )
            print(f"  {name:14} {quantiles}")
        print(f"  memory of the relay {memory:.0f} MiB")

    uvloop.run(run())


def island(folder: Path, seconds: float, rounds: int, rate: float = 200.0) -> None:
    """The times of two destinations, while the third answers, and while it hangs.

    Both relays run all the time and take turns, and the 99th percentile is of all rounds together: that of
    one round hangs on its 40 worst of 4,000 arrivals, which a single pause of the machine can make.
    """

    async def run() -> None:
        arrivals: dict[str, list[list[float]]] = {"all answer": [], "one hangs": []}
        sides = {name: clock.Receivers() for name in arrivals}
        await sides["all answer"].start(3)
        await sides["one hangs"].start(3, frozenset({2}))
        with (
            harness.relay(folder / "all", sides["all answer"].urls) as answering,
            harness.relay(folder / "one", sides["one hangs"].urls) as hanging,
        ):
            processes = {"all answer": (answering, 3), "one hangs": (hanging, 2)}
            for number in range(rounds + 1):
                for name, (process, expected) in processes.items():
                    times = await sides[name].run(process.port, rate, seconds, expected)
                    if number > 0:  # the first warms up
                        arrivals[name].append(times.deliveries[0] + times.deliveries[1])
        print(f"island: two healthy destinations at {rate:g} events/s, post to arrival, {rounds} rounds")
        _print_p99("one hangs", "all answer", arrivals)

    uvloop.run(run())


def replay(folder: Path, seconds: float, rounds: int, rate: float = 200.0) -> None:
    """The times of fresh events, while 100,000 old ones are replayed to one of the destinations, and not.

    Two relays with the same past take turns, each stopped while it is the other's. One of them is making the
    replays in all its rounds, and delivers them meanwhile at the pace asked for.
    """
    events, pace = 100_000, 50
    past = folder / "past.db"
    history.make(past, events, 3)

    async def run() -> None:
        arrivals: dict[str, list[list[float]]] = {"quiet": [], "replaying": []}
        sides = {name: clock.Receivers() for name in arrivals}
        for receivers in sides.values():
            await receivers.start(3)
        with (
            harness.relay(folder / "quiet", sides["quiet"].urls, past) as quiet,
            harness.relay(folder / "replaying", sides["replaying"].urls, past) as replaying,
        ):
            processes = {"quiet": quiet, "replaying": replaying}
            for process, receivers in zip(processes.values(), sides.values(), strict=True):
                await receivers.run(process.port, rate, 2, 3)
            made: list[int] = []
            enough = threading.Event()
            making = asyncio.create_task(asyncio.to_thread(_replay, replaying.admin, pace, made, enough))
            for _ in range(rounds):
                for name, process in processes.items():
                    other = quiet if process is replaying else replaying
                    with _stopped(other.pid):
                        await asyncio.sleep(1)  # in which it catches up with what became due
                        times = await sides[name].run(process.port, rate, seconds, 3)
                    arrivals[name].append(list(itertools.chain(*times.deliveries.values())))
            if making.done():
                raise RuntimeError("the replays were made before the last round; take fewer or shorter ones")
            enough.set()
            await making
        print(
            f"replay: fresh events at {rate:g}/s to 3 destinations, post to arrival, {rounds} rounds;"
            f" {events} old events being replayed to one of them at {pace}/s ({sum(made)} made meanwhile)"
        )
        _print_p99("replaying", "quiet", arrivals)

    uvloop.run(run())


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Keep a process from running."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _replay(admin: int, pace: int, made: list[int], enough: threading.Event) -> None:
    """Replay what d0 was sent, all or until it is enough, and note what each step made."""
    old = {"destination": "d0", "state": "delivered", "until": "1h"}
    wish: dict[str, object] = {"filter": old, "pace": f"{pace}/s"}
    while not enough.is_set():
        step = harness.post(f"http://127.0.0.1:{admin}/api/v1/replay", wish)
        made.append(cast("int", step["replayed"]))
        if step["next"] is None:
            break
        wish["cursor"] = step["next"]


def _print_p99(name: str, base: str, arrivals: dict[str, list[list[float]]]) -> None:
    """Print the ratio of two sides' p99 over all their rounds, and each."""
    pooled = {
        side: _quantile(sorted(itertools.chain(*every)), 0.99) * 1000 for side, every in arrivals.items()
    }
    print(f"  ratio of p99, {name} / {base}  {pooled[name] / pooled[base]:.2f}")
    for side, every in arrivals.items():
        each = _spread([_quantile(sorted(one), 0.99) * 1000 for one in every], ".2f")
        print(f"  {side:10} p99 {pooled[side]:.2f} ms; of single rounds {each} ms")


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


@contextlib.contextmanager
def _on_postgres(folder: Path, urls: list[str]) -> Iterator[harness.Process]:
    """Run the relay on a PostgreSQL of its own, on this disk, which waits for it at each commit."""
    with PostgresServer(fsync=True) as server:
        server.start()
        with harness.relay(folder, urls, database=server.create_database()) as process:
            yield process


def replicas(folder: Path, seconds: float, rounds: int) -> None:
    """One relay and two on one PostgreSQL, as fast as it goes, all on the same cores; and who uses those."""
    totals: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, str] = {}
    with harness.receivers(folder / "nginx") as receivers:
        for number, count in itertools.product(range(rounds), totals):
            with PostgresServer(fsync=True) as server, contextlib.ExitStack() as relays:
                server.start()
                database = server.create_database()
                processes = [
                    relays.enter_context(
                        harness.relay(folder / f"{count}-{number}-{place}", receivers.urls, database=database)
                    )
                    for place in range(count)
                ]
                rate, cores[count] = _all_full_load(processes, server, receivers, seconds)
                totals[count].append(rate)
    print("replicas: accepted and delivered to 3 destinations, on one PostgreSQL, as fast as it goes")
    print(f"  ratio two/one  {_spread([b / a for a, b in zip(*totals.values(), strict=True)], '.2f')}")
    for count, runs in totals.items():
        print(f"  {count}  events/s {_spread(runs, '.0f')}  cores used, last round: {cores[count]}")


def _all_full_load(
    relays: Sequence[harness.Process],
    server: PostgresServer,
    receivers: harness.Receivers,
    seconds: float,
) -> tuple[float, str]:
    """Return how many events a second all relays accepted and delivered, and what that took."""

    def used() -> dict[str, float]:
        return {
            "relays": sum(relay.cpu_seconds for relay in relays),
            "PostgreSQL": harness.cpu_seconds(server.pid),
            "nginx": receivers.process.cpu_seconds,
        }

    ports = [relay.port for relay in relays]
    harness.loads(ports, WARM_UP_SECONDS)
    _settle(receivers)
    before, received, started = used(), receivers.received, time.monotonic()
    loads = harness.loads(ports, seconds)
    requests = sum(load.requests for load in loads)
    while receivers.received - received < 3 * requests and time.monotonic() < started + seconds + 120:
        time.sleep(0.005)
    took = time.monotonic() - started
    if any(load.errors for load in loads) or receivers.received - received < 3 * requests:
        raise RuntimeError("errors, or deliveries missing")
    cores = {name: (after - before[name]) / took for name, after in used().items()}
    cores["wrk"] = sum(load.cpu_seconds for load in loads) / seconds / len(loads)  # each counts all
    return requests / took, ", ".join(f"{name} {number:.2f}" for name, number in cores.items())


PARTS = {
    "throughput": throughput,
    "replicas": replicas,
    "latency": latency,
    "island": island,
    "replay": replay,
}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default: %(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    wanted = arguments.parts or list(PARTS)
    if {"throughput", "replicas"} & {*wanted} and not (
        shutil.which("wrk") and shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    ):
        sys.exit("this needs wrk and nginx as load generator and receivers (Debian: wrk, nginx-light)")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" aiohttp {version('aiohttp')}, uvloop {version('uvloop')}, SQLite {apsw.sqlite_lib_version()}"
        " (WAL, synchronous=FULL)"
    )
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as folder:  # the disk, not a tmpfs
        for part in wanted:
            PARTS[part](Path(folder), arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
