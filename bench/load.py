"""Parts that load a relay as fast as it goes: throughput, accept, replicas."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench import harness, traffic
from bench.figures import ratios, show, spread
from bench.options import Options
from tests.postgres import PostgresServer

WARM_UP_SECONDS = 1.0
_NOWHERE = "http://127.0.0.1:9/"  # of destinations that are paused


@dataclass(frozen=True, slots=True)
class Round:
    """One run of one side under full load.

    Attributes:
        accepted, delivered: events a second; an event is delivered when it has arrived everywhere.
        cpu_us: CPU time of the relay for an event, in microseconds.
        cores: who used how much of the machine.
    """

    accepted: float
    delivered: float
    p50_ms: float
    p99_ms: float
    memory_mib: float
    cpu_us: float
    cores: str


def throughput(options: Options) -> None:
    """Accepted and delivered as fast as it goes, 64 connections, 3 destinations, 600-byte events.

    The relay with SQLite and, on the same two cores as everything else, with PostgreSQL.
    """
    sides: dict[str, Callable[[Path, list[str]], AbstractContextManager[harness.Process]]] = {
        "bare": harness.bare,
        "relay": harness.relay,
        "postgres": _on_postgres,
    }
    results: dict[str, list[Round]] = {side: [] for side in sides}
    with traffic.receivers(options.folder / "nginx") as receivers:
        for number in range(options.rounds):
            for side, start in sides.items():
                with start(options.folder / f"{side}{number}", receivers.urls) as process:
                    results[side].append(full_load(process, receivers, options.seconds))
    show("throughput: accepted and delivered to 3 destinations, as fast as it goes")
    for side, (name, unit) in itertools.product(
        ("relay", "postgres"), (("delivered", "events/s"), ("accepted", "accepts/s"))
    ):
        relay, bare = ([getattr(one, name) for one in results[each]] for each in (side, "bare"))
        show(f"  ratio {side}/bare, {unit:10} {ratios(relay, bare)}")
    for side, runs in results.items():
        show_rounds(side, runs, copies=3)


def show_rounds(side: str, runs: Sequence[Round], copies: int) -> None:
    """Print what the rounds of a side came to."""
    show(
        f"  {side:8}  accepts/s {spread([run.accepted for run in runs], '.0f')}"
        f"  deliveries/s {spread([copies * run.delivered for run in runs], '.0f')}"
        f"  answer p50 {spread([run.p50_ms for run in runs], '.1f')} ms"
        f"  p99 {spread([run.p99_ms for run in runs], '.1f')} ms"
        f"  memory {spread([run.memory_mib for run in runs], '.0f')} MiB"
    )
    show(f"            cores used, last round: {runs[-1].cores}")


def full_load(
    process: harness.Process,
    receivers: traffic.Receivers,
    seconds: float,
    copies: int = 3,
    connections: int = traffic.CONNECTIONS,
) -> Round:
    """Warm up, then post as fast as it is answered and wait until each event has arrived `copies` times.

    Raises:
        RuntimeError: webhooks were refused, or deliveries are missing.
    """
    traffic.load(process, WARM_UP_SECONDS, connections)
    receivers.settle()
    received, started = receivers.received, time.monotonic()
    cpu = process.cpu_seconds, receivers.process.cpu_seconds
    load = traffic.load(process, seconds, connections)
    receivers.await_arrival(received + copies * load.requests)
    took = time.monotonic() - started
    if load.errors or not load.requests:
        raise RuntimeError(f"{load.errors} errors, {load.requests} answers")
    used = process.cpu_seconds - cpu[0]
    return Round(
        accepted=load.requests / load.seconds,
        delivered=load.requests / took,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        memory_mib=process.memory_mib,
        cpu_us=used / load.requests * 1e6,
        cores=(
            f"relay {used / took:.2f}, nginx {(receivers.process.cpu_seconds - cpu[1]) / took:.2f},"
            f" wrk {load.cpu_seconds / load.seconds:.2f} (of {os.cpu_count()})"
        ),
    )


def accept(options: Options) -> None:
    """Accepted as fast as it goes while nothing is delivered: every destination is paused.

    The bare side authenticates, parses and answers; the relay also stores an event and three deliveries.
    """
    sides: dict[str, Callable[[Path, list[str]], AbstractContextManager[harness.Process]]] = {
        "bare": lambda folder, _urls: harness.bare(folder, []),
        "relay": _all_paused,
    }
    results: dict[str, list[traffic.Load]] = {side: [] for side in sides}
    cores: dict[str, str] = {}
    for number in range(options.rounds):
        for side, start in sides.items():
            with start(options.folder / f"{side}{number}", [_NOWHERE] * 3) as process:
                traffic.load(process, WARM_UP_SECONDS)
                before = process.cpu_seconds
                load = traffic.load(process, options.seconds)
                used = (process.cpu_seconds - before) / load.seconds
            if load.errors:
                raise RuntimeError(f"{load.errors} errors")
            results[side].append(load)
            cores[side] = (
                f"{side} {used:.2f}, wrk {load.cpu_seconds / load.seconds:.2f} (of {os.cpu_count()})"
            )
    show(
        "accept: accepted for 3 paused destinations, as fast as it goes; bare: authenticates, parses, answers"
    )
    rates = {side: [run.requests / run.seconds for run in runs] for side, runs in results.items()}
    show(f"  ratio relay/bare, accepts/s  {ratios(rates['relay'], rates['bare'])}")
    for side, runs in results.items():
        show(
            f"  {side:8}  accepts/s {spread(rates[side], '.0f')}"
            f"  answer p50 {spread([run.p50_ms for run in runs], '.1f')} ms"
            f"  p99 {spread([run.p99_ms for run in runs], '.1f')} ms  cores used, last round: {cores[side]}"
        )


@contextlib.contextmanager
def _all_paused(folder: Path, urls: list[str]) -> Iterator[harness.Process]:
    with harness.relay(folder, urls) as process:
        for number in range(len(urls)):
            process.pause(f"d{number}")
        yield process


@contextlib.contextmanager
def _on_postgres(folder: Path, urls: list[str]) -> Iterator[harness.Process]:
    """Run the relay on a PostgreSQL of its own, on this disk, which waits for it at each commit."""
    with PostgresServer(fsync=True) as server:
        server.start()
        with harness.relay(folder, urls, database=server.create_database()) as process:
            yield process


def replicas(options: Options) -> None:
    """One relay and two on one PostgreSQL, as fast as it goes, all on the same cores; and who uses those."""
    folder = options.folder
    totals: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, str] = {}
    with traffic.receivers(options.folder / "nginx") as receivers:
        for number, count in itertools.product(range(options.rounds), totals):
            with PostgresServer(fsync=True) as server, contextlib.ExitStack() as relays:
                server.start()
                database = server.create_database()
                processes = [
                    relays.enter_context(
                        harness.relay(folder / f"{count}-{number}-{place}", receivers.urls, database=database)
                    )
                    for place in range(count)
                ]
                rate, cores[count] = _all_full_load(processes, server, receivers, options.seconds)
                totals[count].append(rate)
    show("replicas: accepted and delivered to 3 destinations, on one PostgreSQL, as fast as it goes")
    show(f"  ratio two/one  {ratios(totals[2], totals[1])}")
    for count, runs in totals.items():
        show(f"  {count}  events/s {spread(runs, '.0f')}  cores used, last round: {cores[count]}")


def _all_full_load(
    relays: Sequence[harness.Process],
    server: PostgresServer,
    receivers: traffic.Receivers,
    seconds: float,
) -> tuple[float, str]:
    """Return how many events a second all relays accepted and delivered, and what that took."""

    def used() -> dict[str, float]:
        return {
            "relays": sum(relay.cpu_seconds for relay in relays),
            "PostgreSQL": harness.cpu_seconds(server.pid),
            "nginx": receivers.process.cpu_seconds,
        }

    traffic.loads(relays, WARM_UP_SECONDS)
    receivers.settle()
    before, received, started = used(), receivers.received, time.monotonic()
    loads = traffic.loads(relays, seconds)
    requests = sum(load.requests for load in loads)
    receivers.await_arrival(received + 3 * requests)
    took = time.monotonic() - started
    if errors := sum(load.errors for load in loads):
        raise RuntimeError(f"{errors} errors")
    cores = {name: (after - before[name]) / took for name, after in used().items()}
    cores["wrk"] = sum(load.cpu_seconds for load in loads) / seconds / len(loads)  # each counts all
    return requests / took, ", ".join(f"{name} {number:.2f}" for name, number in cores.items())
