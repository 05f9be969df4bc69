"""The metrics that dashboards and alerts rely on (contract, section 6)."""

from __future__ import annotations

import pytest

from relay.metrics import Metrics, event_type_label

CONTRACT = {
    "itscope_relay_requests_total": ("counter", {"source", "code"}),
    "itscope_relay_events_total": ("counter", {"source", "event_type", "outcome"}),
    "itscope_relay_events_unrouted_total": ("counter", {"source"}),
    "itscope_relay_delivery_attempts_total": ("counter", {"destination", "outcome"}),
    "itscope_relay_deliveries_total": ("counter", {"destination", "outcome"}),
    "itscope_relay_delivery_attempt_duration_seconds_count": ("histogram", {"destination"}),
    "itscope_relay_delivery_delay_seconds_count": ("histogram", {"destination"}),
    "itscope_relay_backlog": ("gauge", {"destination", "state"}),
    "itscope_relay_backlog_oldest_age_seconds": ("gauge", {"destination"}),
    "itscope_relay_last_event_timestamp_seconds": ("gauge", {"source"}),
    "itscope_relay_store_commit_duration_seconds_count": ("histogram", set()),
    "itscope_relay_config_last_reload_successful": ("gauge", set()),
    "itscope_relay_build_info": ("gauge", {"version"}),
}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.add_source("itscope")
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
