"""Every instrument of the relay, in one registry of its own.

Labels come from closed sets: names out of the configuration, and the words below. Children are looked up
once and kept, and exist from the start, so that a rate over a first failure isn't missed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from relay import __version__
from relay.model import DeliveryState
from relay.payload import KNOWN_EVENT_TYPES

OTHER = "other"
NO_SOURCE = "-"  # the source of a request for an unknown path; no name can be this
EVENT_OUTCOMES = ("accepted", "duplicate", "quarantined")
ATTEMPT_OUTCOMES = {
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.PENDING: "retry",
    DeliveryState.DEAD: "dead",
}
DELIVERY_OUTCOMES = ("delivered", "dead", "discarded")
RESTS = ("paused", "held", "breaker")
BACKLOG_STATES = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT, DeliveryState.DEAD)
_ATTEMPT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_DELAY_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    5,
    15,
    60,
    300,
    1800,
    3600,
    14400,
    86400,
    259200,
)
_COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class LaneMetrics:
    """The children of one destination."""

    attempts: dict[DeliveryState, Counter]
    deliveries: dict[DeliveryState, Counter]
    attempt_duration: Histogram
    delay: Histogram
    resting: dict[str, Gauge]


class Metrics:
    """The instruments, and the registry that the admin listener renders."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "itscope_relay_requests",
            "Requests to the public listener, by answer",
            ["source", "code"],
            registry=registry,
        )
        self.events = Counter(
            "itscope_relay_events",
            "Authenticated webhooks, by what became of them",
            ["source", "event_type", "outcome"],
            registry=registry,
        )
        self.unrouted = Counter(
            "itscope_relay_events_unrouted",
            "Accepted events that no route sent anywhere",
            ["source"],
            registry=registry,
        )
        self.route_matches = Counter(
            "itscope_relay_route_matches",
            "Accepted events that a route matched",
            ["route"],
            registry=registry,
        )
        self.attempts = Counter(
            "itscope_relay_delivery_attempts",
            "Tries to deliver, by outcome",
            ["destination", "outcome"],
            registry=registry,
        )
        self.deliveries = Counter(
            "itscope_relay_deliveries", "Finished deliveries", ["destination", "outcome"], registry=registry
        )
        self.attempt_duration = Histogram(
            "itscope_relay_delivery_attempt_duration_seconds",
            "Duration of one try",
            ["destination"],
            buckets=_ATTEMPT_BUCKETS,
            registry=registry,
        )
        self.delay = Histogram(
            "itscope_relay_delivery_delay_seconds",
            "From acceptance to delivered",
            ["destination"],
            buckets=_DELAY_BUCKETS,
            registry=registry,
        )
        self.backlog = Gauge(
            "itscope_relay_backlog",
            "Deliveries not delivered yet",
            ["destination", "state"],
            registry=registry,
        )
        self.oldest_age = Gauge(
            "itscope_relay_backlog_oldest_age_seconds",
            "Age of the oldest delivery that is pending or in flight, 0 without one",
            ["destination"],
            registry=registry,
        )
        self.resting = Gauge(
            "itscope_relay_destination_resting",
            "1 while nothing is sent to it, by reason: paused, in a maintenance window, breaker open",
            ["destination", "reason"],
            registry=registry,
        )
        self.last_event_at: dict[str, float] = {}
        """When the last event of a source was accepted, since the start."""
        self.last_event = Gauge(
            "itscope_relay_last_event_timestamp_seconds",
            "When the last event was accepted, 0 for never since the start",
            ["source"],
            registry=registry,
        )
        self.commit_duration = Histogram(
            "itscope_relay_store_commit_duration_seconds",
            "Duration of one durable commit",
            buckets=_COMMIT_BUCKETS,
            registry=registry,
        )
        self.ready = Gauge(
            "itscope_relay_ready",
            "1 if webhooks are accepted, else 0: the store can't be used, or the relay is stopping",
            registry=registry,
        )
        self.disk_free = Gauge(
            "itscope_relay_disk_free_bytes",
            "Room left where the SQLite file is, NaN with PostgreSQL",
            registry=registry,
        )
        self.disk_size = Gauge(
            "itscope_relay_disk_size_bytes",
            "Size of the file system where the SQLite file is, NaN with PostgreSQL",
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "itscope_relay_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, NaN without server.tls",
            registry=registry,
        )
        for unknown in (self.disk_free, self.disk_size, self.certificate_expiry):
            unknown.set(math.nan)  # so that no comparison holds
        self.reload_successful = Gauge(
            "itscope_relay_config_last_reload_successful",
            "1 if the configuration in the file is the one in use, else 0",
            registry=registry,
        )
        self.build_info = Gauge(
            "itscope_relay_build_info",
            "Always 1; the version is in the label",
            ["version"],
            registry=registry,
        )
        self.build_info.labels(__version__).set(1)
        ProcessCollector(registry=registry)

    def add_source(self, source: str) -> None:
        """Make a source's children exist."""
        for code in ("200", "400", "401", "503"):
            self.requests.labels(source, code)
        for outcome in EVENT_OUTCOMES:
            for event_type in (*KNOWN_EVENT_TYPES, OTHER):
                self.events.labels(source, event_type, outcome)
        self.unrouted.labels(source)
        self.last_event.labels(source).set_function(lambda: self.last_event_at.get(source, 0.0))

    def add_route(self, route: str) -> None:
        """Make a route's child exist."""
        self.route_matches.labels(route)

    def add_destination(self, destination: str) -> LaneMetrics:
        """Make a destination's children exist and return them."""
        for outcome in DELIVERY_OUTCOMES:
            self.deliveries.labels(destination, outcome)
        for state in BACKLOG_STATES:
            self.backlog.labels(destination, state.value)
        self.oldest_age.labels(destination)
        return LaneMetrics(
            attempts={
                state: self.attempts.labels(destination, outcome)
                for state, outcome in ATTEMPT_OUTCOMES.items()
            },
            deliveries={
                state: self.deliveries.labels(destination, state.value)
                for state in (DeliveryState.DELIVERED, DeliveryState.DEAD)
            },
            attempt_duration=self.attempt_duration.labels(destination),
            delay=self.delay.labels(destination),
            resting={reason: self.resting.labels(destination, reason) for reason in RESTS},
        )

    def attempts_by_destination(self) -> dict[str, tuple[int, int]]:
        """Return how many tries each destination had until now: delivered, and failed."""
        counted: dict[str, tuple[int, int]] = {}
        for labels, number in _counted(self.attempts):
            delivered, failed = counted.get(labels["destination"], (0, 0))
            if labels["outcome"] == ATTEMPT_OUTCOMES[DeliveryState.DELIVERED]:
                delivered += number
            else:
                failed += number
            counted[labels["destination"]] = delivered, failed
        return counted

    def matches_by_route(self) -> dict[str, int]:
        """Return how many events each route matched until now."""
        return {labels["route"]: number for labels, number in _counted(self.route_matches)}


class Tally:
    """Counts on an event loop: what is counted in one pass of it is added to the counters at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._counted: dict[Counter, int] = {}

    def add(self, counter: Counter) -> None:
        """Count one, before the event loop does anything that was not ready."""
        counted = self._counted
        if not counted:
            self._loop.call_soon(self._flush)
        counted[counter] = counted.get(counter, 0) + 1

    def _flush(self) -> None:
        counted, self._counted = self._counted, {}
        for counter, number in counted.items():
            counter.inc(number)


def _counted(counter: Counter) -> Iterator[tuple[dict[str, str], int]]:
    for metric in counter.collect():
        for sample in metric.samples:
            yield sample.labels, int(sample.value)


def event_type_label(event_type: str | None) -> str:
    """Return an event type as a label: itself if ITscope documents it, else `other`."""
    return event_type if event_type in KNOWN_EVENT_TYPES else OTHER
