"""What the operator's pages cost over a large store: how soon they come, and whether webhooks notice."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Sequence

from bench import harness, history, traffic
from bench.figures import quantile, ratios, show, spread
from bench.load import WARM_UP_SECONDS
from bench.options import Options

_NUMBER = 1_000_000
_TIMES = 20  # that each page is asked for
_DESTINATIONS = ["http://127.0.0.1:9/"] * 3  # paused
_OVERVIEW_SECONDS = 5.0  # as the overview asks by itself
_SCRAPE_SECONDS = 15.0
_ORDER = f"PO-{_NUMBER // 8:07d}"
_PAGES = {
    "overview": "/",
    "find, all": "/find",
    "order": f"/orders/{_ORDER}",
    "event": f"/events/{_NUMBER // 2 + 1}",
    "dead letters": "/dead",
    "unrouted": "/unrouted",
    "quarantine": "/quarantine",
    "routes": "/routes",
    "audit": "/audit",
}
_SEARCHES = {
    "order id": _ORDER,
    "its beginning": _ORDER[:-2],
    "document id": f"D-{_NUMBER // 3}",
    "event id": f"{(_NUMBER * 2654435761) & 0xFFFFFFFF:08x}-0000-4000-8000-{_NUMBER:012x}",
    "nothing like it": "no-such-id",
}


def pages(options: Options) -> None:
    """Every page, searches and /metrics over a million events, and what they cost accepting."""
    store = options.folder / "varied.db"
    history.make_varied(store, _NUMBER)
    show(f"pages: {_NUMBER} events, three deliveries each, a store of {store.stat().st_size >> 20} MiB")
    with harness.relay(options.folder / "relay", _DESTINATIONS, store) as process:
        process.rest()
        asked = {
            **_PAGES,
            **{f"search: {what}": f"/find?q={text}" for what, text in _SEARCHES.items()},
            "metrics": "/metrics",
        }
        for name, path in asked.items():
            times = sorted(_first_byte(process.admin, path) for _ in range(_TIMES))
            show(
                f"  {name:24} first byte {quantile(times, 0.5) * 1000:6.1f} ms,"
                f" at worst {times[-1] * 1000:6.1f} ms of {_TIMES}"
            )
        for number in range(len(_DESTINATIONS)):
            process.pause(f"d{number}")
        traffic.load(process, WARM_UP_SECONDS)
        alone, watched = [], []
        for _ in range(options.rounds):
            alone.append(_accepted(process, options.seconds))
            with _watching(process.admin):
                watched.append(_accepted(process, options.seconds))
    show(
        "  accepting, destinations paused, while an overview is open, an order is searched and opened every"
        f" second, and Prometheus scrapes every {_SCRAPE_SECONDS:g} s"
    )
    show(f"  ratio watched/alone, accepts/s  {ratios(watched, alone)}")
    show(f"  alone    accepts/s {spread(alone, '.0f')}")
    show(f"  watched  accepts/s {spread(watched, '.0f')}")


def _accepted(process: harness.Process, seconds: float) -> float:
    """Return how many webhooks a second are accepted."""
    load = traffic.load(process, seconds)
    if load.errors:
        raise RuntimeError(f"{load.errors} errors")
    return load.requests / load.seconds


def _first_byte(port: int, path: str) -> float:
    """Return the seconds until an answer begins.

    Raises:
        RuntimeError: it isn't a 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.connect()
        started = time.perf_counter()
        connection.request("GET", path, headers={"Accept": "text/html"})
        response = connection.getresponse()
        took = time.perf_counter() - started
        response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}")
    return took


@contextlib.contextmanager
def _watching(port: int) -> Iterator[None]:
    """Have an operator look at pages, and Prometheus at the metrics, until the block ends."""
    enough = threading.Event()

    def again(paths: Sequence[str], seconds: float) -> None:
        while True:
            for path in paths:
                _first_byte(port, path)
            if enough.wait(seconds):
                return

    looks = [
        threading.Thread(target=again, args=look)
        for look in (
            (["/"], _OVERVIEW_SECONDS),
            ([f"/find?q={_ORDER}", f"/orders/{_ORDER}"], 1.0),
            (["/metrics"], _SCRAPE_SECONDS),
        )
    ]
    for look in looks:
        look.start()
    try:
        yield
    finally:
        enough.set()
        for look in looks:
            look.join()
