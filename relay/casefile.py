"""Unit tests of the routes, as an administrator writes them: cases of payload fields and destinations.

Runs `relay.routing`, the code that serves. Printing is the command's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from relay.config import Config, read_file, refuse_invalid, suggestion
from relay.errors import ConfigError
from relay.routing import Router


class Case(BaseModel):
    """One event, and the destinations that it must go to: all of them and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    source: str | None = None
    event: dict[str, Any]
    expect: tuple[str, ...]


class _CaseFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tests: Annotated[tuple[Case, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Result:
    """One case's name and what differed; nothing, if it passed."""

    name: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the event goes where it was expected to."""
        return not self.missing and not self.unexpected


def load_cases(path: Path, config: Config) -> tuple[Case, ...]:
    """Return the cases of a file.

    Raises:
        ConfigError: names every problem, also expectations that the configuration can't ever meet.
    """
    document = read_file(path, {})
    cases: tuple[Case, ...] = ()
    try:
        cases = _CaseFile.model_validate(document.values).tests
    except ValidationError as error:
        refuse_invalid(document, error, _CaseFile.model_json_schema())
    for index, case in enumerate(cases):
        for position, name in enumerate(case.expect):
            if name not in config.destinations:
                hint = suggestion(name, config.destinations)
                document.refuse(("tests", index, "expect", position), f"there is no destination {name}{hint}")
        if case.source is not None and case.source not in config.sources:
            hint = suggestion(case.source, config.sources)
            document.refuse(("tests", index, "source"), f"there is no source {case.source}{hint}")
    if document.problems:
        raise ConfigError([str(problem) for problem in sorted(document.problems)])
    return cases


def run_case(case: Case, router: Router, default_source: str) -> Result:
    """Return what one case comes to."""
    went = router.destinations(case.source or default_source, case.event)
    return Result(
        case.name or ", ".join(f"{field}: {value}" for field, value in case.event.items()),
        missing=tuple(name for name in case.expect if name not in went),
        unexpected=tuple(name for name in went if name not in case.expect),
    )
