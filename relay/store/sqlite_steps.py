"""The SQL of the steps, each applied to a batch of like items within one transaction.

A statement handles many rows: between two statements the writer's thread must win Python's global lock back
from the event loop, which costs far more than a row does. Transactions are `group_commit`'s.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import secrets
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import apsw

from relay.errors import StoreError
from relay.lifecycle import LEGAL
from relay.model import (
    Acceptance,
    Attempt,
    Claim,
    Delivery,
    DeliveryState,
    Event,
)
from relay.store import Claimed
from relay.store.sqlite_json import gathered
from relay.store.sqlite_order import promote, taken
from relay.store.steps import LEASE_SECONDS, Offer, Wish

_log = logging.getLogger(__name__)

_MAX_CACHED_BYTES = 1 << 18
# Rows a statement: few sizes, so that every statement stays prepared, and less than a third to fill up.
_CHUNKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_PENDING = (
    "SELECT id, event, due_at FROM deliveries WHERE destination = :destination AND fresh = :fresh"
    " AND state = 'pending' AND blocked = 0"
)
# What is due, and the first that isn't: thousands may wait for their time, as replays do.
_DUE = (
    "SELECT json_group_array(json_array(d.id, d.due_at, length(e.body))) FROM ("  # noqa: S608
    f" SELECT * FROM ({_PENDING} AND due_at <= :due_by ORDER BY due_at, id LIMIT :limit)"
    f" UNION ALL SELECT * FROM ({_PENDING} AND due_at > :due_by ORDER BY due_at, id LIMIT 1)) AS d"
    " JOIN events AS e ON e.id = d.event"
)


class Steps:
    """Applies steps to a connection; only the thread that owns the connection may call it.

    Every public method takes a list of items and returns a result for each, in order.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._next_event = self._highest("events") + 1
        self._next_delivery = self._highest("deliveries") + 1
        self._tokens = itertools.count(secrets.randbits(60))

    def next_delivery_id(self) -> int:
        """Return an id for a new delivery; none is given twice."""
        self._next_delivery += 1
        return self._next_delivery - 1

    def accept(self, offers: Sequence[Offer]) -> list[Acceptance]:
        """Store events with their deliveries; what is there already is a duplicate."""
        ids = [self._next_event + position for position in range(len(offers))]
        self._next_event += len(offers)
        before = self._connection.total_changes()
        self._write(
            "INSERT INTO events (id, source, event_id, received_at, content_type, event_type,"
            " transaction_status, trace_id, unrouted, body, order_id, itscope_order_id, document_id,"
            " transaction_id) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"
            " ON CONFLICT (source, event_id) DO NOTHING",
            [_event_row(id_, offer) for id_, offer in zip(ids, offers, strict=True)],
            cached=sum(len(event.body) for event, _, _ in offers) < _MAX_CACHED_BYTES,
        )
        stored = set(ids)
        if self._connection.total_changes() - before != len(offers):
            stored &= set(
                gathered(self._connection, "SELECT json_group_array(id) FROM events WHERE id >= ?", (ids[0],))
            )
        return self._accept_deliveries(
            [(id_ if id_ in stored else None, offer) for id_, offer in zip(ids, offers, strict=True)]
        )

    def _accept_deliveries(self, offers: Sequence[tuple[int | None, Offer]]) -> list[Acceptance]:
        """Store the deliveries of those events that are new; an id of None marks a duplicate."""
        ordered = taken(
            self._connection,
            (
                (destination, one.order_key)
                for _, (_, _, owed) in offers
                for destination, one in owed.items()
                if one.order_key is not None
            ),
        )
        rows: list[tuple[Any, ...]] = []
        acceptances = []
        for event_id, (event, _, owed) in offers:
            if event_id is None:
                acceptances.append(Acceptance(duplicate=True, conflicting=self._conflicts(event)))
                continue
            claimed = []
            for destination, one in owed.items():
                id_ = self.next_delivery_id()
                blocked = (destination, one.order_key) in ordered
                if one.order_key is not None:
                    ordered.add((destination, one.order_key))
                token = next(self._tokens) if one.claim and not blocked else None
                rows.append(
                    (
                        id_,
                        event_id,
                        destination,
                        "pending" if token is None else "in_flight",
                        event.received_at,
                        event.received_at,
                        token,
                        None if token is None else event.received_at + LEASE_SECONDS,
                        one.order_key,
                        blocked,
                    )
                )
                if token is not None:
                    is_ordered = one.order_key is not None
                    claimed.append(
                        Delivery(
                            *(id_, destination, event.received_at, 0, token, event),
                            ordered=is_ordered,
                            lease_until=event.received_at + LEASE_SECONDS,
                        )
                    )
            acceptances.append(Acceptance(duplicate=False, conflicting=False, claimed=tuple(claimed)))
        self._write(
            "INSERT INTO deliveries (id, event, destination, state, accepted_at, due_at, token, lease_until,"
            " order_key, blocked) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
            rows,
        )
        return acceptances

    def _conflicts(self, event: Event) -> bool:
        first = self._connection.execute(
            "SELECT body FROM events WHERE source = ? AND event_id = ?", (event.source, event.event_id)
        ).get
        return bool(first != event.body)

    def claim(self, wishes: Sequence[Wish]) -> list[Claimed]:
        """Claim what is due."""
        return [self._claim_one(wish) for wish in wishes]

    def _claim_one(self, wish: Wish) -> Claimed:
        due: list[tuple[int, float, int]] = gathered(
            self._connection,
            _DUE,
            {
                "destination": wish.destination,
                "fresh": wish.fresh,
                # What was never tried is always due: the clock may have been set back since it was accepted.
                "due_by": math.inf if wish.fresh else wish.now,
                "limit": wish.limit + 1,
            },
        )
        due.sort(key=lambda row: (row[1], row[0]))
        taken: list[int] = []
        size = 0
        for id_, due_at, length in due[: wish.limit]:
            size += length
            if (due_at > wish.now and not wish.fresh) or (taken and size > wish.max_bytes):
                break
            taken.append(id_)
        left = due[len(taken)][1] if len(taken) < len(due) else None
        more = left is not None and (wish.fresh or left <= wish.now)
        return Claimed(self._take(taken, wish.now), more, None if wish.fresh else left)

    def _take(self, ids: Sequence[int], now: float) -> tuple[Delivery, ...]:
        """Claim deliveries by id and return them with their events, in the order of the ids."""
        if not ids:
            return ()
        token = next(self._tokens)
        wanted = json.dumps(ids)
        self._connection.execute(
            "UPDATE deliveries SET state = 'in_flight', token = ?, lease_until = ?"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (token, now + LEASE_SECONDS, wanted),
        )
        # One row for all: hex, since SQLite has no way to gather blobs.
        rows, bodies = self._connection.execute(
            "SELECT json_group_array(json_array(d.id, d.destination, d.accepted_at, d.attempts, d.fresh,"
            " d.order_key IS NOT NULL, d.due_at, json_object("
            "'source', source, 'event_id', event_id, 'received_at', received_at,"
            " 'content_type', content_type, 'event_type', event_type,"
            " 'transaction_status', transaction_status, 'trace_id', trace_id))),"
            " group_concat(hex(body)) FROM json_each(?) AS wanted"
            " JOIN deliveries AS d ON d.id = wanted.value JOIN events AS e ON e.id = d.event",
            (wanted,),
        ).get
        found = {}
        for row, body in zip(json.loads(rows), bodies.split(","), strict=True):
            id_, destination, accepted_at, attempts, fresh, ordered, due_at, fields = row
            event = Event(**fields, body=bytes.fromhex(body))
            claim = (id_, destination, accepted_at, attempts, token, event, bool(fresh), bool(ordered))
            found[id_] = Delivery(*claim, lease_until=now + LEASE_SECONDS, due_at=due_at)
        return tuple(found[id_] for id_ in ids)

    def record(self, batches: Sequence[Sequence[Attempt]]) -> list[list[bool]]:
        """Store attempts, those whose claim still holds, and what follows from them."""
        attempts = [attempt for batch in batches for attempt in batch]
        held = self._held([attempt.delivery for attempt in attempts])
        valid = [attempt for attempt in attempts if attempt.delivery.claim in held]
        if not {attempt.transition.state for attempt in valid} <= LEGAL[DeliveryState.IN_FLIGHT]:
            raise StoreError("an attempt can't lead there")
        self._write(
            "INSERT INTO attempts (delivery, number, started_at, duration_seconds, status, error, next_state,"
            " answer) SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
            [_attempt_row(attempt) for attempt in valid],
        )
        self._write(
            "WITH done (id, state, due_at, attempts) AS (VALUES {rows})"
            " UPDATE deliveries SET state = done.state, due_at = done.due_at, attempts = done.attempts,"
            " token = NULL, lease_until = NULL, fresh = 0 FROM done WHERE deliveries.id = done.id",
            [
                (
                    attempt.delivery.id,
                    attempt.transition.state.value,
                    attempt.transition.due_at,
                    attempt.number,
                )
                for attempt in valid
            ],
        )
        self._leave_order(
            [
                attempt.delivery.id
                for attempt in valid
                if attempt.delivery.ordered and not attempt.transition.keeps_place
            ]
        )
        return [[attempt.delivery.claim in held for attempt in batch] for batch in batches]

    def _leave_order(self, ids: Sequence[int]) -> None:
        """Let those go on who wait for these deliveries."""
        if not ids:
            return
        left = json.dumps(ids)
        keys = gathered(
            self._connection,
            "SELECT json_group_array(json_array(destination, order_key)) FROM deliveries"
            " WHERE id IN (SELECT value FROM json_each(?)) AND order_key IS NOT NULL",
            (left,),
        )
        self._connection.execute(
            "UPDATE deliveries SET order_key = NULL WHERE id IN (SELECT value FROM json_each(?))", (left,)
        )
        promote(self._connection, [(destination, key) for destination, key in keys])

    def _held(self, deliveries: Sequence[Delivery]) -> set[Claim]:
        """Return those claims, as (delivery, token), that are still the stored ones."""
        rows = gathered(
            self._connection,
            "SELECT json_group_array(json_array(d.id, d.token)) FROM json_each(?) AS wanted"
            " JOIN deliveries AS d ON d.id = wanted.value WHERE d.state = 'in_flight'",
            (json.dumps([delivery.id for delivery in deliveries]),),
        )
        return {(id_, token) for id_, token in rows}

    def release(self, batches: Sequence[Sequence[Delivery]]) -> list[list[str]]:
        """Give claims back; return for each batch the destinations of those that were still held."""
        held = self._held([delivery for batch in batches for delivery in batch])
        released: list[list[str]] = []
        ids: list[int] = []
        for batch in batches:
            released.append([])
            for delivery in batch:
                if delivery.claim in held:
                    held.remove(delivery.claim)  # given back twice, it is so once
                    ids.append(delivery.id)
                    released[-1].append(delivery.destination)
        self._connection.execute(
            "UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )
        return released

    def renew(self, batches: Sequence[tuple[Sequence[Delivery], float]]) -> list[list[Delivery]]:
        """Extend the leases of (deliveries, now); return for each batch those still held, renewed."""
        renewed = []
        for deliveries, now in batches:
            until = now + LEASE_SECONDS
            held = self._held(deliveries)
            kept = [one._replace(lease_until=until) for one in deliveries if one.claim in held]
            self._connection.execute(
                "UPDATE deliveries SET lease_until = ? WHERE id IN (SELECT value FROM json_each(?))",
                (until, json.dumps([delivery.id for delivery in kept])),
            )
            renewed.append(kept)
        return renewed

    def expire(self, instants: Sequence[float]) -> list[list[str]]:
        """Make deliveries pending whose lease ran out; the first result has their destinations."""
        expired: list[tuple[int, str]] = gathered(
            self._connection,
            "SELECT json_group_array(json_array(id, destination)) FROM deliveries"
            " WHERE state = 'in_flight' AND lease_until <= ?",
            (max(instants),),
        )
        if expired:
            self._connection.execute(
                "UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL"
                " WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps([id_ for id_, _ in expired]),),
            )
        return [[destination for _, destination in expired], *([] for _ in instants[1:])]

    def _write(self, sql: str, rows: Sequence[tuple[Any, ...]], *, cached: bool = True) -> None:
        """Run a statement with `{rows}` for all rows, many at a time; it must pass over those of NULLs.

        Args:
            sql: one of few.
            rows: its values.
            cached: the prepared statement is kept, and keeps its values until it is used again.
        """
        for chunk in _chunks(rows):
            statement = _with_rows(sql, len(chunk), len(chunk[0]))
            self._connection.execute(statement, [*chain.from_iterable(chunk)], can_cache=cached)

    def _highest(self, table: str) -> int:
        """Return the highest id that a table ever gave, also if retention has deleted the row."""
        highest: int | None = self._connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)
        ).get
        return highest or 0


@functools.cache
def _with_rows(sql: str, rows: int, columns: int) -> str:
    marks = "(" + ",".join("?" * columns) + ")"
    return sql.format(rows=",".join([marks] * rows))


def _event_row(id_: int, offer: Offer) -> tuple[Any, ...]:
    event, references, owed = offer
    return (
        id_,
        event.source,
        event.event_id,
        event.received_at,
        event.content_type,
        event.event_type,
        event.transaction_status,
        event.trace_id,
        not owed,
        event.body,
        references.order_id,
        references.itscope_order_id,
        references.document_id,
        references.transaction_id,
    )


def _attempt_row(attempt: Attempt) -> tuple[Any, ...]:
    return (
        attempt.delivery.id,
        attempt.number,
        attempt.started_at,
        attempt.outcome.duration_seconds,
        attempt.outcome.status,
        attempt.outcome.error,
        attempt.transition.state.value,
        attempt.outcome.answer or None,
    )


def _chunks(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Yield rows in as few parts as their sizes allow, the last one filled up with NULLs."""
    for start in range(0, len(rows), _CHUNKS[-1]):
        chunk = rows[start : start + _CHUNKS[-1]]
        size = next(size for size in _CHUNKS if size >= len(chunk))
        yield [*chunk, *[(None,) * len(chunk[0])] * (size - len(chunk))]
