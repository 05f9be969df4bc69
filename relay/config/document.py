"""Strict YAML: text to plain values, each with the place where it was written.

Refuses what makes YAML surprising: keys given twice, aliases, tags, several documents, and words that YAML
1.1 and 1.2 read differently (`NO`, `on`, `010`, `12:30:45`). Owns the expansion of `${NAME}`, done in
scalars after parsing, so that a value can't inject YAML. What the values mean is left to `schema`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 30

Path = tuple[str | int, ...]

_TAGS_OF_KIND = {
    kind: frozenset(f"tag:yaml.org,2002:{name}" for name in names.split())
    for kind, names in {
        yaml.ScalarNode: "str int float bool null timestamp merge value",
        yaml.SequenceNode: "seq",
        yaml.MappingNode: "map",
    }.items()
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")
_AMBIGUOUS = re.compile(
    r"(?i:yes|no|on|off|y|n)"
    r"|[-+]?0[0-9_]+|[-+]?0[oxb][0-9a-fA-F_]+|[-+]?[0-9][0-9_]*_[0-9_]*"
    r"|[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ALIASES = "aliases (*name) are not supported; write the value out, or quote a text that starts with *"
_TAGS = "tags (!name) are not supported; quote a text that starts with !"
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-((?:(?!\$\{)[^}])*))?\}|\$\{[^}]*\}?")
_MALFORMED = "write a variable as ${NAME} or ${NAME:-default}, and a literal ${ as $${"
_NESTED = "a ${ can't stand within another ${...}; a default is a plain text"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something was written; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, with its place and path; sorts in the order of the file, shows as one line."""

    place: Place
    path: Path = field(compare=False)
    what: str

    def __str__(self) -> str:
        where = f"{self.place}: {format_path(self.path)}" if self.path else str(self.place)
        return _escaped(f"{where}: {self.what}")


@dataclass(slots=True)
class Document:
    """Plain values, and where each of them and each key stands, by path."""

    values: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    key_places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Return the place of a path's value, or of the nearest thing around it that was written."""
        return next(self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places)

    def refuse(self, path: Path, what: str, place: Place | None = None) -> None:
        """Note a problem, unless the whole file, or something at or above the path, was refused already."""
        if self.values is None and self.problems:
            return
        if not any(path[: len(problem.path)] == problem.path for problem in self.problems if problem.path):
            self.problems.append(Problem(place or self.place(path), path, what))

    def refused_below(self, path: Path) -> bool:
        """Tell whether something within a path was refused already."""
        return any(problem.path[: len(path)] == path != problem.path for problem in self.problems)


def read(content: bytes, file: str, environment: Mapping[str, str]) -> Document:
    """Return the document that a YAML file holds; its `problems` name all that was refused.

    Args:
        content: of the file; of a larger one at least `MAX_BYTES` + 1.
        file: its name, for messages.
        environment: where `${NAME}` is looked up. `${NAME:-default}` has a default; `$${` is a literal `${`.
    """
    document = Document(places={(): Place(file, 1, 1)})
    if len(content) > MAX_BYTES:
        document.refuse((), "the file is larger than 1 MiB")
        return document
    try:
        node = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        lines = f"{content[: error.start].decode()}?".splitlines()  # the ? stands for the first bad byte
        document.refuse((), "is not UTF-8 text", Place(file, len(lines), len(lines[-1])))
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        document.refuse((), _syntax(error.problem or error.context or "unreadable"), place)
        return document
    except yaml.YAMLError as error:
        document.refuse((), f"not valid YAML: {str(error).splitlines()[0]}")
        return document
    except RecursionError:
        document.refuse((), f"nested deeper than {MAX_DEPTH} levels")
        return document
    except (ValueError, OverflowError):  # of chr(), in words that differ between Pythons
        document.refuse((), "not valid YAML: an escaped character doesn't exist")
        return document
    if node is not None:
        document.values = _Reader(document, file, environment).value(node, ())
    return document


def _syntax(problem: str) -> str:
    """Return PyYAML's finding in words that never quote the file: a secret may stand at that very place."""
    if "alias" in problem or "but found '*'" in problem:
        return _ALIASES
    if "tag" in problem:
        return _TAGS
    if "another document" in problem:
        return "a second document (---) starts here; write only one"
    if "but got '{'" in problem:
        return f"not valid YAML: {problem}; within braces or brackets, quote a text with ${{NAME}}"
    return f"not valid YAML: {problem}"


class _Reader:
    """Walks the nodes of one file once."""

    def __init__(self, document: Document, file: str, environment: Mapping[str, str]) -> None:
        self._document = document
        self._file = file
        self._environment = environment
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        """Return the plain value of a node, noting its place and its problems."""
        place = self._place(node)
        self._document.places[path] = place
        if id(node) in self._seen:
            self._problem(place, path, _ALIASES)
            return None
        self._seen.add(id(node))
        if node.tag not in _TAGS_OF_KIND[type(node)]:
            self._problem(place, path, _TAGS)
            return None
        if len(path) > MAX_DEPTH:
            self._problem(place, path, f"nested deeper than {MAX_DEPTH} levels")
            return None
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node, place, path)
            case _:
                raise TypeError(f"YAML has no nodes of type {type(node).__name__}")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            key = self._key(key_node, place, path)
            if key is None:
                continue
            child = (*path, key)
            if key in values:
                first = self._document.key_places[child]
                self._problem(place, child, f"given twice, first at line {first.line}")
                continue
            self._document.key_places[child] = place
            values[key] = self.value(value_node, child)
        return values

    def _key(self, node: yaml.Node, place: Place, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or id(node) in self._seen:
            self._problem(place, path, "a key must be a plain text")
            return None
        self._seen.add(id(node))
        if node.style is None and _AMBIGUOUS.fullmatch(node.value):
            child = (*path, str(node.value))
            self._problem(place, child, f"quote the key {node.value}: YAML versions read it differently")
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode, place: Place, path: Path) -> Any:
        text = node.value
        if node.style is not None:  # quoted, or a block
            return self._expanded(text, place, path)
        if not _AMBIGUOUS.fullmatch(text):
            return self._plain(text, place, path)
        shown = text if text.isalpha() else "this number"  # which may be a password
        self._problem(
            place,
            path,
            f"YAML versions read {shown} differently: quote it, or write true, false or a plain number",
        )
        return None

    def _plain(self, text: str, place: Place, path: Path) -> Any:
        if text in {"", "~", "null", "Null", "NULL"}:
            return None
        if text.lower() in {"true", "false"}:
            return text.lower() == "true"
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return self._expanded(text, place, path)

    def _expanded(self, text: str, place: Place, path: Path) -> str:
        def replacement(found: re.Match[str]) -> str:
            name, default = found[1], found[2]
            if found[0] == "$${":
                return "${"
            if name is None:
                self._problem(place, path, _NESTED if "${" in found[0][2:] else _MALFORMED)
                return ""
            if given := self._environment.get(name):
                return given
            if default is None:
                state = "empty" if name in self._environment else "not set"
                self._problem(place, path, f"the environment variable {name} is {state}")
                return ""
            return str(default)

        expanded = _VARIABLE.sub(replacement, text)
        if _SURROGATE.search(expanded):
            self._problem(place, path, "is not valid Unicode text")
        return expanded

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _problem(self, place: Place, path: Path, what: str) -> None:
        self._document.problems.append(Problem(place, path, what))


def _escaped(text: str) -> str:
    """Return a text with all that isn't printable, such as the end of a line, escaped as in Python."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def format_path(path: Path) -> str:
    """Return a path as people write it: `routes[2].to`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
