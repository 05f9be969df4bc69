"""The metrics that dashboards and alerts rely on (contract, section 6)."""

from __future__ import annotations

import pytest

from relay.metrics import Metrics, event_type_label
from tests.contract import METRICS

# By the name of a sample: a histogram's own is none.
CONTRACT = {
    name + ("_count" if kind == "histogram" else ""): (kind, labels)
    for name, (kind, labels) in METRICS.items()
}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.add_source("itscope")
    made.add_route("everything")
    made.add_destination("erp")
    return made


def labels_of(metrics: Metrics, name: str) -> list[dict[str, str]]:
    return [
        sample.labels
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name
    ]


@pytest.mark.parametrize("name", CONTRACT)
def test_promised_metric_exists_from_the_start_with_its_labels(metrics: Metrics, name: str) -> None:
    kind, labels = CONTRACT[name]
    kinds = {sample.name: metric.type for metric in metrics.registry.collect() for sample in metric.samples}
    assert kinds[name] == kind
    assert all(given.keys() == labels for given in labels_of(metrics, name))


def test_every_metric_is_in_the_contract(metrics: Metrics) -> None:
    promised = {name.removesuffix("_total").removesuffix("_count") for name in CONTRACT}
    found = {metric.name for metric in metrics.registry.collect()}
    assert {
        name for name in found if not name.startswith("process_")
    } == promised  # those are Prometheus's own


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("itscope_relay_events_total", "outcome", {"accepted", "duplicate", "quarantined"}),
        (
            "itscope_relay_events_total",
            "event_type",
            {"ORDER", "ORDERRESPONSE", "DELIVERY", "INVOICE", "other"},
        ),
        ("itscope_relay_delivery_attempts_total", "outcome", {"delivered", "retry", "dead"}),
        ("itscope_relay_deliveries_total", "outcome", {"delivered", "dead", "discarded"}),
        ("itscope_relay_backlog", "state", {"pending", "in_flight", "dead"}),
    ],
)
def test_label_has_exactly_the_promised_values(
    metrics: Metrics, name: str, label: str, values: set[str]
) -> None:
    assert {given[label] for given in labels_of(metrics, name)} == values


@pytest.mark.parametrize(
    ("event_type", "label"),
    [("ORDER", "ORDER"), ("INVOICE", "INVOICE"), ("order", "other"), ("", "other"), (None, "other")],
)
def test_unknown_event_type_is_counted_as_other(event_type: str | None, label: str) -> None:
    assert event_type_label(event_type) == label


def test_destination_that_is_added_again_keeps_its_counts(metrics: Metrics) -> None:
    metrics.deliveries.labels("erp", "dead").inc()
    metrics.add_destination("erp")
    assert (
        metrics.registry.get_sample_value(
            "itscope_relay_deliveries_total", {"destination": "erp", "outcome": "dead"}
        )
        == 1
    )
