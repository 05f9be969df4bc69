"""The composition root: builds store, lanes and listeners, and starts, reloads and drains them.

The only place that knows all rooms. What each of them does is theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import shutil
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from relay.admin import MAX_LINE_BYTES, Admin, Process, refuse
from relay.auth import Authenticator, Throttle, client_address
from relay.config import Account, Config, load
from relay.dispatcher import Dispatcher
from relay.errors import ConfigError, RelayError, StoreError
from relay.history import History, Matches
from relay.ingress import Ingress, IngressConfig
from relay.listener import ApplicationRunner, Listener, Server
from relay.metrics import Metrics
from relay.notify import Notifier
from relay.repair import RepairConfig, Repairs
from relay.routing import Router
from relay.store import Store
from relay.store.sqlite import open_store as open_sqlite

_log = logging.getLogger(__name__)

_ADMIN = "/admin"  # beside the sources' names, which have no slash

PROBE_SECONDS = 5.0
PROBE_EVERY_SECONDS = 1.0  # at most: anybody who reaches the admin port may ask
READINESS_EVERY_SECONDS = 15.0  # each look writes a little
RETENTION_EVERY_SECONDS = 3600.0
RETENTION_STEP = 200  # events looked at in one transaction
RETENTION_REST_SECONDS = 0.05  # between two, for the webhooks
CERTIFICATE_EVERY_SECONDS = 60.0
DISK_EVERY_SECONDS = 15.0
PAUSES_EVERY_SECONDS = 1.0
CLOSE_SECONDS = 5.0
LAST_MATCHES_SECONDS = 1.0  # a statistic isn't worth a longer stop
LAST_ANSWER_SECONDS = 1.0  # for the answers to webhooks that have arrived


class Relay:
    """One running relay. Use `async with`; leaving it drains."""

    def __init__(
        self, path: Path, config: Config, environment: Mapping[str, str], now: Callable[[], float]
    ) -> None:
        """Prepare a relay.

        Args:
            path: where the configuration is read again on reload.
            config: as read from there.
            environment: for `${NAME}` on reload.
            now: the clock.
        """
        self._path = path
        self._config = config
        self._environment = environment
        self._now = now
        self._throttle = Throttle()
        self._authenticators: dict[str, tuple[tuple[Account, ...], tuple[str, ...], Authenticator]] = {}
        self._hashing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="password")
        self._reloading = asyncio.Lock()
        self._probing = asyncio.Lock()
        self._probed: tuple[float, str | None] = (float("-inf"), None)
        self.metrics = Metrics()

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            RelayError: the store can't be opened, or an address can't be listened on.
        """
        async with AsyncExitStack() as stack:
            await self._start(self._config, stack)
            self._stop = stack.pop_all().aclose
        self.metrics.reload_successful.set(1)
        self.metrics.ready.set(1)
        _log.info("relay.started", extra={"fields": {"listen": self.public.addresses}})
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop accepting, finish or put back what is in flight, and close."""
        _log.info("relay.draining")
        self.metrics.ready.set(0)
        await self._stop()
        _log.info("relay.stopped")

    async def _start(self, config: Config, stack: AsyncExitStack) -> None:
        """Build everything, bottom up; what was built is taken down in the opposite order."""
        stack.callback(self._hashing.shutdown, wait=False, cancel_futures=True)
        stack.callback(self._close_authenticators)
        self._store = await self._open_store(config)
        stack.push_async_callback(self._close_store)
        self._history = History(self.metrics, self._now)
        self._matches = Matches(self.metrics, self._store, self._now)
        stack.push_async_callback(self._store_matches)
        self._dispatcher = Dispatcher(self._store, self.metrics, self._now, await self._store.paused())
        self._ingress = Ingress(
            self._ingress_config(config), self._store, self._dispatcher, self.metrics, self._now
        )
        self._server = Server(self._ingress.handle, self._ingress.refuse)
        self._repairs = Repairs(
            self._repair_config(config), self._store, self._dispatcher, self.metrics, self._now
        )
        process = Process(self._not_ready, self.reload, lambda: self._config, self._history)
        self._admin = Admin(self._repairs, self._store, self.metrics, self._now, process)
        self.admin = Listener(
            ApplicationRunner(
                self._admin.application(),
                refuse,
                max_line_bytes=MAX_LINE_BYTES,
                shutdown_timeout=CLOSE_SECONDS,
            )
        )
        stack.push_async_callback(self.admin.close)
        self._notifier = Notifier(self._store, self._dispatcher.states, self.metrics, self._now)
        stack.callback(self._notifier.close)
        self.public = Listener(web.ServerRunner(self._server, shutdown_timeout=LAST_ANSWER_SECONDS))
        self._chores: list[asyncio.Task[None]] = []
        self._start_chore(self._dispatcher.keep_leases(), stack)  # until the last lane is closed
        stack.push_async_callback(self._drain)
        self._apply(config)
        await self.public.bind(config.server.listen, config.server.tls)
        self._refresh_certificate()
        await self.admin.bind(config.admin.listen)
        for chore in (
            self._delete_old_events(),
            self._watch_certificate(),
            self._follow_pauses(),
            self._watch_readiness(),
            self._notifier.run(),
            self._history.keep(),
            self._matches.keep(),
        ):
            self._start_chore(chore, stack)
        if not config.store.is_postgres:
            stack.callback(self._watch_disk(config.store.path.parent).set)

    def _start_chore(self, chore: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
        task = asyncio.create_task(chore)
        self._chores.append(task)
        stack.callback(task.cancel)

    async def _open_store(self, config: Config) -> Store:
        committed = self.metrics.commit_duration.observe
        if not config.store.is_postgres:
            return open_sqlite(config.store.path, committed)
        try:
            from relay.store.postgres import open_store as open_postgres  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise StoreError("PostgreSQL needs the package's extra: itscope-relay[postgres]") from error
        return await open_postgres(config.store.conninfo(), committed)

    async def _drain(self) -> None:
        """Take no more webhooks, and give those and the deliveries under way some time."""
        async with self._reloading:  # one that is under way must not start lanes behind the drain
            self._ingress.draining = True
        await self.public.stop_listening()
        # Without a store, nothing can be recorded that is worth waiting for.
        grace = 0.0 if self._store.died.done() else self._config.server.drain_timeout.total_seconds()
        await asyncio.gather(self._finish_webhooks(grace), self._dispatcher.drain(grace))

    async def _finish_webhooks(self, grace_seconds: float) -> None:
        """Let webhooks under way arrive, for a while: aiohttp reads nothing any more once it closes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ingress.idle.wait(), grace_seconds)
        await self.public.close()

    async def _close_store(self) -> None:
        with contextlib.suppress(TimeoutError):  # a disk that hangs must not keep the process
            await asyncio.wait_for(self._store.close(), CLOSE_SECONDS)

    async def _store_matches(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._matches.store(), LAST_MATCHES_SECONDS)

    async def failed(self) -> None:
        """Wait until a part of the relay ends by a bug, and raise what ended it."""
        parts = {self._dispatcher.crashed, self._store.died, *self._chores}
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()

    async def reload(self) -> None:
        """Take the configuration anew, whole or not at all.

        Raises:
            ConfigError: names every problem; nothing has changed.
        """
        async with self._reloading:
            try:
                config = await asyncio.to_thread(load, self._path, self._environment)
                self._refuse_what_comes_too_late(config)
                await self._bind(config)
            except ConfigError as error:
                self.metrics.reload_successful.set(0)
                _log.error("config.rejected", extra={"fields": {"problems": error.problems}})
                raise
            self._apply(config)
            self._config = config
            self.metrics.reload_successful.set(1)
            sizes = {part: len(getattr(config, part)) for part in ("sources", "destinations", "routes")}
            _log.info("config.reloaded", extra={"fields": sizes})

    def _refuse_what_comes_too_late(self, config: Config) -> None:
        if self._ingress.draining:
            raise ConfigError(["the relay is stopping"])
        if config.store.url != self._config.store.url:
            raise ConfigError([f"{self._path}: store.url: can't change while the relay runs; restart it"])

    async def _bind(self, config: Config) -> None:
        """Listen where a configuration says, or stay where the present one does."""
        try:
            await self.public.bind(config.server.listen, config.server.tls)
            await self.admin.bind(config.admin.listen)
        except RelayError as error:
            try:
                await self.public.bind(self._config.server.listen, self._config.server.tls)
            except RelayError:
                _log.critical("listener.lost", exc_info=True)  # readiness says so as well
            raise ConfigError([f"{self._path}: {error}"]) from error
        self._refresh_certificate()

    def _apply(self, config: Config) -> None:
        """Put a configuration into effect; can't fail, and nothing runs in between."""
        for source in config.sources:
            self.metrics.add_source(source)
        for route in config.routes:
            self.metrics.add_route(route.name)
        self._dispatcher.configure(config.destinations)
        self._notifier.configure(config)
        self._ingress.config = self._ingress_config(config)
        self._repairs.config = self._repair_config(config)
        self._server.idle_seconds = config.server.idle_timeout.total_seconds()
        self._admin.authenticator = (
            self._authenticator(_ADMIN, config.admin.auth, ()) if config.admin.auth else None
        )
        self._admin.roles = config.admin.roles

    def _ingress_config(self, config: Config) -> IngressConfig:
        return IngressConfig(
            paths=config.paths,
            authenticators={
                name: self._authenticator(name, source.auth, config.server.trusted_proxies)
                for name, source in config.sources.items()
            },
            router=Router(config.routes),
            order_by=_order_by(config),
            max_body=config.server.max_body,
            body_timeout_seconds=config.server.body_timeout.total_seconds(),
        )

    @staticmethod
    def _repair_config(config: Config) -> RepairConfig:
        return RepairConfig(Router(config.routes), tuple(config.destinations), _order_by(config))

    def _close_authenticators(self) -> None:
        for *_, authenticator in self._authenticators.values():
            authenticator.close()

    def _authenticator(
        self, name: str, accounts: tuple[Account, ...], trusted_proxies: tuple[str, ...]
    ) -> Authenticator:
        """Return an authenticator; the one there is, with the logins it remembers, if nothing changed."""
        known = self._authenticators.get(name)
        if known is not None and known[:2] == (accounts, trusted_proxies):
            return known[2]
        address = partial(client_address, trusted_proxies=trusted_proxies)
        made = Authenticator(accounts, self._throttle, self._hashing, address, self._now)
        self._authenticators[name] = accounts, trusted_proxies, made
        return made

    async def _not_ready(self) -> str | None:
        if self._ingress.draining:
            return "the relay is stopping"
        if not self.public.addresses:
            return "the relay is not listening"
        async with self._probing:
            now = asyncio.get_running_loop().time()
            if now - self._probed[0] > PROBE_EVERY_SECONDS:
                self._probed = now, await self._probe()
            return self._probed[1]

    async def _probe(self) -> str | None:
        """Return why the store can't write, None if it can."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._store.probe()
        except StoreError as error:
            return str(error)
        except TimeoutError:
            return f"the store did not answer within {PROBE_SECONDS:g}s"
        return None

    async def _watch_readiness(self) -> None:
        """Say in a metric whether webhooks are accepted, and in the log when that changes."""
        clock = asyncio.get_running_loop().time
        not_ready_at: float | None = None
        while True:
            await asyncio.sleep(READINESS_EVERY_SECONDS)
            reason = await self._not_ready()
            self.metrics.ready.set(reason is None)
            if reason is None and not_ready_at is not None:
                _log.info("relay.ready", extra={"fields": {"seconds": round(clock() - not_ready_at, 1)}})
                not_ready_at = None
            elif reason is not None and not_ready_at is None:
                not_ready_at = clock()
                _log.warning("relay.not_ready", extra={"fields": {"reason": reason}})

    async def _delete_old_events(self) -> None:
        """Delete finished events when they are old enough, in steps that webhooks don't notice."""
        while True:
            before = self._now() - self._config.store.retention.total_seconds()
            after: int | None = 0
            deleted = 0
            with contextlib.suppress(StoreError):
                while after is not None:
                    step = await self._store.purge(after, before, RETENTION_STEP)
                    deleted += step.deleted
                    after = step.next_after
                    await asyncio.sleep(RETENTION_REST_SECONDS)
            if after is not None:
                _log.warning("events.not_expired", extra={"fields": {"events": deleted}})
            if deleted:
                _log.info("events.expired", extra={"fields": {"events": deleted}})
            await asyncio.sleep(RETENTION_EVERY_SECONDS)

    async def _follow_pauses(self) -> None:
        """Learn what was paused and resumed at another relay that shares the store."""
        while True:
            await asyncio.sleep(PAUSES_EVERY_SECONDS)
            with contextlib.suppress(StoreError):
                await self._repairs.follow_pauses()

    async def _watch_certificate(self) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_EVERY_SECONDS)
            self._refresh_certificate()

    def _refresh_certificate(self) -> None:
        self.public.refresh_certificate()
        expires_at = self.public.certificate_expires_at
        self.metrics.certificate_expiry.set(math.nan if expires_at is None else expires_at)

    def _watch_disk(self, folder: Path) -> threading.Event:
        """Say in metrics how full the disk is that a SQLite file is on, until the event returned is set.

        In a thread that nothing waits for: a disk that hangs must keep neither the loop nor the process.
        """
        ended = threading.Event()

        def watch() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    usage = shutil.disk_usage(folder)
                    self.metrics.disk_free.set(usage.free)
                    self.metrics.disk_size.set(usage.total)
                ended.wait(DISK_EVERY_SECONDS)

        threading.Thread(target=watch, name="disk", daemon=True).start()
        return ended


def _order_by(config: Config) -> dict[str, str]:
    """Return the field by which each destination is delivered in order, where it is."""
    return {
        name: destination.order_by
        for name, destination in config.destinations.items()
        if destination.order_by is not None
    }
