"""What millions of deliveries cost that wait for a dead destination, and how fast they go when it is back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bench import harness, history, traffic
from bench.figures import ratios, show, spread
from bench.load import Round, full_load, show_rounds
from bench.options import Options

_DEAD = "d3"
_OTHERS = 3
_WARM_UP_SECONDS = 1.0


@dataclass(slots=True)
class _Side:
    """The rounds of a relay that has something waiting, or not."""

    runs: list[Round] = field(default_factory=list)
    ready_seconds: list[float] = field(default_factory=list)


def waiting(options: Options) -> None:
    """With --waiting deliveries pending for a paused destination: the others, memory, start, and the drain.

    Both sides have that paused destination, and owe it each event; the store of one is empty at first. It is
    copied and not in the system's memory when the relay starts; the load begins when the relay is at rest,
    having checked its store in the background.
    """
    stores = {"empty": options.folder / "empty.db", "waiting": options.folder / "waiting.db"}
    started = time.monotonic()
    history.make_waiting(stores["empty"], 0, _DEAD)
    history.make_waiting(stores["waiting"], options.waiting, _DEAD)
    size = stores["waiting"].stat().st_size / 1048576
    show(f"waiting: made a store of {size:.0f} MiB in {time.monotonic() - started:.0f} s")
    sides = {name: _Side() for name in stores}
    drained: list[float] = []
    fast: list[Round] = []
    with traffic.receivers(options.folder / "nginx", _OTHERS + 1) as receivers:
        for number in range(options.rounds):
            for name, side in sides.items():
                folder = options.folder / f"{name}{number}"
                with harness.relay(folder, receivers.urls, stores[name]) as process:
                    process.rest()
                    side.ready_seconds.append(process.ready_seconds)
                    side.runs.append(full_load(process, receivers, options.seconds, _OTHERS))
                    if name == "waiting":
                        drained.append(_drain(process, receivers, options.seconds))
            with harness.relay(options.folder / f"fast{number}", receivers.urls[_OTHERS:]) as process:
                fast.append(full_load(process, receivers, options.seconds, 1))
    _show(options, sides)
    show("  the destination is back, and nothing else happens; fast path: new events to it alone")
    alone = [run.delivered for run in fast]
    show(f"  ratio backlog / fast path to it alone, deliveries/s  {ratios(drained, alone)}")
    together = [_OTHERS * run.delivered for run in sides["empty"].runs]
    show(f"  ratio backlog / fast path to 3 others together       {ratios(drained, together)}")
    show(f"  backlog   deliveries/s {spread(drained, '.0f')}")
    show_rounds("fast path", fast, 1)


def _show(options: Options, sides: dict[str, _Side]) -> None:
    full, empty = sides["waiting"], sides["empty"]
    show(f"  {options.waiting} deliveries wait for a paused destination; new events go to it and to 3 others")
    for name, unit in (("accepted", "accepts/s"), ("delivered", "events/s to the 3")):
        one, other = ([getattr(run, name) for run in side.runs] for side in (full, empty))
        show(f"  ratio waiting/empty, {unit:17} {ratios(one, other)}")
    above = [run.memory_mib - base.memory_mib for run, base in zip(full.runs, empty.runs, strict=True)]
    show(f"  memory above the empty store's  {spread(above, '.1f')} MiB")
    for name, side in sides.items():
        show(f"  {name:8}  from start to ready {spread(side.ready_seconds, '.2f')} s")
        show_rounds(name, side.runs, _OTHERS)


def _drain(process: harness.Process, receivers: traffic.Receivers, seconds: float) -> float:
    """Return how many waiting deliveries a second arrive once their destination is no longer paused."""
    receivers.settle()
    process.resume(_DEAD)
    time.sleep(_WARM_UP_SECONDS)
    received, started = receivers.received, time.monotonic()
    time.sleep(seconds)
    return (receivers.received - received) / (time.monotonic() - started)
