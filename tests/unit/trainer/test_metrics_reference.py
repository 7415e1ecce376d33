"""The metrics' definitions: one place for names, units and meanings, from which docs and servers are made."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rlhf_trainer
from rlhf_api.stages import STAGE_TYPES
from rlhf_trainer.telemetry.catalog import METRICS, PHASES, STAGE_SERIES, find, finite_required, headline
from rlhf_trainer.telemetry.reference import reference
from rlhf_trainer.telemetry.server import Prometheus

SOURCES = sorted(Path(rlhf_trainer.__file__).parent.rglob("*.py"))
PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_is_what_the_definitions_say():
    assert PAGE.read_text() == reference(), "run make generate"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_described_and_named_as_prometheus_wants(metric):
    assert metric.help.endswith(".")
    assert re.fullmatch(r"rlhf_train_[a-z_]+", metric.prometheus)
    assert metric.stages
    assert set(metric.stages) <= set(STAGE_TYPES)
    assert metric.name.endswith(".*") == (metric.label is not None)


def test_names_are_distinct():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert len({metric.prometheus for metric in METRICS}) == len(METRICS)


def test_a_labelled_name_is_found_by_what_is_before_its_first_dot():
    assert find("cost.harm").name == "cost.*"
    assert find("cost.harm.of.many").name == "cost.*"
    assert find("reward").name == "reward"
    assert find("reward.helpful").name == "reward.*"
    assert find("unheard_of") is None
    assert find("unheard.of") is None


def test_losses_and_multipliers_must_be_finite_and_means_need_not():
    assert [finite_required(name) for name in ("loss", "ptx_loss", "lambda.harm", "kl", "unheard_of")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_the_headline_is_a_few():
    values = {"loss": 1.0, "learning_rate": 1e-5, "cost.harm": 0.5, "entropy": 2.0}
    assert headline(values) == {"loss": 1.0, "cost.harm": 0.5}


def test_every_phase_in_the_code_is_described():
    phases = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "phase"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                phases.add(node.args[0].value)
    assert phases <= set(PHASES)


def test_the_servers_own_series_are_described():
    prometheus = Prometheus(stage="s", type="ppo")
    prometheus.phase("generate", 1.0, 1)
    described = {name.partition("{")[0].removesuffix("_total") for name, _, _ in STAGE_SERIES}
    assert {family.name for family in prometheus.registry.collect()} == described
