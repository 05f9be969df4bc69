"""What other routes would have done with the events that came."""

from __future__ import annotations

from typing import Any

from relay.routediff import FIRST, compare
from relay.routing import Route, Router

RECEIVED_AT = "2026-11-22T11:01:36.123Z"
INVOICES = Router([Route(to=("archive",), match={"eventType": ("INVOICE",)}), Route(to=("erp",))])


def event(
    *went: str, kind: str | None = "INVOICE", replayed: str | None = None, readable: bool = True
) -> dict[str, Any]:
    deliveries: list[dict[str, Any]] = [{"destination": name, "accepted_at": RECEIVED_AT} for name in went]
    if replayed is not None:
        deliveries.append({"destination": replayed, "accepted_at": "2026-11-22T12:00:00.000Z"})
    payload = {"eventType": kind} if readable else None
    return {
        "source": "itscope",
        "received_at": RECEIVED_AT,
        "event_type": kind,
        "transaction_status": None,
        "payload": payload,
        "deliveries": deliveries,
    }


def test_an_event_that_would_go_where_it_went_is_no_difference_in_any_order() -> None:
    found = compare(INVOICES, [event("erp", "archive"), event("erp", kind="ORDER"), event("archive", "erp")])
    assert (found.events, found.differing, found.first) == (3, 0, [])


def test_what_is_gained_and_lost_is_counted_by_kind_and_destination() -> None:
    found = compare(INVOICES, [event("erp"), event("erp", "crm"), event("crm", kind="ORDER")])
    assert found.differing == 3
    assert found.gained == {(("INVOICE", None), "archive"): 2, (("ORDER", None), "erp"): 1}
    assert found.lost == {(("INVOICE", None), "crm"): 1, (("ORDER", None), "crm"): 1}
    assert [(one.gained, one.lost) for one in found.first] == [
        (("archive",), ()),
        (("archive",), ("crm",)),
        (("erp",), ("crm",)),
    ]


def test_a_replay_is_not_where_an_event_went() -> None:
    assert compare(INVOICES, [event("erp", "archive", replayed="crm")]).differing == 0
    assert compare(INVOICES, [event("erp", replayed="archive")]).gained.total() == 1


def test_an_unreadable_payload_has_no_fields() -> None:
    assert compare(INVOICES, [event("erp", readable=False)]).differing == 0


def test_only_the_first_are_kept() -> None:
    found = compare(INVOICES, [event()] * (FIRST + 5))
    assert (found.differing, len(found.first)) == (FIRST + 5, FIRST)
