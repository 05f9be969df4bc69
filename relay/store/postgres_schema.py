"""The schema of a PostgreSQL database, brought up to date by whichever relay starts first."""

from __future__ import annotations

import logging
from importlib import resources

from relay.errors import StoreError
from relay.store.postgres_order import Connection

_log = logging.getLogger(__name__)

OLDEST_SERVER = 140000
_LOCK = 0x17_5C_0B_E1  # of migrations, among a database's advisory locks


async def migrate(connection: Connection) -> None:
    """Run the numbered scripts that a database lacks, one after the other; there is no way back.

    Raises:
        StoreError: the server is too old, the database isn't encoded in UTF-8, or a newer relay wrote it.
    """
    if connection.info.server_version < OLDEST_SERVER:
        raise StoreError(f"PostgreSQL {OLDEST_SERVER // 10000} or newer is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"the database is encoded in {encoding}, which can't hold every text; it must be UTF8"
        )
    folder = resources.files("relay.store") / "migrations" / "postgres"
    scripts = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        row = await (await connection.execute("SELECT version FROM schema_version")).fetchone()
        version = 0 if row is None else row[0]
        if version > len(scripts):
            raise StoreError(
                f"the store was written by a newer relay (schema {version}, this one knows {len(scripts)})"
            )
        for script in scripts[version:]:
            await connection.execute(script.read_text(encoding="utf-8").encode())
        await connection.execute("DELETE FROM schema_version")
        await connection.execute("INSERT INTO schema_version VALUES (%s)", (len(scripts),))
    if version < len(scripts):
        _log.info("store.migrated", extra={"fields": {"schema": len(scripts), "from": version}})
