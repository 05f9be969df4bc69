"""Webhooks as ITscope sends them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from relay.payload import KNOWN_EVENT_TYPES, event_id, parse
from relay.samples import DOCUMENTED_SAMPLE, one_of_each, webhook

FIELDS = list(json.loads(DOCUMENTED_SAMPLE))


def test_documented_sample_is_accepted_with_its_own_id() -> None:
    payload = parse(DOCUMENTED_SAMPLE)
    assert event_id(payload, DOCUMENTED_SAMPLE) == "e2a6a466-3b62-4bb7-af53-b59aec592b49"
    assert payload["eventType"] == "DELIVERY"


def test_every_documented_event_type_is_played_and_no_kind_twice() -> None:
    kinds = list(one_of_each())
    assert {kind for kind, _ in kinds} == set(KNOWN_EVENT_TYPES)
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize(("kind", "status"), [*one_of_each(), ("UNHEARD-OF", "ODD")])
def test_webhook_has_the_fields_of_the_documented_sample(kind: str, status: str) -> None:
    payload = parse(webhook(kind, status))
    assert list(payload) == FIELDS
    assert all(isinstance(value, str) for value in payload.values())
    assert (payload["eventType"], payload["transactionStatus"]) == (kind, status)
    assert payload["transactionId"] in payload["documentUrl"]


def test_each_webhook_has_an_id_of_its_own() -> None:
    ids = {parse(webhook("ORDER", "SENT"))["eventId"] for _ in range(50)}
    assert len(ids) == 50


def test_timestamp_is_the_given_one_without_a_zone() -> None:
    body = webhook("ORDER", "SENT", datetime(2023, 10, 17, 11, 1, 36, tzinfo=UTC))
    assert parse(body)["timestamp"] == "2023-10-17T11:01:36"
