"""Unit tests of routes, as administrators write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.casefile import Case, Result, load_cases, run_case
from relay.config import Config, load
from relay.errors import ConfigError
from relay.routing import Router

CONFIG = """\
sources:
  itscope: {auth: [{username: u, password: p}]}
  partner: {auth: [{username: u, password: p}]}
destinations: {erp: {url: http://erp}, crm: {url: http://crm}}
routes:
  - {to: [erp], match: {source: itscope}}
  - {to: [crm], match: {eventType: ORDER}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG, encoding="utf-8")
    return load(Path("config.yaml"), {})


def cases(text: str, config: Config) -> tuple[Case, ...]:
    Path("tests.yaml").write_text(text, encoding="utf-8")
    return load_cases(Path("tests.yaml"), config)


def run(text: str, config: Config) -> list[Result]:
    return [run_case(case, Router(config.routes), "itscope") for case in cases(text, config)]


def test_case_passes_when_the_event_goes_exactly_where_expected(config: Config) -> None:
    results = run(
        """\
tests:
  - {name: orders, event: {eventType: ORDER}, expect: [crm, erp]}
  - {event: {eventType: INVOICE, amount: 5}, expect: [erp]}
  - {name: elsewhere, source: partner, event: {eventType: INVOICE}, expect: []}
""",
        config,
    )
    assert results == [
        Result("orders", missing=(), unexpected=()),
        Result("eventType: INVOICE, amount: 5", missing=(), unexpected=()),
        Result("elsewhere", missing=(), unexpected=()),
    ]
    assert all(result.passed for result in results)


def test_case_fails_with_what_is_missing_and_what_is_unexpected(config: Config) -> None:
    (result,) = run("tests: [{event: {eventType: INVOICE}, expect: [crm]}]\n", config)
    assert not result.passed
    assert (result.missing, result.unexpected) == (("crm",), ("erp",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "tests: [{event: {}, expect: [epr]}]\n",
            ["1:30: tests[0].expect[0]: there is no destination epr; did you mean erp?"],
        ),
        (
            "tests: [{event: {}, expect: [], source: partnr}]\n",
            ["1:41: tests[0].source: there is no source partnr; did you mean partner?"],
        ),
        (
            "tests:\n  - {evnt: {}, expect: []}\n",
            [
                "2:5: tests[0].event: is required",
                "2:6: tests[0].evnt: is not a known key; did you mean event?",
            ],
        ),
        (
            "tests: [{event: 5, expect: erp}]\n",
            ["1:17: tests[0].event: must be a mapping", "1:28: tests[0].expect: must be a list"],
        ),
        (
            "tests: [{event: {country: NO}, expect: []}]\n",
            [
                (
                    "1:27: tests[0].event.country: YAML versions read NO differently: quote it,"
                    " or write true, false or a plain number"
                ),
            ],
        ),
        ("tests: []\n", ["1:8: tests: must not be empty"]),
        ("cases: []\n", ["1:1: tests: is required", "1:1: cases: is not a known key; known are tests"]),
        ("", ["1:1: must be a mapping"]),
        ("tests: [\n", ["2:1: not valid YAML: expected the node content, but found '<stream end>'"]),
    ],
)
def test_wrong_file_of_cases_is_refused_with_every_place(
    text: str, expected: list[str], config: Config
) -> None:
    with pytest.raises(ConfigError) as refused:
        cases(text, config)
    assert sorted(refused.value.problems) == sorted(f"tests.yaml:{problem}" for problem in expected)


def test_missing_file_of_cases_is_named(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml: can't be read: no such file or directory$"):
        load_cases(Path("nowhere.yaml"), config)
