"""Which destinations an event goes to, and why. Pure; `serve`, `route` and `test` all run this code.

Owns matching and its explanation. Whether a destination exists is checked by `config`.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache, partial
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from relay.payload import scalar_text

SOURCE_FIELD = "source"
_WILDCARDS = re.compile(r"[*?]")
_REMEMBERED = 512  # kinds of events
_REMEMBERED_CHARACTERS = 512  # of each
_Key = str | tuple[str, str]


def _as_texts(value: Any) -> tuple[str, ...]:
    """Return a match value, one scalar or a list of them, as the texts to compare with."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = [scalar_text(item) for item in values]
    if not texts or None in texts:
        raise ValueError("write a text, number or boolean, or a list of at least one of them")
    return tuple(text for text in texts if text is not None)


_SCALAR_SCHEMA = {"type": ["string", "number", "boolean"]}
Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_texts),
    WithJsonSchema({"anyOf": [_SCALAR_SCHEMA, {"type": "array", "minItems": 1, "items": _SCALAR_SCHEMA}]}),
]
Conditions = Mapping[str, Texts]


@dataclass(frozen=True, slots=True)
class Route:
    """One rule: events for which `match` holds and `except` doesn't go to `to`.

    Attributes:
        match: field to texts; `*` and `?` are wildcards. All fields must hold, any text of a field will do.
        except_: the same (`except` in the file); an empty or absent one never holds.
        stop: no later route is looked at when this one matched.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    to: Annotated[tuple[str, ...], Field(min_length=1, description="Names of destinations")]
    name: Annotated[
        str,
        Field(
            # Text that a label and every store can hold.
            max_length=255,
            pattern=r"^[^\x00-\x1f\x7f]*$",
            description="For explanations; by default the route's place",
        ),
    ] = ""
    match: Annotated[Conditions, Field(description="Field to value or values; all must hold")] = field(
        default_factory=dict
    )
    except_: Annotated[
        Conditions, Field(alias="except", description="The route is skipped when all of these hold")
    ] = field(default_factory=dict)
    stop: Annotated[bool, Field(strict=True, description="End the walk when this route matched")] = False


class Finding(StrEnum):
    """What became of one route in the walk."""

    MATCHED = "matched"
    NOT_MATCHED = "not matched"
    EXCEPTED = "excepted"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True)
class Failed:
    """The first field of a `match` that doesn't hold: what it is, None where absent, and what would do."""

    field: str
    text: str | None
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One route's finding for one event, and why.

    Attributes:
        failed: of a route that didn't match.
        stopped_by: the name of the route that ended the walk before this one.
    """

    route: Route
    finding: Finding
    failed: Failed | None = None
    stopped_by: str | None = None

    @property
    def why(self) -> str:
        """A sentence in English."""
        if self.stopped_by is not None:
            return f"route {self.stopped_by} matched and has stop: true"
        if self.finding is Finding.EXCEPTED:
            return "everything under except holds"
        if self.failed is None:
            return "everything under match holds"
        text, wanted = self.failed.text, " or ".join(map(quoted, self.failed.wanted))
        return f"{self.failed.field} is {'absent' if text is None else quoted(text)}, not {wanted}"


@dataclass(frozen=True, slots=True)
class _Condition:
    """One field of a `match` or `except`, made ready once per configuration."""

    field: str
    texts: tuple[str, ...]
    exact: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def holds(self, given: Mapping[str, str]) -> bool:
        text = given.get(self.field)
        if text is None:
            return False
        return text in self.exact or any(pattern.fullmatch(text) for pattern in self.patterns)

    def told(self, given: Mapping[str, str]) -> Failed:
        """Return it as what doesn't hold for an event."""
        return Failed(self.field, given.get(self.field), self.texts)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One route, made ready."""

    route: Route
    match: tuple[_Condition, ...]
    except_: tuple[_Condition, ...]


class Matching(NamedTuple):
    """The routes that match an event, in order, and where it goes by them: each destination once."""

    routes: tuple[Route, ...]
    destinations: tuple[str, ...]


class Router:
    """All routes of one configuration, ready to be matched. Immutable, but for what it remembers."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._rules = [_Rule(route, _conditions(route.match), _conditions(route.except_)) for route in routes]
        asked = (condition.field for rule in self._rules for condition in (*rule.match, *rule.except_))
        self._fields = tuple({field: None for field in asked if field != SOURCE_FIELD})
        self._index = _Index(self._rules)
        self._match = partial(_matching, self._index, self._fields)
        self._remembered = lru_cache(_REMEMBERED)(self._match)

    def matching(self, source: str, payload: Mapping[str, Any]) -> Matching:
        """Return the routes that match an event, and its destinations.

        Most events are alike in what routes ask for: what was found for the last few hundred kinds is
        remembered.
        """
        texts = self._texts(payload)
        if sum([len(text) for text in texts if text]) > _REMEMBERED_CHARACTERS:
            return self._match(source, texts)
        return self._remembered(source, texts)

    def destinations(self, source: str, payload: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the destinations of an event."""
        return self.matching(source, payload).destinations

    def explain(self, source: str, payload: Mapping[str, Any]) -> list[Explanation]:
        """Return, for every route in order, whether it matched and why."""
        given = _given(self._fields, source, self._texts(payload))
        findings = [
            Explanation(route, finding, None if failed is None else failed.told(given))
            for route, finding, failed in _walk(self._rules, given)
        ]
        rest = [rule.route for rule in self._rules[len(findings) :]]
        stopped_by = findings[-1].route.name if findings else ""
        return findings + [Explanation(route, Finding.NOT_REACHED, stopped_by=stopped_by) for route in rest]

    def _texts(self, payload: Mapping[str, Any]) -> tuple[str | None, ...]:
        """Return those fields of an event that any route asks for."""
        return tuple([scalar_text(payload.get(name)) for name in self._fields])


class _Index:
    """Finds the few of many rules that may match, so that most of the others cost nothing.

    Each rule is filed under one field of its `match`, by the texts that this must be or, where they have
    wildcards, by what comes before the first and after the last of these.
    """

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._rules = rules
        self._anywhere = [place for place, rule in enumerate(rules) if not rule.match]
        self._whole: dict[str, dict[str, list[int]]] = {}
        self._ends: dict[str, dict[tuple[int, int], dict[tuple[str, str], list[int]]]] = {}
        shared = Counter((one.field, key) for rule in rules for one in rule.match for key in _keys(one))
        for place, rule in enumerate(rules):
            if rule.match:
                self._file(place, min(rule.match, key=lambda one: _weight(one, shared)))

    def _file(self, place: int, condition: _Condition) -> None:
        for key in _keys(condition):
            match key:
                case str():
                    self._whole.setdefault(condition.field, {}).setdefault(key, []).append(place)
                case begin, end:
                    by_lengths = self._ends.setdefault(condition.field, {})
                    by_ends = by_lengths.setdefault((len(begin), len(end)), {})
                    by_ends.setdefault(key, []).append(place)

    def candidates(self, given: Mapping[str, str]) -> list[_Rule]:
        """Return the rules that may match, in order."""
        places = set(self._anywhere)
        for field_, by_text in self._whole.items():
            places.update(by_text.get(given.get(field_, ""), ()))
        for field_, by_lengths in self._ends.items():
            text = given.get(field_, "")
            for (begin, end), by_ends in by_lengths.items():
                places.update(by_ends.get((text[:begin], text[len(text) - end :]), ()))
        return [self._rules[place] for place in sorted(places)]


def _matching(index: _Index, fields: Sequence[str], source: str, texts: Sequence[str | None]) -> Matching:
    """Return what matches an event of which these fields are asked for."""
    given = _given(fields, source, texts)
    walk = _walk(index.candidates(given), given)
    routes = tuple(route for route, finding, _ in walk if finding is Finding.MATCHED)
    return Matching(routes, tuple(dict.fromkeys(name for route in routes for name in route.to)))


def _given(fields: Sequence[str], source: str, texts: Sequence[str | None]) -> dict[str, str]:
    """Return those fields that are there, by name."""
    given = {name: text for name, text in zip(fields, texts, strict=True) if text is not None}
    given[SOURCE_FIELD] = source
    return given


def _keys(condition: _Condition) -> list[_Key]:
    """Return what texts a condition is filed by: whole ones, or their ends."""
    keys: list[_Key] = []
    for text in condition.texts:
        parts = _WILDCARDS.split(text)
        keys.append(text if len(parts) == 1 else (parts[0], parts[-1]))
    return keys


def _weight(condition: _Condition, shared: Mapping[tuple[str, _Key], int]) -> int:
    """Return how many rules would be looked at for all that this condition lets through."""
    return sum(shared[condition.field, key] for key in _keys(condition))


def _walk(
    rules: Iterable[_Rule], given: Mapping[str, str]
) -> Iterator[tuple[Route, Finding, _Condition | None]]:
    """Yield the finding for each of some rules until one stops the walk, with the condition that failed."""
    for rule in rules:
        failed = _first_failing(rule.match, given)
        if failed is not None:
            yield rule.route, Finding.NOT_MATCHED, failed
        elif rule.except_ and _first_failing(rule.except_, given) is None:
            yield rule.route, Finding.EXCEPTED, None
        else:
            yield rule.route, Finding.MATCHED, None
            if rule.route.stop:
                return


def _first_failing(conditions: Iterable[_Condition], given: Mapping[str, str]) -> _Condition | None:
    for condition in conditions:
        if not condition.holds(given):
            return condition
    return None


def _conditions(fields: Conditions) -> tuple[_Condition, ...]:
    return tuple(
        _Condition(
            field=name,
            texts=texts,
            exact=frozenset(text for text in texts if not _WILDCARDS.search(text)),
            patterns=tuple(_pattern(text) for text in texts if _WILDCARDS.search(text)),
        )
        for name, texts in fields.items()
    )


def _pattern(text: str) -> re.Pattern[str]:
    """Return a pattern in which only `*` and `?` are special; fnmatch's never backtracks past a star."""
    return re.compile(fnmatch.translate(text.replace("[", "[[]")))


def quoted(text: str) -> str:
    """Return a text as explanations name it: in quotes, the beginning of a long one."""
    return f'"{text if len(text) <= 80 else text[:77] + "..."}"'
