"""The alerts for Prometheus do what their own tests say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"

# Both replicas see the same in the database; only one of them is ready, and both pause crm.
OF_TWO_REPLICAS = {
    'itscope_relay_backlog{job="r", instance="%s", destination="erp", state="dead"}': ("2x120", "2x120"),
    'itscope_relay_backlog_oldest_age_seconds{job="r", instance="%s", destination="erp"}': ("0+60x120",) * 2,
    'itscope_relay_backlog_oldest_age_seconds{job="r", instance="%s", destination="crm"}': ("0+60x120",) * 2,
    'itscope_relay_destination_resting{job="r", instance="%s", destination="erp", reason="held"}': (
        "1x120",
        "0x120",
    ),
    'itscope_relay_destination_resting{job="r", instance="%s", destination="crm", reason="held"}': (
        "0x120",
        "0x120",
    ),
    'itscope_relay_destination_resting{job="r", instance="%s", destination="crm", reason="paused"}': (
        "1x120",
        "1x120",
    ),
    'itscope_relay_events_unrouted_total{job="r", instance="%s", source="itscope"}': ("0x60 1x60",) * 2,
    'itscope_relay_requests_total{job="r", instance="%s", source="itscope", code="401"}': ("0+1x120",) * 2,
    'itscope_relay_ready{job="r", instance="%s"}': ("1x60 0x60", "1x80 0x40"),
}
OF_EACH = {
    "ItscopeRelayDead": {"destination": "erp", "state": "dead"},
    "ItscopeRelayUndelivered": {"destination": "erp"},
    "ItscopeRelayPaused": {"destination": "crm"},
    "ItscopeRelayUnrouted": {"source": "itscope"},
    "ItscopeRelayWrongCredentials": {"source": "itscope"},
}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yaml"),
        ("test", "rules", "alerts_test.yaml"),
        ("test", "rules", "alerts_limits_test.yaml"),
    ],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool(FOLDER, *arguments)


def alerts() -> dict[str, Any]:
    """Return each alert by its name."""
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.mark.parametrize("name", alerts())
def test_alert_says_what_is_wrong_what_it_means_and_what_to_do(name: str) -> None:
    rule = alerts()[name]
    assert rule["annotations"].keys() == {"summary", "description", "action"}
    assert rule["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize("name", alerts())
def test_alert_is_shown_firing_and_just_not_firing(name: str) -> None:
    text = (FOLDER / "alerts_limits_test.yaml").read_text(encoding="utf-8")
    (case,) = [case for case in yaml.safe_load(text)["tests"] if case["name"] == name]
    series = " ".join(given["series"] for given in case["input_series"])
    assert '"over"' in series
    assert '"under"' in series
    of_it = [look for look in case["promql_expr_test"] if f'alertname="{name}"' in look["expr"]]
    shown = [[sample["labels"] for sample in look["exp_samples"]] for look in of_it]
    assert [] in shown  # a moment too early
    (alone,) = [labels for labels in shown if labels and '"over"' in labels[0]]
    assert len(alone) == 1


def test_every_alert_is_documented() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(ItscopeRelay\w+)`", page, flags=re.MULTILINE) == list(alerts())


def test_documented_rules_for_several_replicas_fire_once(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"```yaml\n(- alert: .*?)```", page, flags=re.DOTALL)
    text = f"groups:\n  - name: replicas\n    rules:\n{indent(rules, '      ')}"
    (tmp_path / "rules.yaml").write_text(text, encoding="utf-8")
    series = [
        {"series": name % instance, "values": values}
        for name, both in OF_TWO_REPLICAS.items()
        for instance, values in zip("ab", both, strict=True)
    ]
    looks = [
        {"expr": "ALERTS", "eval_time": at, "exp_samples": [*map(firing, OF_EACH), firing(ready)]}
        for at, ready in (("70m", "ItscopeRelayReplicaNotReady"), ("100m", "ItscopeRelayNotReady"))
    ]
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": looks}],
    }
    (tmp_path / "test.yaml").write_text(json.dumps(tests), encoding="utf-8")
    promtool(tmp_path, "test", "rules", "test.yaml")


def firing(alert: str) -> dict[str, object]:
    """Return the one sample of an alert that fires."""
    labels = {"alertname": alert, "alertstate": "firing", "job": "r", **OF_EACH.get(alert, {})}
    text = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {"labels": f"ALERTS{{{text}}}", "value": 1}


def promtool(folder: Path, *arguments: str) -> None:
    """Run Prometheus's tool, which must agree."""
    tool = shutil.which("promtool")
    if tool is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed")
    assert tool is not None
    done = subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
