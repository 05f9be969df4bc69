"""The stores that the benchmark makes by SQL are what the relay would have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from bench import clock, history
from relay import payload as payloads


def test_waiting_store_owes_a_paused_destination_one_event_a_delivery(tmp_path: Path) -> None:
    path = tmp_path / "waiting.db"
    history.make_waiting(path, 100, "d3")
    connection = apsw.Connection(str(path))
    waiting: list[tuple[Any, ...]] = connection.execute(
        "SELECT d.id, e.event_id, e.body FROM deliveries AS d JOIN events AS e ON e.id = d.event"
        " WHERE d.destination = 'd3' AND d.state = 'pending' AND d.fresh = 1 AND d.due_at = e.received_at"
    ).fetchall()
    assert [id_ for id_, _, _ in waiting] == list(range(1, 101))
    for _, event_id, body in waiting:
        assert len(body) == 600
        assert payloads.event_id(payloads.parse(body), body) == event_id
    assert connection.execute("SELECT destination FROM pauses").fetchall() == [("d3",)]
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()


def test_waiting_store_may_be_empty(tmp_path: Path) -> None:
    history.make_waiting(tmp_path / "empty.db", 0, "d3")
    connection = apsw.Connection(str(tmp_path / "empty.db"))
    assert connection.execute("SELECT count(*) FROM deliveries").get == 0
    connection.close()


def test_webhook_of_the_benchmark_is_600_bytes_whatever_its_id() -> None:
    assert {len(clock.webhook(event_id)) for event_id in ("1", "0" * 36)} == {600}
