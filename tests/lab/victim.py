"""The relay as the command runs it, in a process that kills itself at a commit, or that commits too late.

Started as `victim.py TRAP NUMBER serve ...`. Owns the traps. Nothing of the relay is replaced: the first two
only listen to SQLite; the third is sabotage, for showing that the laboratory can tell.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import apsw

from relay.cli import main

_COMMITS_POSTPONED = 16  # of so many, one is made


class Trap(StrEnum):
    """What becomes of a relay."""

    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    POSTPONED_COMMIT = "postponed-commit"


def _kill_at_commit(number: int, moment: int) -> Callable[[apsw.Connection], None]:
    """Return a hook for new connections that ends the process at a moment of the n-th commit."""
    commits = itertools.count(1)

    def observe(statement: dict[str, Any]) -> None:
        if statement["sql"] == "COMMIT" and next(commits) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda connection: connection.trace_v2(moment, observe, id=observe)


class _PostponingConnection(apsw.Connection):
    """Sabotage: every commit is said to be done, and one of many is."""

    _said = 0

    def execute(self, statements: str, *arguments: Any, **options: Any) -> apsw.Cursor:
        if statements.startswith("BEGIN") and self.in_transaction:
            return self.cursor()
        if statements == "COMMIT":
            self._said += 1
            if self._said % _COMMITS_POSTPONED:
                return self.cursor()
        return super().execute(statements, *arguments, **options)


def _set(trap: Trap, number: int) -> None:
    match trap:
        case Trap.BEFORE_COMMIT:
            apsw.connection_hooks.append(_kill_at_commit(number, apsw.SQLITE_TRACE_STMT))
        case Trap.AFTER_COMMIT:  # a statement is profiled when it has ended
            apsw.connection_hooks.append(_kill_at_commit(number, apsw.SQLITE_TRACE_PROFILE))
        case Trap.POSTPONED_COMMIT:
            apsw.Connection = _PostponingConnection  # type: ignore[misc]


if __name__ == "__main__":
    _set(Trap(sys.argv[1]), int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
