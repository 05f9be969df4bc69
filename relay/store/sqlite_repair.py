"""The SQL of what operators change: steps like those of `sqlite_steps`, each with its record in `changes`.

What a change may touch is `changing`'s; whose turn it then is in an order is `sqlite_order`'s. Changes made
by hand are rare: they are applied one after the other, but each as a whole in a few statements.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import apsw

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
from relay.store.repair import Change, Changed, Replay
from relay.store.sqlite_json import gathered
from relay.store.sqlite_order import promote
from relay.store.sqlite_steps import Steps

Move = tuple[str, DeliveryState | None, DeliveryState]  # destination, from, to; from None: made


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a step did, and how many deliveries of which destination moved from which state to which."""

    changed: Changed
    moves: Mapping[Move, int]


class RepairSteps:
    """Applies steps to the connection of `Steps`; only the thread that owns it may call it.

    Every public method takes a list of items and returns a result for each, in order.
    """

    def __init__(self, connection: apsw.Connection, steps: Steps) -> None:
        self._connection = connection
        self._steps = steps

    def replay(self, items: Sequence[tuple[Change, Sequence[Replay]]]) -> list[Repaired]:
        """Make deliveries of stored events; of one event to one destination, the first that is possible."""
        return [self._replay_one(*item) for item in items]

    def _replay_one(self, change: Change, replays: Sequence[Replay]) -> Repaired:
        chosen = first_possible(replays, self._possible(replays))
        made = {self._steps.next_delivery_id(): replays[place] for place in chosen}
        replaced = self._replace(made, change.at)
        self._make(made)
        self._promote([*made.values(), *replaced])
        moves: Counter[Move] = Counter(
            (delivery.destination, DeliveryState.DEAD, DeliveryState.DISCARDED) for delivery in replaced
        )
        moves.update((replay.destination, None, DeliveryState.PENDING) for replay in made.values())
        done = first_of_each(range(len(replays)), chosen)
        changed = self._changed(change, done, made.values())
        return Repaired(replace(changed, left_order=leaves_order(replaced, made.values())), moves)

    def _possible(self, replays: Sequence[Replay]) -> list[int]:
        """Return the places of those replays that the deliveries of their events allow."""
        places: list[int] = gathered(
            self._connection,
            "SELECT json_group_array(r.key ORDER BY r.key) FROM json_each(:replays) AS r WHERE"
            " CASE WHEN r.value ->> 2 IS NULL THEN"
            " EXISTS (SELECT 1 FROM events AS e WHERE e.id = r.value ->> 0)"
            " AND NOT EXISTS (SELECT 1 FROM deliveries AS d INDEXED BY deliveries_event"
            " WHERE d.event = r.value ->> 0 AND d.destination = r.value ->> 1"
            " AND d.state IN (SELECT value FROM json_each(:goes_there)))"
            " ELSE EXISTS (SELECT 1 FROM deliveries AS d WHERE d.id = r.value ->> 2"
            " AND d.event = r.value ->> 0 AND d.destination = r.value ->> 1"
            " AND d.state IN (SELECT value FROM json_each(:repeatable)))"
            " AND NOT EXISTS (SELECT 1 FROM deliveries AS o INDEXED BY deliveries_event"
            " WHERE o.event = r.value ->> 0 AND o.destination = r.value ->> 1"
            " AND o.state IN (SELECT value FROM json_each(:under_way))) END",
            {
                "replays": json.dumps([(replay.event, replay.destination, replay.of) for replay in replays]),
                "goes_there": json.dumps(GOES_THERE),
                "repeatable": json.dumps(REPEATABLE),
                "under_way": json.dumps(UNDER_WAY),
            },
        )
        return places

    def _replace(self, made: Mapping[int, Replay], now: float) -> list[Leaving]:
        """Discard all dead deliveries of the same event and destination; return them as they were.

        One that stayed would hold up the new one, of which it is the older in the same order.
        """
        rows = gathered(
            self._connection,
            "SELECT json_group_array(json_array(m.value ->> 0, d.id, d.destination, d.state, d.order_key))"
            " FROM json_each(:made) AS m CROSS JOIN deliveries AS d INDEXED BY deliveries_event"
            " ON d.event = m.value ->> 1 AND d.destination = m.value ->> 2"
            " WHERE d.state = 'dead'",
            {"made": json.dumps([(id_, replay.event, replay.destination) for id_, replay in made.items()])},
        )
        dead = [leaving(row[1:]) for row in rows]
        self._give_up([(row[1], replaced_by(row[0])) for row in rows], now)
        return dead

    def _make(self, made: Mapping[int, Replay]) -> None:
        """Store new deliveries; those with a place in an order wait for their turn at first."""
        if not made:
            return
        self._connection.execute(
            "INSERT INTO deliveries (id, event, destination, state, accepted_at, due_at, fresh, order_key,"
            " blocked, replay_of) SELECT value ->> 0, value ->> 1, value ->> 2, 'pending', value ->> 3,"
            " value ->> 3, 0, value ->> 4, value ->> 4 IS NOT NULL, value ->> 5 FROM json_each(?)",
            (
                json.dumps(
                    [
                        (id_, replay.event, replay.destination, replay.due_at, replay.order_key, replay.of)
                        for id_, replay in made.items()
                    ]
                ),
            ),
        )
        self._connection.execute(
            "UPDATE events SET unrouted = 0 WHERE unrouted = 1 AND id IN (SELECT value FROM json_each(?))",
            (json.dumps([replay.event for replay in made.values()]),),
        )

    def discard(self, items: Sequence[tuple[Change, Sequence[int], str]]) -> list[Repaired]:
        """Give up deliveries that are pending or dead."""
        return [self._discard_one(*item) for item in items]

    def _discard_one(self, change: Change, deliveries: Sequence[int], reason: str) -> Repaired:
        found = [each for each in self._read(deliveries) if each.state in DISCARDABLE]
        self._give_up([(delivery.id, reason) for delivery in found], change.at)
        self._promote(found)
        moves: Counter[Move] = Counter(
            (delivery.destination, delivery.state, DeliveryState.DISCARDED) for delivery in found
        )
        done = first_of_each(deliveries, {delivery.id for delivery in found})
        return Repaired(self._changed(change, done, found), moves)

    def skip(self, items: Sequence[tuple[Change, Sequence[int]]]) -> list[Changed]:
        """Take dead deliveries out of their order, so that what waits behind them goes on."""
        return [self._skip_one(*item) for item in items]

    def _skip_one(self, change: Change, deliveries: Sequence[int]) -> Changed:
        held = [
            delivery
            for delivery in self._read(deliveries)
            if delivery.state is DeliveryState.DEAD and delivery.order_key is not None
        ]
        self._connection.execute(
            "UPDATE deliveries SET order_key = NULL WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([delivery.id for delivery in held]),),
        )
        self._promote(held)
        done = first_of_each(deliveries, {delivery.id for delivery in held})
        return self._changed(change, done, held)

    def pause(self, items: Sequence[tuple[Change, str]]) -> list[Changed]:
        """Remember that nothing is to be delivered to a destination."""
        return [self._pause_one(*item) for item in items]

    def _pause_one(self, change: Change, destination: str) -> Changed:
        self._connection.execute(
            "INSERT INTO pauses (destination, paused_at) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (destination, change.at),
        )
        return self._paused(change, destination)

    def resume(self, items: Sequence[tuple[Change, str]]) -> list[Changed]:
        """Forget pauses."""
        return [self._resume_one(*item) for item in items]

    def _resume_one(self, change: Change, destination: str) -> Changed:
        self._connection.execute("DELETE FROM pauses WHERE destination = ?", (destination,))
        return self._paused(change, destination)

    def _paused(self, change: Change, destination: str) -> Changed:
        """Return what the statement before did to a destination."""
        done = self._connection.changes() > 0
        return Changed(self._note(change, int(done)), (done,), frozenset({destination} if done else ()))

    def release_quarantined(
        self, items: Sequence[tuple[Change, int, Event, References, Mapping[str, Owed]]]
    ) -> list[Acceptance | None]:
        """Accept quarantined requests as events after all."""
        return [self._release_one(*item) for item in items]

    def _release_one(
        self, change: Change, id_: int, event: Event, references: References, owed: Mapping[str, Owed]
    ) -> Acceptance | None:
        if not self._connection.execute("SELECT count(*) FROM quarantine WHERE id = ?", (id_,)).get:
            return None
        (acceptance,) = self._steps.accept([(event, references, owed)])
        if not acceptance.duplicate:
            self._connection.execute("DELETE FROM quarantine WHERE id = ?", (id_,))
            self._note(change, 1)
        return acceptance

    def discard_quarantined(self, items: Sequence[tuple[Change, Sequence[int]]]) -> list[Changed]:
        """Delete quarantined requests."""
        return [self._discard_quarantined_one(*item) for item in items]

    def _discard_quarantined_one(self, change: Change, ids: Sequence[int]) -> Changed:
        wanted = json.dumps(ids)
        there = set(
            gathered(
                self._connection,
                "SELECT json_group_array(id) FROM quarantine WHERE id IN (SELECT value FROM json_each(:ids))",
                {"ids": wanted},
            )
        )
        self._connection.execute(
            "DELETE FROM quarantine WHERE id IN (SELECT value FROM json_each(?))", (wanted,)
        )
        return self._changed(change, first_of_each(ids, there), ())

    def _read(self, deliveries: Sequence[int]) -> list[Leaving]:
        rows = gathered(
            self._connection,
            "SELECT json_group_array(json_array(id, destination, state, order_key)) FROM deliveries"
            " WHERE id IN (SELECT value FROM json_each(:ids))",
            {"ids": json.dumps(deliveries)},
        )
        return [leaving(row) for row in rows]

    def _give_up(self, reasons: Sequence[tuple[int, str]], now: float) -> None:
        """Discard deliveries, each for its reason; they leave their order."""
        if reasons:
            self._connection.execute(
                "UPDATE deliveries SET state = 'discarded', due_at = ?, order_key = NULL, blocked = 0,"
                " reason = given.reason FROM (SELECT value ->> 0 AS id, value ->> 1 AS reason"
                " FROM json_each(?)) AS given WHERE deliveries.id = given.id",
                (now, json.dumps(reasons)),
            )

    def _promote(self, touched: Iterable[Leaving | Replay]) -> None:
        """Let those go on whose turn it is now, in the orders that something joined or left."""
        promote(self._connection, keys_of(touched))

    def _changed(self, change: Change, done: Sequence[bool], touched: Iterable[Leaving | Replay]) -> Changed:
        destinations = frozenset(each.destination for each in touched)
        return Changed(self._note(change, sum(done)), tuple(done), destinations)

    def _note(self, change: Change, number: int) -> int | None:
        """Record a step that did something: with those before it, or anew if they are of another change."""
        if not number:
            return change.id
        detail = json.dumps(dict(change.detail))
        if change.id is not None:
            self._connection.execute(
                "UPDATE changes SET number = number + ?"
                " WHERE id = ? AND who = ? AND action = ? AND detail = ?",
                (number, change.id, change.who, change.action, detail),
            )
            if self._connection.changes():
                return change.id
        id_: int = self._connection.execute(
            "INSERT INTO changes (at, who, action, detail, number) VALUES (?, ?, ?, ?, ?) RETURNING id",
            (change.at, change.who, change.action, detail, number),
        ).get
        return id_
