"""Whether memory stays flat: at rest, and while a million events pass through."""

from __future__ import annotations

import time
from pathlib import Path

from bench import harness, traffic
from bench.figures import show
from bench.options import Options

_LINES = 10
_REST_SECONDS = 10.0
_BURST_SECONDS = 5.0


def memory(options: Options) -> None:
    """Resident memory at rest, and over --events events to 3 destinations, as fast as it goes."""
    folder = options.folder / "relay"
    with (
        traffic.receivers(options.folder / "nginx") as receivers,
        harness.relay(folder, receivers.urls) as process,
    ):
        time.sleep(_REST_SECONDS)
        at_rest = process.memory_mib
        show(f"memory: over {options.events} events to 3 destinations, as fast as it goes")
        show(f"  at rest         {at_rest:.1f} MiB resident")
        sizes = [_after(events, process, receivers, folder) for events in _steps(options.events)]
    show(f"  last / first {sizes[-1] / sizes[0]:.3f}; last - at rest {sizes[-1] - at_rest:.1f} MiB")


def _steps(events: int) -> list[int]:
    return [events * number // _LINES for number in range(1, _LINES + 1)]


def _after(events: int, process: harness.Process, receivers: traffic.Receivers, folder: Path) -> float:
    """Go on until so many events have arrived everywhere; print and return the resident memory then."""
    started, before = time.monotonic(), receivers.received
    while (received := receivers.received) < 3 * events:
        rate = (received - before) / 3 / (time.monotonic() - started) or 1000.0
        load = traffic.load(process, min(_BURST_SECONDS, (events - received / 3) / rate))
        if load.errors:
            raise RuntimeError(f"{load.errors} errors")
        receivers.await_arrival(received + 3 * load.requests)
    size = process.memory_mib
    store = sum(file.stat().st_size for file in folder.glob("relay.db*")) / 1048576
    rate = (received - before) / 3 / (time.monotonic() - started)
    show(f"  {received // 3:9} events {size:.1f} MiB resident, {rate:.0f} events/s, store {store:.0f} MiB")
    return size
