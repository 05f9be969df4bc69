"""Parts at a steady rate, whatever the answers take: latency, island, replay."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import cast

import uvloop

from bench import clock, harness, history
from bench.figures import quantile, ratios, show, spread
from bench.options import Options

RATE = 200.0  # events a second
FAST_RATE = 1000.0


def latency(options: Options) -> None:
    """Answer and delivery times at two steady rates, each beside the bare relay's."""
    uvloop.run(_latency(options, RATE))
    uvloop.run(_latency(options, FAST_RATE))


async def _latency(options: Options, rate: float) -> None:
    runs: dict[str, list[clock.Times]] = {"bare": [], "relay": []}
    memory = 0.0
    for number in range(options.rounds):
        for side, start in (("bare", harness.bare), ("relay", harness.relay)):
            receivers = clock.Receivers()
            await receivers.start(3)
            with start(options.folder / f"{side}-{rate:g}-{number}", receivers.urls) as process:
                await receivers.run(process.port, rate, 2, 3)
                runs[side].append(await receivers.run(process.port, rate, options.seconds, 3))
                memory = process.memory_mib
    show(f"latency at {rate:g} events/s, 3 destinations, open loop; arrival counts from the post")
    answers = {side: [sorted(run.answers) for run in every] for side, every in runs.items()}
    arrivals = {
        side: [sorted(itertools.chain(*run.deliveries.values())) for run in every]
        for side, every in runs.items()
    }
    for name, sides in (("answer", answers), ("arrival", arrivals)):
        for share in (0.5, 0.99):
            relay, bare = ([quantile(run, share) for run in sides[side]] for side in ("relay", "bare"))
            show(f"  ratio relay/bare, {name:7} p{share * 100:g}  {ratios(relay, bare)}")
    for side, every in runs.items():
        _show_quantiles(f"{side} answer", answers[side])
        _show_quantiles(f"{side} arrival", arrivals[side])
        _show_quantiles("  posts left late by", [sorted(run.late) for run in every])
        show(
            f"    the load generator used {spread([run.cores for run in every], '.2f')} cores;"
            f" {sum(run.refused for run in every)} posts were refused"
        )
    show(f"  memory of the relay {memory:.0f} MiB")


def _show_quantiles(name: str, runs: Sequence[Sequence[float]]) -> None:
    """Print quantiles of durations in order, over the runs."""
    quantiles = "  ".join(
        f"p{share:g} {spread([quantile(run, share / 100) * 1000 for run in runs], '.2f')} ms"
        for share in (50, 99, 99.9)
    )
    show(f"  {name:20} {quantiles}")


def island(options: Options) -> None:
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
            harness.relay(options.folder / "all", sides["all answer"].urls) as answering,
            harness.relay(options.folder / "one", sides["one hangs"].urls) as hanging,
        ):
            processes = {"all answer": (answering, 3), "one hangs": (hanging, 2)}
            for number in range(options.rounds + 1):
                for name, (process, expected) in processes.items():
                    times = await sides[name].run(process.port, RATE, options.seconds, expected)
                    if number > 0:  # the first warms up
                        arrivals[name].append(times.deliveries[0] + times.deliveries[1])
        show(
            f"island: two healthy destinations at {RATE:g} events/s, post to arrival, {options.rounds} rounds"
        )
        _show_p99("one hangs", "all answer", arrivals)

    uvloop.run(run())


def replay(options: Options) -> None:
    """The times of fresh events, while 100,000 old ones are replayed to one of the destinations, and not.

    Two relays with the same past take turns, each stopped while it is the other's. One of them is making the
    replays in all its rounds, and delivers them meanwhile at the pace asked for.
    """
    events, pace = 100_000, 50
    past = options.folder / "past.db"
    history.make(past, events, 3)

    async def run() -> None:
        arrivals: dict[str, list[list[float]]] = {"quiet": [], "replaying": []}
        sides = {name: clock.Receivers() for name in arrivals}
        for receivers in sides.values():
            await receivers.start(3)
        with (
            harness.relay(options.folder / "quiet", sides["quiet"].urls, past) as quiet,
            harness.relay(options.folder / "replaying", sides["replaying"].urls, past) as replaying,
        ):
            processes = {"quiet": quiet, "replaying": replaying}
            for process, receivers in zip(processes.values(), sides.values(), strict=True):
                await receivers.run(process.port, RATE, 2, 3)
            made: list[int] = []
            enough = threading.Event()
            making = asyncio.create_task(asyncio.to_thread(_replay, replaying.admin, pace, made, enough))
            for _ in range(options.rounds):
                for name, process in processes.items():
                    other = quiet if process is replaying else replaying
                    with _stopped(other.pid):
                        await asyncio.sleep(1)  # in which it catches up with what became due
                        times = await sides[name].run(process.port, RATE, options.seconds, 3)
                    arrivals[name].append(list(itertools.chain(*times.deliveries.values())))
            if making.done():
                raise RuntimeError("the replays were made before the last round; take fewer or shorter ones")
            enough.set()
            await making
        show(
            f"replay: fresh events at {RATE:g}/s to 3 destinations, post to arrival, {options.rounds} rounds;"
            f" {events} old events being replayed to one of them at {pace}/s ({sum(made)} made meanwhile)"
        )
        _show_p99("replaying", "quiet", arrivals)

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


def _show_p99(name: str, base: str, arrivals: dict[str, list[list[float]]]) -> None:
    """Print the ratio of two sides' p99 over all their rounds, and each."""
    pooled = {
        side: quantile(sorted(itertools.chain(*every)), 0.99) * 1000 for side, every in arrivals.items()
    }
    show(f"  ratio of p99, {name} / {base}  {pooled[name] / pooled[base]:.2f}")
    for side, every in arrivals.items():
        each = spread([quantile(sorted(one), 0.99) * 1000 for one in every], ".2f")
        show(f"  {side:10} p99 {pooled[side]:.2f} ms; of single rounds {each} ms")
