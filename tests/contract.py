"""What outside dashboards and checks rely on, for more than one suite."""

from __future__ import annotations

# Section 6 and what was added: each metric with its type and labels.
METRICS: dict[str, tuple[str, set[str]]] = {
    "itscope_relay_requests_total": ("counter", {"source", "code"}),
    "itscope_relay_events_total": ("counter", {"source", "event_type", "outcome"}),
    "itscope_relay_events_unrouted_total": ("counter", {"source"}),
    "itscope_relay_route_matches_total": ("counter", {"route"}),
    "itscope_relay_delivery_attempts_total": ("counter", {"destination", "outcome"}),
    "itscope_relay_deliveries_total": ("counter", {"destination", "outcome"}),
    "itscope_relay_delivery_attempt_duration_seconds": ("histogram", {"destination"}),
    "itscope_relay_delivery_delay_seconds": ("histogram", {"destination"}),
    "itscope_relay_backlog": ("gauge", {"destination", "state"}),
    "itscope_relay_backlog_oldest_age_seconds": ("gauge", {"destination"}),
    "itscope_relay_destination_resting": ("gauge", {"destination", "reason"}),
    "itscope_relay_last_event_timestamp_seconds": ("gauge", {"source"}),
    "itscope_relay_store_commit_duration_seconds": ("histogram", set()),
    "itscope_relay_ready": ("gauge", set()),
    "itscope_relay_disk_free_bytes": ("gauge", set()),
    "itscope_relay_disk_size_bytes": ("gauge", set()),
    "itscope_relay_certificate_expiry_timestamp_seconds": ("gauge", set()),
    "itscope_relay_config_last_reload_successful": ("gauge", set()),
    "itscope_relay_build_info": ("gauge", {"version"}),
}
