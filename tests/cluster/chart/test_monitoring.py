"""Alerts fire when they should, and everything watched is really measured."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cluster.chart.helm import CHART, find, objects, parse, template
from rlhf_operator.job_metrics import JobMetrics
from rlhf_operator.runtime.metrics import Metrics
from rlhf_trainer.telemetry.catalog import METRICS

TESTS = Path(__file__).parent / "alerts.test.yaml"
SERIES = re.compile(r"\b(?:rlhf|controller_runtime|workqueue|rest_client|leader_election|reflector|process)_\w+")


def rules() -> dict[str, object]:
    """The rules as Prometheus reads them."""
    return dict(find(objects(template("full")), "PrometheusRule")["spec"])


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool in a folder with the rules."""
    tool = shutil.which("promtool")
    assert tool is not None, "promtool is Prometheus' own (Debian: apt-get install prometheus)"
    with (folder / "alerts.yaml").open("w") as file:
        YAML().dump(rules(), file)
    shutil.copy(TESTS, folder)
    return subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    ended = promtool(tmp_path, "check", "rules", "alerts.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    ended = promtool(tmp_path, "test", "rules", TESTS.name)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    groups = rules()["groups"]
    assert isinstance(groups, list)
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    cases = [case for test in parse(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def measured() -> set[str]:
    """Every series that the trainer or the operator has."""
    metrics = Metrics()
    metrics.queue("rlhfjob")
    trainer = {metric.prometheus for metric in METRICS} | {
        f"rlhf_train_phase_{what}_total" for what in ("seconds", "tokens")
    }
    process = {"process_resident_memory_bytes", "process_cpu_seconds_total"}  # prometheus_client's own
    families = [*metrics.registry.collect(), *JobMetrics(lambda: ()).collect()]
    return trainer | process | {name for family in families for name in names(family.name, family.type)}


def names(family: str, kind: str) -> list[str]:
    """Series of a family."""
    if kind == "counter":
        return [f"{family}_total"]
    return [family] if kind == "gauge" else [f"{family}_{part}" for part in ("bucket", "sum", "count")]


@pytest.mark.parametrize("board", sorted((CHART / "files" / "dashboards").glob("*.json")), ids=lambda path: path.stem)
def test_a_dashboard_shows_only_what_is_measured(board: Path) -> None:
    panels = json.loads(board.read_text())["panels"]
    used = {name for panel in panels for target in panel["targets"] for name in SERIES.findall(target["expr"])}
    assert used
    assert used <= measured()


def test_alerts_watch_only_what_is_measured() -> None:
    groups = rules()["groups"]
    assert isinstance(groups, list)
    used = {name for group in groups for rule in group["rules"] for name in SERIES.findall(rule["expr"])}
    assert used <= measured()
