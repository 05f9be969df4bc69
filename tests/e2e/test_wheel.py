"""The wheel holds what the command needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_wheel_has_every_module_the_migrations_and_all_of_the_pages(tmp_path: Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", tmp_path, REPOSITORY],
        check=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("itscope_relay-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(file.relative_to(REPOSITORY))
        for file in (REPOSITORY / "relay").rglob("*.*")
        if file.suffix != ".pyc"
    }
    assert {Path(name).suffix for name in sources} == {
        *(".py", ".sql"),
        *(".html", ".css", ".js", ".LICENSE", ".yaml"),
    }
    assert sources - names == set()
    assert {name for name in names - sources if not name.startswith("itscope_relay-")} == set()
