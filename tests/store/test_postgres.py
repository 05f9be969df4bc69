"""What PostgreSQL alone does: several relays at once, and a server that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from importlib import resources

import psycopg
import psycopg_pool.base
import pytest
from psycopg import errors

from relay.errors import StoreError, StoreUnavailableError
from relay.model import DeliveryState, Owed, References
from relay.store import Store
from relay.store.postgres import STUCK_SECONDS, open_store
from relay.store.postgres_pool import MAX_CONNECTIONS
from relay.store.repair import Change, Filter, Page
from relay.store.steps import LEASE_SECONDS
from tests.postgres import PostgresServer, read_postgres
from tests.store.opened import (
    START,
    accept,
    attempt,
    backlog,
    claim,
    claim_all,
    claim_one,
    event,
    ids,
    offer,
    owed,
)

DELIVERED = DeliveryState.DELIVERED
KEY = {"erp": Owed(claim=False, order_key="a")}


async def opened(url: str) -> Store:
    return await open_store(url, lambda _seconds: None)


@pytest.fixture
async def both(postgres_url: str) -> AsyncIterator[tuple[Store, Store]]:
    """The stores of two relays on one database."""
    first, second = await asyncio.gather(opened(postgres_url), opened(postgres_url))
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that tests may kill."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def frail(own_server: PostgresServer) -> AsyncIterator[Store]:
    own_server.start()
    store = await opened(own_server.create_database())
    yield store
    own_server.start()
    await store.close()


# ---- two relays at once


async def test_event_offered_to_both_is_accepted_once(both: tuple[Store, Store]) -> None:
    names = [f"e{number}" for number in range(300)]
    offers = [offer(store, event(name), {"erp": True, "crm": False}) for name in names for store in both]
    acceptances = await asyncio.gather(*offers)
    assert [acceptance.duplicate for acceptance in acceptances].count(False) == len(names)
    claimed = [delivery.event.event_id for each in acceptances for delivery in each.claimed]
    assert sorted(claimed) == sorted(names)
    assert await backlog(both[0]) == owed(in_flight=len(names), oldest=START)


async def test_delivery_is_claimed_by_one_of_both(both: tuple[Store, Store]) -> None:
    names = [f"e{number}" for number in range(100)]
    await accept(both[0], *names)
    claims = await asyncio.gather(
        *(claim(both[number % 2], "erp", 7, 1 << 30, START + 1000) for number in range(40))
    )
    claimed = [name for each in claims for name in ids(each.deliveries)]
    assert len(claimed) == len(set(claimed))
    rest = ids(await claim_all(both[0]))
    assert sorted([*claimed, *rest]) == sorted(names)


async def test_one_that_wakes_up_late_records_nothing_over_the_new_owner(both: tuple[Store, Store]) -> None:
    late, other = both
    await accept(late, "e1")
    stale = await claim_one(late)
    assert await other.expire(START + 1000 + LEASE_SECONDS) == 1
    taken_over = await claim_one(other)
    assert await late.record([attempt(stale, DeliveryState.DEAD)]) == [False]
    assert await late.renew([stale], START + 5000) == []
    await late.release([stale])
    assert await backlog(other) == owed(in_flight=1, oldest=START)
    assert await other.record([attempt(taken_over, DELIVERED)]) == [True]


async def test_of_one_key_one_delivery_is_open_at_a_time(both: tuple[Store, Store]) -> None:
    offers = [
        both[number % 2].accept(event(f"e{number}", at=START + number), References(), KEY)
        for number in range(60)
    ]
    await asyncio.gather(*offers)
    delivered: list[str] = []
    while len(delivered) < len(offers):
        claims = await asyncio.gather(*(claim(store, "erp", 10, 1 << 30, START + 1000) for store in both))
        (delivery,) = [delivery for each in claims for delivery in each.deliveries]
        delivered.append(delivery.event.event_id)
        ended, _ = await asyncio.gather(
            both[len(delivered) % 2].record([attempt(delivery, DELIVERED)]),
            both[0].accept(event(f"late{len(delivered)}", at=START + 500), References(), {}),
        )
        assert ended == [True]
    assert len(set(delivered)) == len(offers)
    assert await backlog(both[0]) == owed()


async def test_key_goes_on_whoever_joins_while_its_head_leaves(both: tuple[Store, Store]) -> None:
    for number in range(40):
        await both[0].accept(event(f"head{number}"), References(), KEY)
        head = await claim_one(both[0])
        await asyncio.gather(
            both[0].record([attempt(head, DELIVERED)]),
            both[1].accept(event(f"next{number}"), References(), KEY),
        )
        following = await claim_one(both[number % 2])
        assert await both[0].record([attempt(following, DELIVERED)]) == [True]


async def test_pause_is_seen_by_both(both: tuple[Store, Store]) -> None:
    await both[0].pause(Change("alice", START, "pause"), "erp")
    assert await both[1].paused() == {"erp": START}


async def test_one_at_a_time_deletes_old_events(both: tuple[Store, Store]) -> None:
    for number in range(3):
        await accept(both[0], f"e{number}")
        assert await both[0].record([attempt(await claim_one(both[0]), DELIVERED)]) == [True]
    first = await both[0].purge(0, START + 100, 1)
    assert (first.deleted, first.next_after is None) == (1, False)
    assert (await both[1].purge(0, START + 100, 1)).deleted == 0
    assert (await both[0].purge(first.next_after or 0, START + 100, 10)).deleted == 2


# ---- the schema


async def test_relays_that_start_at_once_make_the_schema_once(own_server: PostgresServer) -> None:
    own_server.start()
    url = own_server.create_database()
    stores = await asyncio.gather(*(opened(url) for _ in range(4)))
    await asyncio.gather(*(store.close() for store in stores))
    assert read_postgres(url, "SELECT count(*) FROM schema_version") == [(1,)]


async def test_newer_schema_is_refused(own_server: PostgresServer) -> None:
    own_server.start()
    url = own_server.create_database()
    await (await opened(url)).close()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(StoreError, match=r"written by a newer relay \(schema 99, this one knows 2\)"):
        await opened(url)


async def test_commits_wait_for_the_disk_whatever_the_servers_default() -> None:
    with PostgresServer(settings={"synchronous_commit": "off"}) as server:
        server.start()
        store = await open_store(server.url, lambda _seconds: None)
        async with store._pool.connection() as connection:
            row = await (await connection.execute("SHOW synchronous_commit")).fetchone()
        await store.close()
    assert row == ("on",)


async def test_server_that_is_not_there_is_named_without_a_password() -> None:
    with pytest.raises(StoreError, match=r"^can't open the store: .*1") as raised:
        await opened("postgresql://relay:s3cret@127.0.0.1:1/relay")
    assert "s3cret" not in str(raised.value)


async def test_database_that_cannot_hold_every_text_is_refused(own_server: PostgresServer) -> None:
    own_server.start()
    with psycopg.connect(own_server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE western ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(StoreError, match="encoded in LATIN1"):
        await opened(own_server.url.removesuffix("postgres") + "western")


async def test_database_of_the_first_schema_is_searched_by_bytes_whatever_its_locale(
    own_server: PostgresServer,
) -> None:
    own_server.start()
    url = own_server.url.removesuffix("postgres") + "german"
    with psycopg.connect(own_server.url, autocommit=True) as connection:
        try:
            connection.execute(
                "CREATE DATABASE german LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' TEMPLATE template0"
            )
        except errors.FeatureNotSupported:  # not every server is built with ICU: its own locale, then
            connection.execute("CREATE DATABASE german")
    script = resources.files("relay.store") / "migrations" / "postgres" / "0001_begin.sql"
    with psycopg.connect(url) as connection:
        connection.execute(script.read_bytes())
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (1)")
        connection.execute(
            "INSERT INTO events (source, event_id, received_at, content_type, trace_id, unrouted, size, body,"
            " order_id) SELECT 'itscope', id, %s, '', '', FALSE, 0, '', id"
            " FROM unnest(%s::text[]) AS given (id)",
            (START, ["PO-1", "po-1", "PO1", "P\u00d6-1", "PP"]),
        )
    store = await opened(url)
    try:
        await accept(store, "PO-2")
        for prefix, expected in {
            "PO": {"PO-1", "PO1", "PO-2"},
            "P\u00d6": {"P\u00d6-1"},
            "p": {"po-1"},
        }.items():
            found = await store.find_events(Filter(prefix=prefix), Page(10))
            assert {one.event_id for one in found.items} == expected
        assert (await offer(store, event("po-1"), {})).duplicate
        assert not (await offer(store, event("Po-1"), {})).duplicate
    finally:
        await store.close()


# ---- a server that goes away


async def back(store: Store) -> None:
    """Wait until a store has found its server again."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                return await store.probe()
            await asyncio.sleep(0.1)


async def test_whoever_finds_the_server_back_ends_its_absence_for_webhooks(
    frail: Store, own_server: PostgresServer
) -> None:
    own_server.stop()
    with pytest.raises(StoreUnavailableError):
        await offer(frail, event("refused"), {"erp": False})
    own_server.start()
    await back(frail)
    offers = (offer(frail, event(f"e{number}"), {"erp": False}) for number in range(20))
    assert not any(acceptance.duplicate for acceptance in await asyncio.gather(*offers))


async def test_read_that_takes_too_long_keeps_no_webhook_out(
    both: tuple[Store, Store], postgres_url: str
) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("LOCK TABLE quarantine IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailableError, match="the database takes too long"):
            await both[0].find_quarantined(None, Page(limit=1))
    offers = (offer(both[0], event(f"e{number}"), {"erp": False}) for number in range(20))
    assert not any(acceptance.duplicate for acceptance in await asyncio.gather(*offers))


async def test_connection_that_the_server_ended_in_a_transaction_is_replaced(
    frail: Store, own_server: PostgresServer
) -> None:
    await accept(frail, "before")
    with psycopg.connect(own_server.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
    await asyncio.gather(*(accept(frail, f"e{number}") for number in range(20)))
    assert len(await claim_all(frail)) == 21


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_webhook_after_a_restart_is_stored(
    frail: Store, own_server: PostgresServer, how: signal.Signals
) -> None:
    await accept(frail, "before")
    await asyncio.gather(*(frail.backlog() for _ in range(8)))  # all connections there may be
    own_server.restart(how)
    await accept(frail, "after")
    assert ids(await claim_all(frail)) == ["before", "after"]


async def test_server_that_was_away_for_long_is_found_again_soon(
    frail: Store, own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg_pool.base.AttemptWithBackoff, "DELAY_BACKOFF", 1e6)  # as after days
    own_server.stop()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError, match="no connection: connection failed"):
            await frail.probe()
    assert len(frail._pool._waiting) == 0  # type: ignore[attr-defined]  # whoever gave up isn't kept
    own_server.start()
    await back(frail)


async def test_connections_that_are_all_busy_are_kept(both: tuple[Store, Store], postgres_url: str) -> None:
    store, _ = both
    await asyncio.gather(*(store.backlog() for _ in range(MAX_CONNECTIONS)))

    def sessions() -> set[int]:
        activity = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        return {pid for (pid,) in connection.execute(activity)}

    with psycopg.connect(postgres_url) as connection:
        connection.execute("LOCK TABLE quarantine IN ACCESS EXCLUSIVE MODE")
        reads = [
            asyncio.ensure_future(store.find_quarantined(None, Page(limit=1))) for _ in range(MAX_CONNECTIONS)
        ]
        with pytest.raises(StoreUnavailableError, match="no connection is free"):
            await offer(store, event("refused"), {"erp": False})
        before = sessions()
        connection.rollback()
        await asyncio.gather(*reads)
        assert sessions() == before


async def test_step_that_fails_when_nobody_waits_for_it_any_more_is_no_fault(
    frail: Store, own_server: PostgresServer
) -> None:
    own_server.stop()
    others = asyncio.all_tasks()
    waiting = asyncio.ensure_future(frail.probe())
    await asyncio.sleep(0)
    (step,) = asyncio.all_tasks() - others - {waiting}
    waiting.cancel()
    await asyncio.wait([step])
    assert isinstance(step._exception, StoreUnavailableError)
    assert not step._log_traceback  # or asyncio would call it a fault


async def test_result_that_is_stored_already_counts_and_changes_nothing(
    both: tuple[Store, Store], postgres_url: str
) -> None:
    store, _ = both
    await accept(store, "e1", "e2")
    first, second = await claim_all(store)
    assert await store.record([attempt(first, DeliveryState.PENDING)]) == [True]
    again = [attempt(first, DeliveryState.PENDING), attempt(second, DELIVERED)]
    assert await store.record(again) == [True, True]  # as after a commit whose answer was lost
    assert await backlog(store) == owed(pending=1, oldest=START)
    assert read_postgres(postgres_url, "SELECT count(*) FROM attempts") == [(2,)]


async def test_without_a_server_webhooks_are_refused_and_none_waits_for_long(
    frail: Store, own_server: PostgresServer
) -> None:
    own_server.stop()
    refused = await asyncio.gather(
        *(offer(frail, event(f"e{number}"), {"erp": False}) for number in range(50)), return_exceptions=True
    )
    assert {type(one) for one in refused} == {StoreUnavailableError}
    probing = asyncio.ensure_future(offer(frail, event("probing"), {"erp": False}))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailableError, match="the database is away"):
        await offer(frail, event("other"), {"erp": False})
    with pytest.raises(StoreUnavailableError):
        await probing
    own_server.start()
    assert not (await offer(frail, event("e1"), {"erp": False})).duplicate


async def test_what_was_claimed_is_recorded_once_the_server_is_back(
    frail: Store, own_server: PostgresServer
) -> None:
    await accept(frail, "e1")
    claimed = await claim_one(frail)
    own_server.stop(signal.SIGQUIT)
    with pytest.raises(StoreUnavailableError):
        await frail.record([attempt(claimed, DELIVERED)])
    own_server.start()
    assert await frail.record([attempt(claimed, DELIVERED)]) == [True]


async def test_while_the_server_hangs_webhooks_are_refused(frail: Store, own_server: PostgresServer) -> None:
    await accept(frail, "before")
    with own_server.hanging():
        first = asyncio.ensure_future(offer(frail, event("first"), {"erp": False}))
        await asyncio.sleep(STUCK_SECONDS + 0.5)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="the database takes too long"):
            await offer(frail, event("second"), {"erp": False})
        assert time.monotonic() - started < STUCK_SECONDS
        with pytest.raises(StoreUnavailableError):
            await first
    async with asyncio.timeout(30):
        while True:
            try:
                await offer(frail, event("third"), {"erp": False})
                break
            except StoreUnavailableError:
                await asyncio.sleep(0.1)
