"""One line a fact, as JSON or as text, written by a thread of its own.

A full pipe must never stall the event loop: the queue between is bounded, and what doesn't fit is counted
and dropped. Facts carry ids as fields; bodies and credentials never reach this module.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import time
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any

_MAX_QUEUED = 10_000
_STDERR = 2
_STOP_SECONDS = 2.0
_EXHAUSTED_EVERY_SECONDS = 10.0


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "fact": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(
            f"{name}={json.dumps(value, default=str)}"
            for name, value in getattr(record, "fields", {}).items()
            if value is not None
        )
        line = f"{time} {record.levelname.lower():8} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _StderrHandler(logging.Handler):
    """Writes to the descriptor of standard error; one thread uses it, so there is nothing to lock.

    With a lock or a buffer, a thread that is stuck in a full pipe would keep the process from ending.
    """

    def createLock(self) -> None:  # noqa: N802 (logging's)
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # nobody reads any more
            while line:
                line = line[os.write(_STDERR, line) :]


class _DroppingQueueHandler(QueueHandler):
    """Drops what doesn't fit, and says how much once something fits again."""

    def __init__(self, lines: queue.Queue[Any]) -> None:
        super().__init__(lines)
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # same process: the listener formats it, fields and all

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._dropped:
            record.fields = {**getattr(record, "fields", {}), "lines_dropped_before": self._dropped}
        try:
            self.queue.put_nowait(record)
            self._dropped = 0
        except queue.Full:
            self._dropped += 1


class _Exhausted(logging.Filter):
    """Says once in a while that no connection can be taken, for lack of file descriptors, and without ado.

    asyncio tries a thousand times a second then, and logs each with a traceback (uvloop says nothing).
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_at = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith("socket.accept() out of system resource"):
            return True
        now = time.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + _EXHAUSTED_EVERY_SECONDS
        error = record.exc_info[1] if record.exc_info else None
        reason = (getattr(error, "strerror", None) or "unknown").lower()
        record.msg, record.args, record.exc_info = "listener.exhausted", (), None
        record.__dict__["fields"] = {"error": reason}
        return True


class _Listener(QueueListener):
    """Stops in a bounded time, also when nobody reads what it writes."""

    def stop(self) -> None:
        with contextlib.suppress(queue.Full):
            self.enqueue_sentinel()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            self._thread = None


def start(form: str, level: str) -> QueueListener:
    """Send all facts to standard error from now on, until the returned listener is stopped.

    Args:
        form: `json` or `text`.
        level: `debug`, `info`, `warning` or `error`.
    """
    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    lines: queue.Queue[Any] = queue.Queue(_MAX_QUEUED)
    root = logging.getLogger()
    root.handlers = [_DroppingQueueHandler(lines)]
    root.setLevel(level.upper())
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.setLevel(logging.WARNING)
    asyncio_log.addFilter(_Exhausted())
    listener = _Listener(lines, handler)
    listener.start()
    return listener
