"""Every expression of the dashboard and of the alerts is about what a running relay really exports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.http.world import Running

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "itscope-relay.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
OF_PROMETHEUS = {"job", "instance"}  # the labels that a scrape adds
VARIABLES = {"$instance": ".*", "$destination": ".*", "$__rate_interval": "5m"}
# A code that no webhook was answered yet has no series; these alerts look out for one.
NOT_YET = {("code", "5..")}

_SELECTOR = re.compile(r"\b([a-z][a-z0-9_]*_[a-z0-9_]+|up)\b(?!\s*\()(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'([a-z_]+)\s*(=~|!=|!~|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)")

Series = Mapping[str, Mapping[str, set[str]]]  # a metric's labels, and the values of each


def panels() -> Iterator[dict[str, Any]]:
    """Yield every panel that shows something."""
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def targets() -> Iterator[tuple[str, str]]:
    """Yield the expression and the legend of everything that is shown, with the variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            yield filled(target["expr"]), target["legendFormat"]


def expressions() -> Iterator[str]:
    yield from (expression for expression, _ in targets())
    yield from (rule["expr"] for group in ALERTS["groups"] for rule in group["rules"])


def filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield each metric of an expression, with its matchers: label, operator, value."""
    bare = re.sub(r"#.*", "", expression)
    for name, matchers in _SELECTOR.findall(_GROUPING.sub("", re.sub(r"\[[^]]*\]", "", bare))):
        yield name, _MATCHER.findall(matchers)


@pytest.fixture
async def exported(running: Running) -> Series:
    """What a relay exports that has delivered something."""
    await running.post()
    await running.settled("delivered")
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, labels in await running.metrics():
        found[name]  # also without labels
        for label, value in labels:
            found[name][label].add(value)
    found["up"]  # Prometheus's own
    return found


@pytest.mark.parametrize("expression", sorted(set(expressions())))
async def test_expression_is_about_what_is_exported(expression: str, exported: Series) -> None:
    found = list(selectors(expression))
    assert found
    assert {name for name, _ in found} <= exported.keys()
    for name, matchers in found:
        for label, operator, value in matchers:
            if label in OF_PROMETHEUS or (label, value) in NOT_YET:
                continue
            values = exported[name].get(label, set())
            assert operator in {"=", "=~"}
            matched = [known for known in values if re.fullmatch(value, known)]
            alternatives = value.split("|") if operator == "=~" else [value]
            assert matched, f"{name} has no {label} such as {value}, but {values}"
            assert all(any(re.fullmatch(one, known) for known in values) for one in alternatives)


@pytest.mark.parametrize("expression", sorted(set(expressions())))
async def test_expression_groups_by_labels_that_its_metrics_have(expression: str, exported: Series) -> None:
    labels = OF_PROMETHEUS.union(*(exported[name] for name, _ in selectors(expression)))
    for grouping in _GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} - {""} <= labels


@pytest.mark.parametrize(("expression", "legend"), sorted(set(targets())))
async def test_legend_names_labels_that_the_expression_keeps(
    expression: str, legend: str, exported: Series
) -> None:
    grouped = re.search(r"\bby \(([^)]*)\)", expression)
    kept = (
        {label.strip() for label in grouped[1].split(",")}
        if grouped
        else OF_PROMETHEUS.union(*(exported[name] for name, _ in selectors(expression)))
    )
    assert set(re.findall(r"{{(\w+)}}", legend)) <= kept


async def test_variables_are_filled_from_what_is_exported(exported: Series) -> None:
    asked = {
        variable["name"]: re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    }
    assert asked.keys() == {"instance", "destination"}
    for name, query in asked.items():
        assert query
        assert query[2] == name
        ((metric, _),) = selectors(query[1])
        assert name in {*exported[metric], *OF_PROMETHEUS}


def test_dashboard_has_a_row_for_each_question_and_no_panel_covers_another() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Intake", "Destinations", "Deliveries", "Latency", "Store", "Health"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_all_relays_are_no_other_processes() -> None:
    """`process_*` are everybody's: `All` must stand for the instances that were found, not for any."""
    (instance,) = [of for of in DASHBOARD["templating"]["list"] if of["name"] == "instance"]
    assert "allValue" not in instance


def test_dashboard_belongs_to_no_data_source_of_its_author() -> None:
    sources = {panel["datasource"]["uid"] for panel in panels()}
    sources |= {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    assert sources == {"${datasource}"}


def test_prometheus_can_read_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed")
    assert promtool is not None
    rules = [
        {"record": f"panel:{number}", "expr": expression} for number, (expression, _) in enumerate(targets())
    ]
    text = json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(  # noqa: S603
        [promtool, "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout + done.stderr
