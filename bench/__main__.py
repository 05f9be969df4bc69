"""`python -m bench [PART ...]` measures the relay beside others, in one run. Ratios first, then figures.

Every comparison runs side by side and interleaved (A B A B), each side with fresh processes; medians over the
rounds are given with their range. The machine is part of the result: compare ratios, not figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import apsw

from bench import load, memory, pages, peers, scale, steady, traffic, waiting
from bench.figures import show
from bench.options import Options

_QUICK: dict[str, Callable[[Options], None]] = {
    "throughput": load.throughput,
    "accept": load.accept,
    "replicas": load.replicas,
    "latency": steady.latency,
    "island": steady.island,
    "replay": steady.replay,
}
_LONG: dict[str, Callable[[Options], None]] = {
    "waiting": waiting.waiting,
    "memory": memory.memory,
    "scale": scale.scale,
    "peers": peers.peers,
    "pages": pages.pages,
}
_PARTS = _QUICK | _LONG
_WITHOUT_WRK = {"latency", "island", "replay"}


def main() -> None:
    """Run the parts that are named, or the quick ones."""
    arguments = _arguments()
    if {*arguments.parts} - _WITHOUT_WRK and not traffic.is_installed():
        sys.exit("this needs wrk and nginx as load generator and receivers (Debian: wrk, nginx-light)")
    show(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" aiohttp {version('aiohttp')}, uvloop {version('uvloop')}, SQLite {apsw.sqlite_lib_version()}"
        " (WAL, synchronous=FULL)"
    )
    for part in arguments.parts:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as folder:  # the disk, no tmpfs
            _PARTS[part](
                Options(
                    folder=Path(folder),
                    seconds=arguments.seconds,
                    rounds=arguments.rounds,
                    waiting=arguments.waiting,
                    events=arguments.events,
                )
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="\n".join(f"{name:12}{_summary(part)}" for name, part in _PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"any of those below; default: {', '.join(_QUICK)}, which take minutes",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side (default: %(default)s)")
    parser.add_argument(
        "--waiting",
        type=int,
        default=3_000_000,
        help="deliveries that wait for a dead destination (part waiting; default: %(default)s)",
    )
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="to be accepted (part memory; default: %(default)s)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - _PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    arguments.parts = arguments.parts or list(_QUICK)
    return arguments


def _summary(part: Callable[[Options], None]) -> str:
    return (part.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    main()
