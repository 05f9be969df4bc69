"""The log's thread never keeps anybody from going on, or from ending."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_SECONDS = 10.0

FULL_PIPE = """
import logging, os
from relay import logs

listener = logs.start("json", "info")
for number in range(20_000):  # ten times what a pipe holds, and more than may wait
    logging.getLogger("relay").info("a.fact", extra={"fields": {"number": number}})
print("logged", flush=True)
listener.stop()
listener.stop()  # again does no harm
print("stopped", flush=True)
"""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("os._exit(0)", id="stop"),
        pytest.param("", id="exit"),
    ],
)
def test_log_that_nobody_reads_does_not_keep_the_process_from(end: str) -> None:
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", FULL_PIPE + end],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,  # and never read
        text=True,
    )
    with process:
        try:
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
        assert process.stdout is not None
        assert process.stdout.read().split() == ["logged", "stopped"]
        assert process.returncode == 0
