"""How commands run a coroutine, and the life of `serve`: reload and stop by signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.config import Config


_ALLOCATIONS_BETWEEN_COLLECTIONS = 10_000  # beyond what is freed; the default of 700 is a few webhooks


def run(main_coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fastest event loop there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main_coroutine)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it is optional
        return None
    return uvloop.new_event_loop


def _collect_garbage_seldom() -> None:
    """Leave what stays for good out of collections, and have fewer: each holds up every webhook."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_BETWEEN_COLLECTIONS)


async def serve_until_stopped(path: Path, config: Config) -> None:
    """Run until a signal asks to stop, or a part of the relay fails."""
    from relay.app import Relay

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Relay(path, config, os.environ, time.time) as relay:
        _collect_garbage_seldom()
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            async def run() -> None:
                with contextlib.suppress(ConfigError):  # logged, and seen in the metric
                    await relay.reload()

            task = loop.create_task(run())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        scheme = "https" if config.server.tls else "http"
        for path_ in config.paths:
            for url in _urls(scheme, relay.public.addresses):
                click.echo(f"listening on {url}{path_}")
        for url in _urls("http", relay.admin.addresses):
            click.echo(f"admin on {url}")
        stopping = asyncio.ensure_future(stop.wait())
        failing = asyncio.ensure_future(relay.failed())
        done, _ = await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        failing.cancel()
        for task in done:
            task.result()


def _urls(scheme: str, addresses: list[tuple[str, int]]) -> list[str]:
    return [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses]
