"""The SQL on PostgreSQL of what operators change, each change with its record in `changes`.

Every function runs within a READ COMMITTED transaction of its caller's, which commits it: so a statement sees
what others committed while the one before it waited for a lock. Several relays may change the same things at
once, hence one order of locks: events, orders (`postgres_order`), deliveries by their ids. What a change may
touch is `changing`'s.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from relay.model import Acceptance, DeliveryState, Event, Owed, References
from relay.store.changing import (
    DISCARDABLE,
    GOES_THERE,
    REPEATABLE,
    UNDER_WAY,
    Leaving,
    first_of_each,
    first_possible,
    keys_of,
    leaves_order,
    leaving,
    replaced_by,
)
from relay.store.postgres_order import Connection, lock, promote
from relay.store.postgres_steps import Steps
from relay.store.repair import Change, Changed, Replay

Pair = tuple[int, str]  # event, destination

_ID_BITS = 64  # of a BIGINT, with its sign


async def replay(connection: Connection, change: Change, replays: Sequence[Replay]) -> Changed:
    """Make deliveries of stored events; of one event to one destination, the first that is possible."""
    there = await _lock_events(connection, [each.event for each in replays])
    known = await _read_pairs(connection, {_pair(each) for each in replays if each.event in there})
    possible = [
        place
        for place, each in enumerate(replays)
        if each.event in there and _is_possible(each, known.get(_pair(each), []))
    ]
    chosen = first_possible(replays, possible)
    wanted = [replays[place] for place in chosen]
    replaced = await _make(connection, wanted, known, change.at) if wanted else []
    done = first_of_each(range(len(replays)), chosen)
    changed = await _changed(connection, change, done, wanted)
    return replace(changed, left_order=leaves_order(replaced, wanted))


async def _lock_events(connection: Connection, events: Iterable[int]) -> set[int]:
    """Keep events from being deleted or replayed by others; return those that are there."""
    cursor = await connection.execute(
        "SELECT id FROM events WHERE id = ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE",
        (_storable(events),),
    )
    return {id_ for (id_,) in await cursor.fetchall()}


async def _read_pairs(connection: Connection, pairs: Collection[Pair]) -> dict[Pair, list[Leaving]]:
    """Return what was ever owed, by event and destination."""
    cursor = await connection.execute(
        "SELECT d.event, d.id, d.destination, d.state, d.order_key FROM deliveries AS d"
        " JOIN unnest(%s::bigint[], %s::text[]) AS pair (event, destination) USING (event, destination)",
        ([event for event, _ in pairs], [destination for _, destination in pairs]),
    )
    found: dict[Pair, list[Leaving]] = {}
    for event, *row in await cursor.fetchall():
        delivery = leaving(row)
        found.setdefault((event, delivery.destination), []).append(delivery)
    return found


def _is_possible(replay: Replay, known: Sequence[Leaving]) -> bool:
    """Tell whether the deliveries of its event to its destination allow a replay."""
    if replay.of is None:
        return all(each.state not in GOES_THERE for each in known)
    return any(each.id == replay.of and each.state in REPEATABLE for each in known) and all(
        each.state not in UNDER_WAY for each in known
    )


async def _make(
    connection: Connection, replays: Sequence[Replay], known: Mapping[Pair, Sequence[Leaving]], now: float
) -> list[Leaving]:
    """Make deliveries that are possible, each in the place of all dead ones of its event and destination.

    Return those as they were. Nobody else has made one since `known` was read, so what was finished then
    still is.
    """
    dead = {
        each.id: (_pair(replay), each)
        for replay in replays
        for each in known.get(_pair(replay), [])
        if each.state is DeliveryState.DEAD
    }
    await lock(connection, keys_of([*replays, *(each for _, each in dead.values())]))
    replaced = await _lock_deliveries(connection, dead, {DeliveryState.DEAD})
    made = dict(zip(map(_pair, replays), await _new_ids(connection, len(replays)), strict=True))
    reasons = {each.id: replaced_by(made[dead[each.id][0]]) for each in replaced}
    await _give_up(connection, reasons, now)
    await _insert(connection, made.values(), replays)
    await promote(connection, keys_of([*replays, *replaced]))
    return replaced


async def _new_ids(connection: Connection, number: int) -> list[int]:
    """Return ids for new deliveries, in order; none is given twice."""
    cursor = await connection.execute(
        "SELECT nextval(pg_get_serial_sequence('deliveries', 'id')) FROM generate_series(1, %s)", (number,)
    )
    return [id_ for (id_,) in await cursor.fetchall()]


async def _insert(connection: Connection, ids: Iterable[int], replays: Sequence[Replay]) -> None:
    """Store new deliveries; those with a place in an order wait for their turn at first."""
    await connection.execute(
        "INSERT INTO deliveries (id, event, destination, state, accepted_at, due_at, fresh, order_key,"
        " blocked, replay_of) SELECT id, event, destination, 'pending', due_at, due_at, FALSE, order_key,"
        " order_key IS NOT NULL, replay_of FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::float8[],"
        " %s::text[], %s::bigint[]) AS replay (id, event, destination, due_at, order_key, replay_of)",
        (
            list(ids),
            [replay.event for replay in replays],
            [replay.destination for replay in replays],
            [float(replay.due_at) for replay in replays],
            [replay.order_key for replay in replays],
            [replay.of for replay in replays],
        ),
    )
    await connection.execute(
        "UPDATE events SET unrouted = FALSE WHERE unrouted AND id = ANY(%s::bigint[])",
        ([replay.event for replay in replays],),
    )


async def discard(connection: Connection, change: Change, deliveries: Sequence[int], reason: str) -> Changed:
    """Give up deliveries that are pending or dead."""
    await _lock_orders(connection, deliveries)
    found = await _lock_deliveries(connection, deliveries, DISCARDABLE)
    await _give_up(connection, {each.id: reason for each in found}, change.at)
    await promote(connection, keys_of(found))
    done = first_of_each(deliveries, [each.id for each in found])
    return await _changed(connection, change, done, found)


async def skip(connection: Connection, change: Change, deliveries: Sequence[int]) -> Changed:
    """Take dead deliveries out of their order, so that what waits behind them goes on."""
    await _lock_orders(connection, deliveries)
    dead = await _lock_deliveries(connection, deliveries, {DeliveryState.DEAD})
    held = [each for each in dead if each.order_key is not None]
    await connection.execute(
        "UPDATE deliveries SET order_key = NULL WHERE id = ANY(%s::bigint[])", ([each.id for each in held],)
    )
    await promote(connection, keys_of(held))
    done = first_of_each(deliveries, [each.id for each in held])
    return await _changed(connection, change, done, held)


async def _lock_orders(connection: Connection, deliveries: Iterable[int]) -> None:
    """Lock the orders that deliveries have a place in; none of them can get a place in another."""
    cursor = await connection.execute(
        "SELECT destination, order_key FROM deliveries"
        " WHERE id = ANY(%s::bigint[]) AND order_key IS NOT NULL",
        (_storable(deliveries),),
    )
    await lock(connection, [(destination, key) for destination, key in await cursor.fetchall()])


async def _lock_deliveries(
    connection: Connection, deliveries: Iterable[int], states: Collection[DeliveryState]
) -> list[Leaving]:
    """Return those deliveries that are in one of these states, and stay so; the others aren't waited for."""
    cursor = await connection.execute(
        "SELECT id, destination, state, order_key FROM deliveries"
        " WHERE id = ANY(%s::bigint[]) AND state = ANY(%s::text[]) ORDER BY id FOR UPDATE",
        (_storable(deliveries), [state.value for state in states]),
    )
    return [leaving(row) for row in await cursor.fetchall()]


async def _give_up(connection: Connection, reasons: Mapping[int, str], now: float) -> None:
    """Discard deliveries, each for its reason; they leave their order."""
    if reasons:
        await connection.execute(
            "UPDATE deliveries SET state = 'discarded', due_at = %s, order_key = NULL, blocked = FALSE,"
            " reason = given.reason FROM unnest(%s::bigint[], %s::text[]) AS given (id, reason)"
            " WHERE deliveries.id = given.id",
            (now, list(reasons), list(reasons.values())),
        )


async def pause(connection: Connection, change: Change, destination: str) -> Changed:
    """Remember that nothing is to be delivered to a destination."""
    cursor = await connection.execute(
        "INSERT INTO pauses (destination, paused_at) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (destination, change.at),
    )
    return await _paused(connection, change, destination, done=cursor.rowcount > 0)


async def resume(connection: Connection, change: Change, destination: str) -> Changed:
    """Forget a pause."""
    cursor = await connection.execute("DELETE FROM pauses WHERE destination = %s", (destination,))
    return await _paused(connection, change, destination, done=cursor.rowcount > 0)


async def _paused(connection: Connection, change: Change, destination: str, *, done: bool) -> Changed:
    destinations = frozenset({destination} if done else ())
    return Changed(await _note(connection, change, int(done)), (done,), destinations)


async def release_quarantined(  # noqa: PLR0913, PLR0917 (as `Store` has it)
    connection: Connection,
    steps: Steps,
    change: Change,
    id_: int,
    event: Event,
    references: References,
    owed: Mapping[str, Owed],
) -> Acceptance | None:
    """Accept a quarantined request as an event after all; None where it is gone."""
    cursor = await connection.execute("SELECT 1 FROM quarantine WHERE id = %s FOR UPDATE", (id_,))
    if await cursor.fetchone() is None:
        return None
    (acceptance,) = await steps.accept(connection, [(event, references, owed)])
    if not acceptance.duplicate:
        await connection.execute("DELETE FROM quarantine WHERE id = %s", (id_,))
        await _note(connection, change, 1)
    return acceptance


async def discard_quarantined(connection: Connection, change: Change, ids: Sequence[int]) -> Changed:
    """Delete quarantined requests."""
    cursor = await connection.execute(
        "DELETE FROM quarantine WHERE id = ANY(ARRAY(SELECT id FROM quarantine"
        " WHERE id = ANY(%s::bigint[]) ORDER BY id FOR UPDATE)) RETURNING id",
        (_storable(ids),),
    )
    done = first_of_each(ids, [id_ for (id_,) in await cursor.fetchall()])
    return await _changed(connection, change, done, ())


async def _changed(
    connection: Connection, change: Change, done: Sequence[bool], touched: Iterable[Leaving | Replay]
) -> Changed:
    destinations = frozenset(each.destination for each in touched)
    return Changed(await _note(connection, change, sum(done)), tuple(done), destinations)


async def _note(connection: Connection, change: Change, number: int) -> int | None:
    """Record a step that did something: with those before it, or anew if they are of another change."""
    if not number:
        return change.id
    detail = json.dumps(dict(change.detail))
    if change.id is not None:
        cursor = await connection.execute(
            "UPDATE changes SET number = number + %s"
            " WHERE id = %s AND who = %s AND action = %s AND detail = %s",
            (number, change.id, change.who, change.action, detail),
        )
        if cursor.rowcount:
            return change.id
    cursor = await connection.execute(
        "INSERT INTO changes (at, who, action, detail, number) VALUES (%s, %s, %s, %s, %s) RETURNING id",
        (change.at, change.who, change.action, detail, number),
    )
    ((id_,),) = await cursor.fetchall()
    return int(id_)


def _pair(replay: Replay) -> Pair:
    return replay.event, replay.destination


def _storable(ids: Iterable[int]) -> list[int]:
    """Return those ids that a row can have; asked for a greater one, PostgreSQL refuses the statement."""
    return [id_ for id_ in ids if id_.bit_length() < _ID_BITS]
