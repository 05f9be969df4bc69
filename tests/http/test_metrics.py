"""What is counted on the event loop."""

from __future__ import annotations

import asyncio

from relay.metrics import Metrics, Tally


async def test_what_is_counted_is_in_the_counters_after_the_pass_of_the_loop() -> None:
    metrics = Metrics()
    tally = Tally(asyncio.get_running_loop())
    orders, invoices = metrics.route_matches.labels("orders"), metrics.route_matches.labels("invoices")
    for expected in ({"orders": 2, "invoices": 1}, {"orders": 4, "invoices": 2}):
        for counter in (orders, invoices, orders):
            tally.add(counter)
        await asyncio.sleep(0)
        assert metrics.matches_by_route() == expected
