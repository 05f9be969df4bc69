"""The store in one SQLite file, for one process.

Owns the file, its lock, its schema and all SQL. Writes go through `group_commit`; the few reads beside it
have a connection of their own. A statement handles many rows: between two statements the writer's thread
must win Python's global lock back from the event loop, which costs far more than a row does.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import itertools
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import apsw

from relay.errors import StoreError, StoreUnavailableError
from relay.model import Attempt, Delivery, DeliveryState, Event, Quarantined
from relay.store import Acceptance, Backlog, Claimed, Purged
from relay.store.group_commit import UNAVAILABLE, GroupCommit

_log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
MAX_WAITING = 10_000  # operations; beyond it a webhook is answered 503 instead of waiting longer
MAX_QUARANTINED = 10_000
_CHUNKS = (64, 16, 4, 1)  # rows a statement: few sizes, so that every statement stays prepared
_OPEN_STATES = (DeliveryState.PENDING, DeliveryState.IN_FLIGHT, DeliveryState.DEAD)


class SqliteStore:
    """`Store` on one file. Made by `open_store`, on the event loop that uses it."""

    def __init__(self, path: Path, committed: Callable[[float], None]) -> None:
        self._lock = _lock(path)
        try:
            writer = _connect(path)
            _migrate(writer, path)
            _set_durability(writer)
            # What was in flight when the last process ended was not recorded: it is tried again.
            _release_all(writer)
            self._reader, self._reading = _connect(path), asyncio.Lock()
            self._counts = _counted(writer)
            self._next_event = _highest(writer, "events") + 1
            self._next_delivery = _highest(writer, "deliveries") + 1
        except BaseException:
            os.close(self._lock)
            raise
        self._tokens = itertools.count(secrets.randbits(60))
        self._writer = writer
        self._commits = GroupCommit(writer, committed)

    # ---- the steps, as the event loop calls them

    async def accept(self, event: Event, claims: Mapping[str, bool]) -> Acceptance:
        if self._commits.waiting >= MAX_WAITING:
            raise StoreUnavailableError("too many webhooks wait for the store")
        acceptance = await self._commits.submit(self._accept, (event, claims))
        if not acceptance.duplicate:
            for destination, claimed in claims.items():
                state = DeliveryState.IN_FLIGHT if claimed else DeliveryState.PENDING
                self._count(destination, state, 1)
        return acceptance

    async def quarantine(self, request: Quarantined) -> None:
        await self._commits.submit(self._quarantine, request)

    async def claim(self, destination: str, limit: int, max_bytes: int, now: float) -> Claimed:
        claimed = await self._commits.submit(self._claim, (destination, limit, max_bytes, now))
        self._move(destination, DeliveryState.PENDING, DeliveryState.IN_FLIGHT, len(claimed.deliveries))
        return claimed

    async def record(self, attempts: Sequence[Attempt]) -> list[bool]:
        recorded = await self._commits.submit(self._record, attempts)
        for attempt, held in zip(attempts, recorded, strict=True):
            if held:
                self._move(attempt.delivery.destination, DeliveryState.IN_FLIGHT, attempt.transition.state, 1)
        return recorded

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        for destination in await self._commits.submit(self._release, deliveries):
            self._move(destination, DeliveryState.IN_FLIGHT, DeliveryState.PENDING, 1)

    async def renew(self, deliveries: Sequence[Delivery], now: float) -> None:
        await self._commits.submit(self._renew, (deliveries, now))

    async def expire(self, now: float) -> int:
        expired = await self._commits.submit(self._expire, now)
        for destination in expired:
            self._move(destination, DeliveryState.IN_FLIGHT, DeliveryState.PENDING, 1)
        return len(expired)

    async def purge(self, after: int, accepted_before: float, limit: int) -> Purged:
        return await self._commits.submit(self._purge, (after, accepted_before, limit))

    async def backlog(self) -> dict[str, Backlog]:
        destinations = sorted({destination for destination, _ in self._counts})
        try:
            async with self._reading:
                oldest = await asyncio.to_thread(self._oldest, destinations)
        except UNAVAILABLE as error:
            raise StoreUnavailableError(f"the store can't be read: {error}") from error
        return {
            destination: Backlog(
                {state: self._counts.get((destination, state), 0) for state in _OPEN_STATES},
                oldest[destination],
            )
            for destination in destinations
        }

    async def probe(self) -> None:
        await self._commits.submit(self._probe, time.time())

    async def close(self) -> None:
        await self._commits.close()
        self._reader.close()
        os.close(self._lock)

    # ---- the counts of open deliveries, kept on the event loop after each commit

    def _count(self, destination: str, state: DeliveryState, change: int) -> None:
        if state in _OPEN_STATES:
            key = (destination, state)
            self._counts[key] = self._counts.get(key, 0) + change

    def _move(self, destination: str, old: DeliveryState, new: DeliveryState, number: int) -> None:
        self._count(destination, old, -number)
        self._count(destination, new, number)

    # ---- the steps, as the writer's thread applies them to a batch

    def _accept(self, offers: Sequence[tuple[Event, Mapping[str, bool]]]) -> list[Acceptance]:
        ids = [self._next_event + position for position in range(len(offers))]
        self._next_event += len(offers)
        before = self._writer.total_changes()
        self._write(
            "INSERT INTO events (id, source, event_id, received_at, content_type, event_type,"
            " transaction_status, trace_id, unrouted, body) VALUES {rows}"
            " ON CONFLICT (source, event_id) DO NOTHING",
            [
                (
                    id_,
                    event.source,
                    event.event_id,
                    event.received_at,
                    event.content_type,
                    event.event_type,
                    event.transaction_status,
                    event.trace_id,
                    not claims,
                    event.body,
                )
                for id_, (event, claims) in zip(ids, offers, strict=True)
            ],
        )
        stored = set(ids)
        if self._writer.total_changes() - before != len(offers):
            stored &= set(self._json("SELECT json_group_array(id) FROM events WHERE id >= ?", (ids[0],)))
        return self._accept_deliveries(
            [(id_ if id_ in stored else None, offer) for id_, offer in zip(ids, offers, strict=True)]
        )

    def _accept_deliveries(
        self, offers: Sequence[tuple[int | None, tuple[Event, Mapping[str, bool]]]]
    ) -> list[Acceptance]:
        """Store the deliveries of those events that are new; an id of None marks a duplicate."""
        rows: list[tuple[Any, ...]] = []
        acceptances = []
        for event_id, (event, claims) in offers:
            if event_id is None:
                acceptances.append(Acceptance(duplicate=True, conflicting=self._conflicts(event)))
                continue
            claimed = []
            for destination, claim in claims.items():
                id_ = self._next_delivery
                self._next_delivery += 1
                token = next(self._tokens) if claim else None
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
                    )
                )
                if token is not None:
                    claimed.append(Delivery(id_, destination, event.received_at, 0, token, event))
            acceptances.append(Acceptance(duplicate=False, conflicting=False, claimed=tuple(claimed)))
        self._write(
            "INSERT INTO deliveries (id, event, destination, state, accepted_at, due_at, token, lease_until)"
            " VALUES {rows}",
            rows,
        )
        return acceptances

    def _conflicts(self, event: Event) -> bool:
        first = self._writer.execute(
            "SELECT body FROM events WHERE source = ? AND event_id = ?", (event.source, event.event_id)
        ).get
        return bool(first != event.body)

    def _quarantine(self, requests: Sequence[Quarantined]) -> list[None]:
        for request in requests:
            self._writer.execute(
                "INSERT INTO quarantine (source, reason, digest, detail, content_type, received_at,"
                " last_received_at, times, body) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?)"
                " ON CONFLICT (source, reason, digest) DO UPDATE SET times = times + 1,"
                " last_received_at = excluded.last_received_at",
                (
                    request.source,
                    request.reason,
                    hashlib.sha256(request.body).hexdigest(),
                    request.detail,
                    request.content_type,
                    request.received_at,
                    request.received_at,
                    request.body,
                ),
            )
        before = self._writer.total_changes()
        self._writer.execute(
            "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", (MAX_QUARANTINED,)
        )
        if evicted := self._writer.total_changes() - before:
            _log.warning("quarantine.evicted", extra={"fields": {"number": evicted}})
        return [None] * len(requests)

    def _claim(self, wishes: Sequence[tuple[str, int, int, float]]) -> list[Claimed]:
        return [self._claim_one(*wish) for wish in wishes]

    def _claim_one(self, destination: str, limit: int, max_bytes: int, now: float) -> Claimed:
        due: list[tuple[int, float, int]] = self._json(
            "SELECT json_group_array(json_array(d.id, d.due_at, length(e.body))) FROM ("
            " SELECT id, event, due_at FROM deliveries WHERE destination = ? AND state = 'pending'"
            " ORDER BY due_at, id LIMIT ?) AS d JOIN events AS e ON e.id = d.event",
            (destination, limit + 1),
        )
        due.sort(key=lambda row: (row[1], row[0]))
        taken: list[int] = []
        size = 0
        for id_, due_at, length in due[:limit]:
            size += length
            if due_at > now or (taken and size > max_bytes):
                break
            taken.append(id_)
        next_due_at = due[len(taken)][1] if len(taken) < len(due) else None
        more = next_due_at is not None and next_due_at <= now
        return Claimed(self._take(taken, now), more, next_due_at)

    def _take(self, ids: Sequence[int], now: float) -> tuple[Delivery, ...]:
        """Claim deliveries by id and return them with their events, in the order of the ids."""
        if not ids:
            return ()
        token = next(self._tokens)
        wanted = json.dumps(ids)
        self._writer.execute(
            "UPDATE deliveries SET state = 'in_flight', token = ?, lease_until = ?"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (token, now + LEASE_SECONDS, wanted),
        )
        # One row for all: hex, since SQLite has no way to gather blobs.
        rows, bodies = self._writer.execute(
            "SELECT json_group_array(json_array(d.id, d.destination, d.accepted_at, d.attempts, json_object("
            "'source', source, 'event_id', event_id, 'received_at', received_at,"
            " 'content_type', content_type, 'event_type', event_type,"
            " 'transaction_status', transaction_status, 'trace_id', trace_id))),"
            " group_concat(hex(body)) FROM json_each(?) AS wanted"
            " JOIN deliveries AS d ON d.id = wanted.value JOIN events AS e ON e.id = d.event",
            (wanted,),
        ).get
        found = {}
        for row, body in zip(json.loads(rows), bodies.split(","), strict=True):
            id_, destination, accepted_at, attempts, fields = row
            event = Event(**fields, body=bytes.fromhex(body))
            found[id_] = Delivery(id_, destination, accepted_at, attempts, token, event)
        return tuple(found[id_] for id_ in ids)

    def _record(self, batches: Sequence[Sequence[Attempt]]) -> list[list[bool]]:
        attempts = [attempt for batch in batches for attempt in batch]
        held = self._held([attempt.delivery for attempt in attempts])
        valid = [attempt for attempt in attempts if (attempt.delivery.id, attempt.delivery.token) in held]
        self._write(
            "INSERT INTO attempts (delivery, number, started_at, duration_seconds, status, error, next_state)"
            " VALUES {rows}",
            [
                (
                    attempt.delivery.id,
                    attempt.number,
                    attempt.started_at,
                    attempt.outcome.duration_seconds,
                    attempt.outcome.status,
                    attempt.outcome.error,
                    attempt.transition.state.value,
                )
                for attempt in valid
            ],
        )
        self._write(
            "WITH done (id, state, due_at, attempts) AS (VALUES {rows})"
            " UPDATE deliveries SET state = done.state, due_at = done.due_at, attempts = done.attempts,"
            " token = NULL, lease_until = NULL FROM done WHERE deliveries.id = done.id",
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
        return [
            [(attempt.delivery.id, attempt.delivery.token) in held for attempt in batch] for batch in batches
        ]

    def _held(self, deliveries: Sequence[Delivery]) -> set[tuple[int, int]]:
        """Return those claims, as (delivery, token), that are still the stored ones."""
        rows = self._json(
            "SELECT json_group_array(json_array(d.id, d.token)) FROM json_each(?) AS wanted"
            " JOIN deliveries AS d ON d.id = wanted.value WHERE d.state = 'in_flight'",
            (json.dumps([delivery.id for delivery in deliveries]),),
        )
        return {(id_, token) for id_, token in rows}

    def _release(self, batches: Sequence[Sequence[Delivery]]) -> list[list[str]]:
        """Give claims back; return for each batch the destinations of those that were still held."""
        deliveries = [delivery for batch in batches for delivery in batch]
        held = self._held(deliveries)
        self._writer.execute(
            "UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([id_ for id_, token in held if (id_, token) in _claims(deliveries)]),),
        )
        return [
            [delivery.destination for delivery in batch if (delivery.id, delivery.token) in held]
            for batch in batches
        ]

    def _renew(self, batches: Sequence[tuple[Sequence[Delivery], float]]) -> list[None]:
        for deliveries, now in batches:
            held = self._held(deliveries) & _claims(deliveries)
            self._writer.execute(
                "UPDATE deliveries SET lease_until = ? WHERE id IN (SELECT value FROM json_each(?))",
                (now + LEASE_SECONDS, json.dumps([id_ for id_, _ in held])),
            )
        return [None] * len(batches)

    def _expire(self, instants: Sequence[float]) -> list[list[str]]:
        expired: list[tuple[int, str]] = self._json(
            "SELECT json_group_array(json_array(id, destination)) FROM deliveries"
            " WHERE state = 'in_flight' AND lease_until <= ?",
            (max(instants),),
        )
        if expired:
            self._writer.execute(
                "UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL"
                " WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps([id_ for id_, _ in expired]),),
            )
        return [[destination for _, destination in expired], *([] for _ in instants[1:])]

    def _purge(self, wishes: Sequence[tuple[int, float, int]]) -> list[Purged]:
        return [self._purge_one(*wish) for wish in wishes]

    def _purge_one(self, after: int, accepted_before: float, limit: int) -> Purged:
        looked_at = self._json(
            "SELECT json_group_array(json_array(id, received_at < ?, unrouted OR EXISTS ("
            " SELECT 1 FROM deliveries AS d WHERE d.event = e.id"
            " AND d.state NOT IN ('delivered', 'discarded'))))"
            " FROM (SELECT id, received_at, unrouted FROM events WHERE id > ? ORDER BY id LIMIT ?) AS e",
            (accepted_before, after, limit),
        )
        finished = [id_ for id_, old, unfinished in looked_at if old and not unfinished]
        self._writer.execute(
            "DELETE FROM events WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(finished),)
        )
        reached_end = len(looked_at) < limit or not all(old for _, old, _ in looked_at)
        return Purged(len(finished), None if reached_end else max(id_ for id_, *_ in looked_at))

    def _probe(self, instants: Sequence[float]) -> list[None]:
        self._writer.execute(
            "INSERT INTO probe (id, probed_at) VALUES (1, ?)"
            " ON CONFLICT (id) DO UPDATE SET probed_at = excluded.probed_at",
            (max(instants),),
        )
        return [None] * len(instants)

    # ---- reading beside the writer

    def _oldest(self, destinations: Sequence[str]) -> dict[str, float | None]:
        """Return when the oldest delivery that isn't finished was accepted, by destination.

        Of those pending that were never tried, due_at is when they were accepted; of the others an index
        by acceptance is kept. So the first of each, and the few in flight, tell.
        """
        in_flight: dict[Any, Any] = dict(
            self._reader.execute(
                "SELECT destination, min(accepted_at) FROM deliveries WHERE state = 'in_flight' GROUP BY 1"
            )
        )
        return {
            destination: min(
                (
                    at
                    for at in (
                        self._first(destination, "due_at", ""),
                        self._first(destination, "accepted_at", "AND attempts > 0"),
                        in_flight.get(destination),
                    )
                    if at is not None
                ),
                default=None,
            )
            for destination in destinations
        }

    def _first(self, destination: str, instant: str, also: str) -> float | None:
        found: float | None = self._reader.execute(
            f"SELECT {instant} FROM deliveries WHERE destination = ? AND state = 'pending' {also}"  # noqa: S608
            f" ORDER BY {instant} LIMIT 1",
            (destination,),
        ).get
        return found

    # ---- statements

    def _write(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run a statement with `{rows}` for all rows, many at a time."""
        for chunk in _chunks(rows):
            marks = "(" + ",".join("?" * len(chunk[0])) + ")"
            self._writer.execute(
                sql.format(rows=",".join([marks] * len(chunk))), [value for row in chunk for value in row]
            )

    def _json(self, sql: str, bindings: Sequence[Any]) -> Any:
        """Return what a statement gathers into one JSON value."""
        return json.loads(self._writer.execute(sql, bindings).get)


def open_store(path: Path, committed: Callable[[float], None]) -> SqliteStore:
    """Return the store of a file, made or brought up to date where needed.

    Args:
        path: of the database; its folder must exist.
        committed: called with the duration of each commit in seconds.

    Raises:
        StoreError: the file can't be opened, is damaged, newer than this relay, or used by another one.
    """
    try:
        return SqliteStore(path, committed)
    except apsw.Error as error:
        raise StoreError(f"can't open the store {path}: {error}") from error


def _claims(deliveries: Sequence[Delivery]) -> set[tuple[int, int]]:
    return {(delivery.id, delivery.token) for delivery in deliveries}


def _chunks(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _lock(path: Path) -> int:
    """Return a descriptor that holds the lock beside a database; the system frees it with the process."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"can't open the store {path}: {(error.strerror or 'error').lower()}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"the store {path} is in use by another relay; one process at a time may have it"
        ) from error
    return descriptor


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), statementcachesize=200)
    connection.set_busy_timeout(5000)
    return connection


def _set_durability(connection: apsw.Connection) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -32000"):
        connection.pragma(*pragma.split(" = "))


def _migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the schema up to date, one numbered script after the other; there is no way back."""
    folder = resources.files("relay.store") / "migrations" / "sqlite"
    scripts = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    version = connection.pragma("user_version")
    if version > len(scripts):
        raise StoreError(
            f"the store {path} was written by a newer relay (schema {version}, this one knows {len(scripts)})"
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        with connection:
            for _ in connection.execute(script.read_text(encoding="utf-8")):
                pass
            connection.pragma("user_version", number)
        _log.info("store.migrated", extra={"fields": {"schema": number}})


def _release_all(connection: apsw.Connection) -> None:
    connection.execute(
        "UPDATE deliveries SET state = 'pending', token = NULL, lease_until = NULL WHERE state = 'in_flight'"
    )
    if released := connection.changes():
        _log.info("store.recovered", extra={"fields": {"deliveries": released}})


def _counted(connection: apsw.Connection) -> dict[tuple[str, DeliveryState], int]:
    """Return the number of open deliveries by destination and state, from the indexes of those alone."""
    return {
        (destination, state): number
        for state in _OPEN_STATES
        for destination, number in connection.execute(
            f"SELECT destination, count(*) FROM deliveries WHERE state = '{state.value}' GROUP BY 1"  # noqa: S608
        )
    }


def _highest(connection: apsw.Connection, table: str) -> int:
    return connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").get  # type: ignore[no-any-return]  # noqa: S608
