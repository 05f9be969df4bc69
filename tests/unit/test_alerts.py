"""The alerts for Prometheus do what their own tests say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from textwrap import indent

import pytest

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
    "arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")]
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool(FOLDER, *arguments)


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
