"""Alerts, Grafana dashboard and handbook name existing metrics, and promtool accepts them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from metric_names import declared
from real_parts import missing
from ruamel.yaml import YAML

from receiver.telemetry import metrics
from receiver.web import metrics as ledger_metrics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/monitoring"
ALERTS: list[dict[str, Any]] = YAML(typ="safe").load(FOLDER / "alerts.yaml")["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
HANDBOOK = (ROOT / "docs/operations.md").read_text()

# What the processes count, and what is read from the ledger.
METRICS = set(declared(metrics)) | set(
    re.findall(r'"(receiver_\w+)"', Path(ledger_metrics.__file__).read_text())
)
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def named_in(text: str) -> set[str]:
    """Return the metrics a text speaks of; a histogram's parts count as the histogram."""
    return {
        re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\breceiver_\w+", text)
    }


@pytest.fixture
def promtool() -> str:
    return shutil.which("promtool") or missing("promtool (apt install prometheus)")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_understands_configuration_and_rules(promtool: str) -> None:
    assert f"{len(ALERTS)} rules found" in run(promtool, "check", "config", "prometheus.yaml")


def test_the_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", "alerts_test.yaml")


def test_promtool_understands_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES)
    ]
    (tmp_path / "rules.json").write_text(
        json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    )
    assert f"{len(rules)} rules found" in run(
        promtool, "check", "rules", str(tmp_path / "rules.json")
    )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_speaks_of_metrics_that_exist_and_has_its_remedy_in_the_handbook(
    alert: dict[str, Any],
) -> None:
    assert named_in(alert["expr"]) <= METRICS
    assert f"\n### {alert['alert']}\n" in HANDBOOK
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
    assert alert["labels"]["severity"] in {"page", "warn", "info"}


def test_the_handbook_has_no_remedy_for_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (Receiver\w+)$", HANDBOOK, re.MULTILINE)) == {
        alert["alert"] for alert in ALERTS
    }


def test_the_dashboard_shows_metrics_that_exist() -> None:
    assert QUERIES
    assert set().union(*map(named_in, QUERIES)) <= METRICS
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_metric_stands_in_the_handbook() -> None:
    assert METRICS - named_in(HANDBOOK) == set()


def test_every_metric_is_watched_by_an_alert_or_shown_on_the_dashboard() -> None:
    watched = set().union(*map(named_in, QUERIES), *(named_in(alert["expr"]) for alert in ALERTS))
    assert METRICS - watched == set()
