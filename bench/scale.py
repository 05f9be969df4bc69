"""What an event costs with more destinations and more routes, and what routing alone costs."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from pydantic import TypeAdapter

from bench import harness, traffic
from bench.clock import webhook
from bench.figures import ratios, show, spread
from bench.load import Round, full_load
from bench.options import Options
from relay.routing import Route, Router

_DESTINATIONS = (1, 3, 10, 30, 100)
_ROUTES = (1, 10, 100, 1000)
_COPIES = 3
_DIFFERENT = 5_000  # events that routes can tell apart, more than are remembered
_ROUTE = TypeAdapter(Route)
_TO = tuple(f"d{number}" for number in range(_COPIES))
# What the webhooks of the harness match, each in another way.
_MATCHING: Sequence[Mapping[str, object]] = (
    {"match": {"eventType": "INVOICE"}, "to": ["d0"]},
    {"match": {"orderId": "PO-1*", "transactionStatus": ["ARRIVED", "ACCEPTED"]}, "to": ["d1"]},
    {"match": {"itscopeOrderId": "123456-789"}, "except": {"orderId": "*SAMPLE*"}, "to": ["d2"]},
)


def scale(options: Options) -> None:
    """The CPU time of an event by destinations (1 to 100) and by routes (1 to 1,000); and routing alone."""
    _by_destinations(options)
    _by_routes(options)
    _routing_alone()


def _by_destinations(options: Options) -> None:
    sides: dict[str, Callable[..., AbstractContextManager[harness.Process]]] = {
        "relay": harness.relay,
        "bare": harness.bare,
    }
    runs: dict[tuple[str, int], list[Round]] = {key: [] for key in itertools.product(sides, _DESTINATIONS)}
    with traffic.receivers(options.folder / "nginx", max(_DESTINATIONS)) as receivers:
        for number, count, side in itertools.product(range(options.rounds), _DESTINATIONS, sides):
            folder = options.folder / f"{side}{count}-{number}"
            few = min(1.0, _COPIES / count)
            # What the relay accepts must still be delivered; the bare one answers after that.
            seconds = options.seconds * (few if side == "relay" else 1.0)
            # What is under way at the end doesn't count, so it must be little.
            connections = max(2, round(traffic.CONNECTIONS * few))
            with sides[side](folder, receivers.urls[:count]) as process:
                runs[side, count].append(full_load(process, receivers, seconds, count, connections))
    show("scale: every event to so many destinations, as fast as it goes")
    show("  destinations  ratio events/s relay/bare  relay: events/s, CPU us: event, delivery  bare: CPU us")
    for count in _DESTINATIONS:
        relay, bare = (runs[side, count] for side in sides)
        ratio = ratios([run.delivered for run in relay], [run.delivered for run in bare])
        cpu = statistics.median(run.cpu_us for run in relay)
        show(
            f"  {count:12}  {ratio:25}  {spread([run.delivered for run in relay], '.0f'):18}"
            f" {cpu:7.0f} {cpu / count:6.0f}  {statistics.median(run.cpu_us for run in bare):7.0f}"
        )


def _by_routes(options: Options) -> None:
    runs: dict[int, list[Round]] = {count: [] for count in _ROUTES}
    with traffic.receivers(options.folder / "nginx-routes", _COPIES) as receivers:
        for number, count in itertools.product(range(options.rounds), _ROUTES):
            folder = options.folder / f"routes{count}-{number}"
            with harness.relay(folder, receivers.urls, routes=_routes(count)) as process:
                runs[count].append(full_load(process, receivers, options.seconds, _COPIES))
    show("scale: every event to 3 destinations, found by so many routes, as fast as it goes")
    show("  routes  ratio events/s to 1 route  events/s            CPU us an event")
    for count, every in runs.items():
        ratio = ratios([run.delivered for run in every], [run.delivered for run in runs[1]])
        rate = spread([run.delivered for run in every], ".0f")
        show(f"  {count:6}  {ratio:24}  {rate:18}  {statistics.median(run.cpu_us for run in every):7.0f}")


def _routing_alone() -> None:
    """Time the router beside the work of a thousand routes, by how they match.

    With events that differ in what routes ask for, so that nothing that is remembered helps; and alike.
    """
    payload = json.loads(webhook("00000000-0000-4000-8000-000000000000"))
    different_ones = itertools.cycle(
        [{**payload, "orderId": f"PO-1{number:05}"} for number in range(_DIFFERENT)]
    )
    show("scale: routing one event alone, 1,000 routes of which 3 match, by how the others match (us)")
    number = max(_ROUTES)
    tables = {"all of these, mixed": _routes(number)} | {
        name: _with_matching(itertools.islice(others(), number - len(_MATCHING)))
        for name, others in _KINDS.items()
    }
    for name, rules in tables.items():
        router = Router([_ROUTE.validate_python(rule) for rule in rules])
        assert set(router.destinations("itscope", payload)) == {*_TO}
        assert set(_route_next(router, different_ones)) == {*_TO}
        different = _microseconds(partial(_route_next, router, different_ones))
        alike = _microseconds(partial(router.destinations, "itscope", payload))
        show(f"  {name:36} {different}; alike {alike}")


def _route_next(router: Router, payloads: Iterator[Mapping[str, object]]) -> tuple[str, ...]:
    return router.destinations("itscope", next(payloads))


def _microseconds(work: Callable[[], object]) -> str:
    """Return how long one call takes, over some rounds of a tenth of a second each."""
    times = []
    for _ in range(7):
        calls, started = 0, time.thread_time()
        while (took := time.thread_time() - started) < 0.1:
            work()
            calls += 1
        times.append(took / calls * 1e6)
    return spread(times, ".1f")


def _routes(count: int) -> list[Mapping[str, object]]:
    """Return so many routes for a configuration, of all kinds, three of which match."""
    if count == 1:
        return [{"name": "all", "to": list(_TO)}]
    others = itertools.chain.from_iterable(zip(*(kind() for kind in _KINDS.values()), strict=False))
    return list(_with_matching(itertools.islice(others, count - len(_MATCHING))))


def _with_matching(others: Iterator[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Put those that match at the beginning, in the middle and at the end."""
    rest = list(others)
    first, middle, last = _MATCHING
    rules = [first, *rest[: len(rest) // 2], middle, *rest[len(rest) // 2 :], last]
    return [{"name": f"route-{number}", **rule} for number, rule in enumerate(rules)]


def _kind(match: Callable[[int], Mapping[str, object]]) -> Callable[[], Iterator[Mapping[str, object]]]:
    """Return a maker of endless routes that don't match."""
    return lambda: ({"match": match(number), "to": [_TO[number % _COPIES]]} for number in itertools.count())


_KINDS = {
    "exact, one field": _kind(lambda number: {"orderId": f"PO-9{number:05}"}),
    "exact, two fields, the first holds": _kind(
        lambda number: {"eventType": "INVOICE", "orderId": [f"PO-9{number:05}", f"PO-8{number:05}"]}
    ),
    "wildcard at the end": _kind(lambda number: {"orderId": f"PO-9{number:05}*"}),
    "wildcard at the beginning": _kind(lambda number: {"documentId": f"*-{number:05}"}),
    "wildcards inside, a field that holds": _kind(
        lambda number: {"transactionStatus": "ARRIVED", "orderId": f"PO-?{number:05}*X"}
    ),
}
