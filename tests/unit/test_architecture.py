"""The house's rules about its own rooms: CONTRIBUTING.md says what they are for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

RELAY = Path(__file__).parents[2] / "relay"

PURE = (
    *("errors", "units", "model", "payload", "passwords"),
    *("retry", "breaker", "pace", "hold", "lifecycle", "routing", "wire"),
)
BOUNDARY = (
    *("config", "logs", "metrics", "samples", "store", "history", "repair"),
    *("auth", "connections", "delivery", "listener", "answer"),
    *("gate", "intake", "claims", "recorder", "lane"),
)
SHELL = ("ingress", "dispatcher", "admin", "notify")  # side by side: they never import one another
TOP = ("app", "send", "casefile", "routediff", "demo", "client", "cli", "__main__")
RANK = {room: rank for rank, room in enumerate((*PURE, *BOUNDARY))}
RANK |= dict.fromkeys(SHELL, len(RANK))
RANK |= {room: len(RANK) + rank for rank, room in enumerate(TOP)}

IMPURE = {"asyncio", "time", "random", "os", "socket", "logging", "aiohttp", "secrets", "threading", "sys"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}

MODULES = sorted(RELAY.rglob("*.py"))


def room_of(module: Path) -> str:
    """Return the room that a module belongs to; that of relay/__init__.py is empty."""
    return module.relative_to(RELAY).with_suffix("").parts[0].replace("__init__", "")


def imported(module: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, wherever it does so."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=name, names=names, level=0):
                yield from (f"{name}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                pytest.fail(f"{module}:{node.lineno}: relative import")


def rooms_imported(module: Path) -> set[str]:
    """Return the rooms that a module imports, its own left out."""
    parts = [name.split(".") for name in imported(module)]
    rooms = {part[1] for part in parts if part[0] == "relay" and len(part) > 1 and part[1] in RANK}
    return rooms - {room_of(module)}


def name_of(module: Path) -> str:
    return str(module.relative_to(RELAY))


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} - {""} == RANK.keys()


def test_every_room_is_described_in_its_order() -> None:
    text = (RELAY.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text[text.index("| `errors` |") :].split("\n\n")[0].splitlines()
    described = [name for row in rows for name in re.findall(r"`([a-z]+)/?`", row.split("|")[1])]
    assert described == [room for room in RANK if room != "__main__"]


def test_everything_imported_from_the_house_is_a_room_or_its_version() -> None:
    names = {name.split(".")[1] for name in chain(*map(imported, MODULES)) if name.startswith("relay.")}
    assert names <= {*RANK, "__version__"}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_point_only_up_the_list(module: Path) -> None:
    room = room_of(module)
    below = {other for other in rooms_imported(module) if not room or RANK[other] >= RANK[room]}
    assert not below, f"relay/{name_of(module)} must not import {', '.join(sorted(below))}"


@pytest.mark.parametrize("room", PURE)
def test_pure_room_knows_no_clock_no_chance_and_no_io(room: str) -> None:
    module = RELAY / f"{room}.py"
    used = {name.split(".")[0] for name in imported(module)}
    assert not used & IMPURE
    waits = [
        node.lineno
        for node in ast.walk(ast.parse(module.read_bytes()))
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await)
    ]
    assert not waits


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_module_is_no_longer_than_500_lines(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_module_opens_with_what_it_owns(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_bytes())) or module.name == "__main__.py"


def test_no_module_has_a_vague_name() -> None:
    parts = {part for module in MODULES for part in module.relative_to(RELAY).with_suffix("").parts}
    assert not parts & VAGUE
