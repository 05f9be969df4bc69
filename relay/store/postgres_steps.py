"""The SQL of the steps on PostgreSQL, each applied to a batch of like items.

Several relays share the tables. What a step decides by is locked until its transaction ends: rows by the
statement that changes them, orders by `postgres_order`. Connections, retries and what errors mean are
`postgres`'s.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from relay.errors import StoreError
from relay.lifecycle import LEGAL
from relay.model import Acceptance, Attempt, Delivery, DeliveryState, Event, Owed, References
from relay.store import Claimed
from relay.store.postgres_order import Connection, Key, lock, promote, taken
from relay.store.steps import LEASE_SECONDS, Offer, Wish

# Ids are given in the order of the offers; rows are inserted in the order of their keys, so that two relays
# that are offered the same events never wait for each other in a circle.
_ACCEPT = """
WITH offered AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('events', 'id')) AS id, o.* FROM (
        SELECT o.*, b.body FROM jsonb_to_recordset(%(offers)s) AS o (
            place INTEGER, source TEXT, event_id TEXT, received_at DOUBLE PRECISION, content_type TEXT,
            event_type TEXT, transaction_status TEXT, trace_id TEXT, unrouted BOOLEAN, order_id TEXT,
            itscope_order_id TEXT, document_id TEXT, transaction_id TEXT)
        JOIN unnest(%(bodies)b::bytea[]) WITH ORDINALITY AS b (body, place) USING (place)
        ORDER BY place
    ) AS o
), stored AS (
    INSERT INTO events (id, source, event_id, received_at, content_type, event_type, transaction_status,
        trace_id, unrouted, size, body, order_id, itscope_order_id, document_id, transaction_id)
    SELECT id, source, event_id, received_at, content_type, event_type, transaction_status,
        trace_id, unrouted, octet_length(body), body, order_id, itscope_order_id, document_id, transaction_id
    FROM offered ORDER BY source, event_id
    ON CONFLICT (source, event_id) DO NOTHING RETURNING id
), made AS (
    INSERT INTO deliveries (event, destination, state, accepted_at, due_at, token, lease_until, order_key,
        blocked)
    SELECT o.id, w.destination, CASE WHEN w.token IS NULL THEN 'pending' ELSE 'in_flight' END, o.received_at,
        o.received_at, w.token, CASE WHEN w.token IS NOT NULL THEN o.received_at + %(lease)s END, w.order_key,
        w.blocked
    FROM jsonb_to_recordset(%(owed)s) AS w (
        number INTEGER, place INTEGER, destination TEXT, token BIGINT, order_key TEXT, blocked BOOLEAN)
    JOIN offered AS o USING (place) JOIN stored USING (id) ORDER BY w.number
    RETURNING id, event, token
)
SELECT o.place, (SELECT jsonb_object_agg(made.token::text, made.id) FROM made
    WHERE made.event = o.id AND made.token IS NOT NULL)
FROM stored JOIN offered AS o USING (id)
"""
_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT id, event, due_at FROM deliveries
    WHERE destination = %(destination)s AND fresh = %(fresh)s AND state = 'pending' AND NOT blocked
        AND (due_at <= %(now)s OR %(fresh)s)
    ORDER BY due_at, id LIMIT %(limit)s + 1 FOR UPDATE SKIP LOCKED
), sized AS MATERIALIZED (
    SELECT due.id, row_number() OVER first AS place, sum(e.size) OVER first AS total
    FROM due JOIN events AS e ON e.id = due.event WINDOW first AS (ORDER BY due.due_at, due.id)
), claimed AS (
    UPDATE deliveries AS d SET state = 'in_flight', token = %(token)s, lease_until = %(now)s + %(lease)s
    FROM sized AS s
    WHERE d.id = s.id AND s.place <= %(limit)s AND (s.place = 1 OR s.total <= %(max_bytes)s)
    RETURNING d.id, d.destination, d.accepted_at, d.attempts, d.fresh, d.order_key IS NOT NULL AS ordered,
        d.due_at, d.event, s.place
)
SELECT (SELECT count(*) FROM sized), c.id, c.destination, c.accepted_at, c.attempts, c.fresh, c.ordered,
    c.due_at, e.source, e.event_id, e.received_at, e.content_type, e.event_type, e.transaction_status,
    e.trace_id, e.body
FROM claimed AS c JOIN events AS e ON e.id = c.event ORDER BY c.place
"""
_NEXT_DUE = """
SELECT due_at FROM deliveries WHERE destination = %s AND NOT fresh AND state = 'pending' AND NOT blocked
ORDER BY due_at LIMIT 1
"""
_RECORD = """
WITH tried AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(attempts)s) AS t (
        place INTEGER, delivery BIGINT, token BIGINT, number INTEGER, started_at DOUBLE PRECISION,
        duration_seconds DOUBLE PRECISION, status INTEGER, error TEXT, next_state TEXT,
        due_at DOUBLE PRECISION, leaves BOOLEAN)
    JOIN unnest(%(answers)b::bytea[]) WITH ORDINALITY AS a (answer, place) USING (place)
), done AS (
    UPDATE deliveries AS d SET state = t.next_state, due_at = t.due_at, attempts = t.number, token = NULL,
        lease_until = NULL, fresh = FALSE, order_key = CASE WHEN NOT t.leaves THEN d.order_key END
    FROM tried AS t WHERE d.id = t.delivery AND d.token = t.token AND d.state = 'in_flight'
    RETURNING t.place
), noted AS (
    INSERT INTO attempts (delivery, number, started_at, duration_seconds, status, error, next_state, answer)
    SELECT delivery, number, started_at, duration_seconds, status, error, next_state, nullif(answer, '')
    FROM tried JOIN done USING (place)
)
SELECT place FROM done
"""
_RECORDED = """
SELECT place FROM jsonb_to_recordset(%(attempts)s) AS t (
    place INTEGER, delivery BIGINT, number INTEGER, started_at DOUBLE PRECISION)
JOIN attempts AS a USING (delivery, number, started_at)
"""
_RELEASE = """
UPDATE deliveries AS d SET state = 'pending', token = NULL, lease_until = NULL
FROM jsonb_to_recordset(%(claims)s) AS c (id BIGINT, token BIGINT)
WHERE d.id = c.id AND d.token = c.token AND d.state = 'in_flight'
"""
_RENEW = """
UPDATE deliveries AS d SET lease_until = %(until)s
FROM jsonb_to_recordset(%(claims)s) AS c (id BIGINT, token BIGINT)
WHERE d.id = c.id AND d.token = c.token AND d.state = 'in_flight' RETURNING d.id, d.token
"""
_EXPIRE = """
UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL WHERE id IN (
    SELECT id FROM deliveries WHERE state = 'in_flight' AND lease_until <= %s FOR UPDATE SKIP LOCKED)
"""


class Steps:
    """Applies steps. Those that take a list return a result for each item, in order."""

    def __init__(self) -> None:
        self._tokens = itertools.count(secrets.randbits(60))

    async def accept(self, connection: Connection, offers: Sequence[Offer]) -> list[Acceptance]:
        """Store events with their deliveries; what is there already is a duplicate."""
        firsts = _firsts(offers)
        keys = _keys(offers)
        if not keys:
            stored = await self._store(connection, firsts, set())
            return await _acceptances(connection, offers, stored)
        async with connection.transaction():
            await lock(connection, keys)
            stored = await self._store(connection, firsts, await taken(connection, keys))
            if len(stored) < len(firsts):  # whoever was to wait for a duplicate
                await promote(connection, keys)
            return await _acceptances(connection, offers, stored)

    async def _store(
        self, connection: Connection, offers: Mapping[int, Offer], ordered: set[Key]
    ) -> dict[int, tuple[Delivery, ...]]:
        """Store what is new of offers by their places; return the claimed deliveries of each."""
        owed: list[dict[str, Any]] = []
        claims: dict[int, tuple[str, bool]] = {}
        for number, (_, _, wanted) in enumerate(offers.values(), start=1):
            for destination, one in wanted.items():
                key = (destination, one.order_key)
                blocked = key in ordered
                if one.order_key is not None:
                    ordered.add((destination, one.order_key))
                token = next(self._tokens) if one.claim and not blocked else None
                if token is not None:
                    claims[token] = destination, one.order_key is not None
                owed.append(
                    {
                        "number": len(owed),
                        "place": number,
                        "destination": destination,
                        "token": token,
                        "order_key": one.order_key,
                        "blocked": blocked,
                    }
                )
        rows = [_offer_json(number, offer) for number, offer in enumerate(offers.values(), start=1)]
        cursor = await connection.execute(
            _ACCEPT,
            {
                "offers": json.dumps(rows),
                "bodies": [event.body for event, _, _ in offers.values()],
                "owed": json.dumps(owed),
                "lease": LEASE_SECONDS,
            },
        )
        places = list(offers)
        stored: dict[int, tuple[Delivery, ...]] = {}
        for number, ids in await cursor.fetchall():
            place = places[number - 1]
            event = offers[place][0]
            stored[place] = tuple(
                _claimed(id_, int(token), event, *claims[int(token)]) for token, id_ in (ids or {}).items()
            )
        return stored

    async def claim(self, connection: Connection, wish: Wish) -> Claimed:
        """Claim what is due."""
        token = next(self._tokens)
        cursor = connection.cursor(binary=True)
        await cursor.execute(_CLAIM, {**asdict(wish), "token": token, "lease": LEASE_SECONDS})
        rows = await cursor.fetchall()
        until = wish.now + LEASE_SECONDS
        deliveries = tuple(
            Delivery(id_, to, accepted_at, attempts, token, Event(*event), fresh, ordered, until, due_at)
            for _, id_, to, accepted_at, attempts, fresh, ordered, due_at, *event in rows
        )
        more = bool(rows) and rows[0][0] > len(rows)
        if wish.fresh:
            return Claimed(deliveries, more, None)
        found = await (await connection.execute(_NEXT_DUE, (wish.destination,))).fetchone()
        return Claimed(deliveries, more, None if found is None else found[0])

    async def record(self, connection: Connection, batches: Sequence[Sequence[Attempt]]) -> list[list[bool]]:
        """Store attempts, those whose claim still holds, and what follows from them."""
        attempts = [attempt for batch in batches for attempt in batch]
        if not {attempt.transition.state for attempt in attempts} <= LEGAL[DeliveryState.IN_FLIGHT]:
            raise StoreError("an attempt can't lead there")
        leaving = [attempt.delivery.id for attempt in attempts if _leaves(attempt)]
        if not leaving:
            held = await _record(connection, attempts)
        else:
            async with connection.transaction():
                keys = await _keys_of(connection, leaving)
                await lock(connection, keys)
                held = await _record(connection, attempts)
                await promote(connection, keys)
        told = iter(range(1, len(attempts) + 1))
        return [[next(told) in held for _ in batch] for batch in batches]

    async def release(self, connection: Connection, deliveries: Sequence[Delivery]) -> None:
        """Give claims back."""
        await connection.execute(_RELEASE, {"claims": _claims(deliveries)})

    async def renew(
        self, connection: Connection, deliveries: Sequence[Delivery], now: float
    ) -> list[Delivery]:
        """Extend the leases of claims; return those still held, renewed."""
        until = now + LEASE_SECONDS
        cursor = await connection.execute(_RENEW, {"claims": _claims(deliveries), "until": until})
        held = set(await cursor.fetchall())
        return [delivery._replace(lease_until=until) for delivery in deliveries if delivery.claim in held]

    async def expire(self, connection: Connection, now: float) -> int:
        """Make deliveries pending whose lease ran out, and return how many."""
        return (await connection.execute(_EXPIRE, (now,))).rowcount


def _firsts(offers: Sequence[Offer]) -> dict[int, Offer]:
    """Return the offers by their places, without those of an event that is offered twice."""
    seen: set[tuple[str, str]] = set()
    firsts = {}
    for place, offer in enumerate(offers):
        key = (offer[0].source, offer[0].event_id)
        if key not in seen:
            seen.add(key)
            firsts[place] = offer
    return firsts


def _keys(offers: Sequence[Offer]) -> set[Key]:
    return {
        (destination, one.order_key)
        for _, _, owed in offers
        for destination, one in owed.items()
        if one.order_key is not None
    }


def _offer_json(place: int, offer: tuple[Event, References, Mapping[str, Owed]]) -> dict[str, Any]:
    event, references, owed = offer
    return {
        "place": place,
        "source": event.source,
        "event_id": event.event_id,
        "received_at": event.received_at,
        "content_type": event.content_type,
        "event_type": event.event_type,
        "transaction_status": event.transaction_status,
        "trace_id": event.trace_id,
        "unrouted": not owed,
        **references._asdict(),
    }


def _claimed(id_: int, token: int, event: Event, destination: str, ordered: bool) -> Delivery:  # noqa: FBT001
    until = event.received_at + LEASE_SECONDS
    return Delivery(id_, destination, event.received_at, 0, token, event, ordered=ordered, lease_until=until)


async def _acceptances(
    connection: Connection, offers: Sequence[Offer], stored: Mapping[int, tuple[Delivery, ...]]
) -> list[Acceptance]:
    """Return what became of each offer."""
    duplicates = {place: offer[0] for place, offer in enumerate(offers) if place not in stored}
    conflicting = await _conflicting(connection, duplicates) if duplicates else set()
    return [
        Acceptance(place in duplicates, place in conflicting, stored.get(place, ()))
        for place in range(len(offers))
    ]


async def _conflicting(connection: Connection, duplicates: Mapping[int, Event]) -> set[int]:
    """Return the places of those events whose bytes differ from the first of their id."""
    keys = [(place, event.source, event.event_id) for place, event in duplicates.items()]
    cursor = connection.cursor(binary=True)
    await cursor.execute(
        "SELECT (key ->> 0)::int, e.body FROM jsonb_array_elements(%s::jsonb) AS key"
        " JOIN events AS e ON e.source = key ->> 1 AND e.event_id = key ->> 2",
        (json.dumps(keys),),
    )
    return {place for place, body in await cursor.fetchall() if body != duplicates[place].body}


async def _record(connection: Connection, attempts: Sequence[Attempt]) -> set[int]:
    """Store attempts; return the places, from 1, of those whose claim held."""
    rows = [
        {
            "place": place,
            "delivery": attempt.delivery.id,
            "token": attempt.delivery.token,
            "number": attempt.number,
            "started_at": attempt.started_at,
            "duration_seconds": attempt.outcome.duration_seconds,
            "status": attempt.outcome.status,
            "error": attempt.outcome.error,
            "next_state": attempt.transition.state.value,
            "due_at": attempt.transition.due_at,
            "leaves": _leaves(attempt),
        }
        for place, attempt in enumerate(attempts, start=1)
    ]
    answers = [attempt.outcome.answer for attempt in attempts]
    cursor = await connection.execute(_RECORD, {"attempts": json.dumps(rows), "answers": answers})
    held = {place for (place,) in await cursor.fetchall()}
    if len(held) < len(attempts):  # claims are lost, or the answer of a transaction was
        cursor = await connection.execute(_RECORDED, {"attempts": json.dumps(rows)})
        held |= {place for (place,) in await cursor.fetchall()}
    return held


def _leaves(attempt: Attempt) -> bool:
    """Tell whether a delivery leaves its order by this attempt."""
    return attempt.delivery.ordered and not attempt.transition.keeps_place


async def _keys_of(connection: Connection, deliveries: Sequence[int]) -> list[Key]:
    """Return the orders in which deliveries have their places."""
    cursor = await connection.execute(
        "SELECT destination, order_key FROM deliveries WHERE id = ANY(%s) AND order_key IS NOT NULL",
        (list(deliveries),),
    )
    return [(destination, key) for destination, key in await cursor.fetchall()]


def _claims(deliveries: Sequence[Delivery]) -> str:
    return json.dumps([{"id": delivery.id, "token": delivery.token} for delivery in deliveries])
