"""The connections to one PostgreSQL: how many, how they are set up, and why there is none."""

from __future__ import annotations

import json
import logging
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from relay.store.postgres_order import Connection

logging.getLogger("psycopg").setLevel(logging.ERROR)  # who uses the store says what fails

MAX_CONNECTIONS = 8  # of one relay
CONNECT_SECONDS = 5
CONNECTION_SECONDS = 2.0  # to get one that is free, made where need be
# The pool waits twice as long after each failure, without a bound, and begins anew for whoever asks after
# this: or the database would be away for twice as long as it is.
RECONNECT_SECONDS = 2.0
# Of connections whose server is lost without a word; what the URL says goes before.
_CLIENT_SETTINGS = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "connect_timeout": CONNECT_SECONDS,
}
# Whatever the server's defaults are. A relay that stands still, or whose machine is lost, must not keep
# others from what it has locked: its transactions end soon, and its connections too.
_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "3s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}


class Pool(AsyncConnectionPool[Connection]):
    """The connections of one relay; open it before use.

    Attributes:
        failure: why the last try to connect failed, None if it didn't.
    """

    failure: str | None = None

    def __init__(self, url: str) -> None:
        """Prepare a pool.

        Args:
            url: as libpq takes it.
        """
        super().__init__(
            connection_class=_reporting(self),
            configure=configure,
            kwargs=arguments(url),
            min_size=2,
            max_size=MAX_CONNECTIONS,
            timeout=CONNECTION_SECONDS,
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
            name="store",
        )

    async def getconn(self, timeout: float | None = None) -> Connection:  # noqa: ASYNC109 (the pool's)
        """Return a connection; the pool's own (3.3.3) remembers whoever gave up until there is one."""
        try:
            return await super().getconn(timeout)
        except BaseException:
            while self._waiting and self._waiting[0].error is not None:
                self._waiting.popleft()
            raise

    def explain(self, error: BaseException) -> str:
        """Return what is wrong where something on a connection failed, or none was to be had."""
        if not isinstance(error, PoolTimeout):
            return text(error)
        return "no connection is free" if self.failure is None else f"no connection: {self.failure}"


def _reporting(pool: Pool) -> type[Connection]:
    """Return connections that tell why there is none, which a pool keeps to itself."""

    class Reporting(psycopg.AsyncConnection[tuple[Any, ...]]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Self:
            try:
                connection = await super().connect(*args, **kwargs)
            except psycopg.Error as error:
                pool.failure = text(error)
                raise
            pool.failure = None
            return connection

    return Reporting


def arguments(url: str) -> dict[str, Any]:
    """Return what to connect with.

    Raises:
        psycopg.Error: it is no URL.
    """
    return {**_CLIENT_SETTINGS, **conninfo_to_dict(url), "autocommit": True}


async def configure(connection: Connection) -> None:
    """Set a new connection up."""
    await connection.execute(
        "SELECT set_config(key, value, FALSE) FROM jsonb_each_text(%s)", (json.dumps(_SETTINGS),)
    )
    await wait_for_the_disk(connection)


async def wait_for_the_disk(connection: Connection) -> None:
    """Have commits wait for the disk, at least; whoever has them wait for a standby too knows why."""
    await connection.execute(
        "SELECT set_config('synchronous_commit', 'on', FALSE)"
        " WHERE current_setting('synchronous_commit') = 'off'"
    )


def text(error: BaseException) -> str:
    """Return the first line of what is wrong; PostgreSQL's further ones quote rows."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
