"""The relay beside others that a user might take instead, on the same work. `bench.install` gets them.

Each is set up as `setups` says.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from bench import harness, setups, traffic
from bench.figures import ratios, show, spread
from bench.options import Options

_LONGEST_WAIT = 3.0  # for what was accepted to arrive, in times of the load's
_WARM_UP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Round:
    """One run of one side; `arrived`: the share of what was accepted that arrived while it was waited for."""

    accepted: float
    delivered: float
    arrived: float
    p50_ms: float
    p99_ms: float
    memory_mib: float
    errors: int
    cores: str


def peers(options: Options) -> None:
    """The relay beside hookspool, Node-RED and webhook: Basic auth, a filter, 3 destinations.

    As fast as it goes. What is accepted but doesn't arrive within three times the load's time isn't waited
    for; the rate is that of what arrived.
    """
    sides: dict[str, setups.Start] = {"relay": setups.relay}
    sides |= {name: start for name, (program, start) in setups.PEERS.items() if program.exists()}
    results: dict[str, list[_Round]] = {side: [] for side in sides}
    with traffic.receivers(options.folder / "nginx") as receivers:
        for number in range(options.rounds):
            for side, start in sides.items():
                with start(options.folder / f"{side}{number}", receivers.urls) as process:
                    results[side].append(_measure(process, receivers, options.seconds))
    show("peers: events of one type to 3 destinations, Basic auth, as fast as it goes, 64 connections")
    for side in setups.PEERS:
        if side not in sides:
            show(f"  {side} is not installed; try: python -m bench.install")
            continue
        for name in ("delivered", "accepted"):
            relay, peer = ([getattr(run, name) for run in results[each]] for each in ("relay", side))
            show(f"  ratio relay/{side:17}, {name} events/s  {ratios(relay, peer, '.1f')}")
    for side, runs in results.items():
        _show(side, runs)


def _show(side: str, runs: list[_Round]) -> None:
    show(
        f"  {side:17}  accepted/s {spread([run.accepted for run in runs], '.0f')}"
        f"  delivered/s {spread([run.delivered for run in runs], '.0f')}"
        f"  answer p50 {spread([run.p50_ms for run in runs], '.1f')} ms"
        f"  p99 {spread([run.p99_ms for run in runs], '.1f')} ms"
        f"  memory {spread([run.memory_mib for run in runs], '.0f')} MiB"
    )
    last = runs[-1]
    show(f"                     last round: {last.cores}; {last.arrived:.0%} arrived, {last.errors} errors")


def _measure(process: harness.Process, receivers: traffic.Receivers, seconds: float) -> _Round:
    before = receivers.received
    receivers.await_arrival(before + 3 * traffic.load(process, _WARM_UP_SECONDS).requests)
    receivers.settle()  # what was under way when the load ended arrives as well
    cpu = process.cpu_seconds, receivers.process.cpu_seconds
    received, started = receivers.received, time.monotonic()
    load = traffic.load(process, seconds)
    accepted = load.requests - load.errors
    while receivers.received - received < 3 * accepted and _passed(started) < _LONGEST_WAIT * seconds:
        time.sleep(0.005)
    took = _passed(started)
    arrived = (receivers.received - received) / 3
    return _Round(
        accepted=accepted / load.seconds,
        delivered=arrived / took,
        arrived=min(1.0, arrived / max(1, accepted)),
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        memory_mib=process.memory_mib,
        errors=load.errors,
        cores=(
            f"cores used: it {(process.cpu_seconds - cpu[0]) / took:.2f},"
            f" nginx {(receivers.process.cpu_seconds - cpu[1]) / took:.2f},"
            f" wrk {load.cpu_seconds / load.seconds:.2f} (of {os.cpu_count()})"
        ),
    )


def _passed(since: float) -> float:
    return time.monotonic() - since
