"""The shell's pure parts: status patches, what caches keep, what pods tell, metrics, the configuration file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from rlhf_operator import projections
from rlhf_operator.config import load
from rlhf_operator.job_metrics import JobMetrics
from rlhf_operator.patches import difference
from rlhf_operator.progress_poller import parsed
from rlhf_operator.reconcile import Poll

VALUES = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=2), VALUES, max_size=4)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_a_patch_makes_the_one_of_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged(before, difference(before, after)) == after


@given(OBJECTS)
def test_nothing_changed_is_no_patch(value: dict[str, Any]) -> None:
    assert difference(value, value) == {}


def test_a_job_is_kept_packed_and_comes_back_whole() -> None:
    raw = {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {
            "name": "a",
            "namespace": "n",
            "uid": "u",
            "resourceVersion": "5",
            "managedFields": [{}],
            "annotations": {"rlhf.dev/retry": "1", "other": "x"},
        },
        "spec": {"stages": []},
        "status": {"phase": "Running"},
    }
    projection = projections.rlhfjob(raw)
    assert projections.unpacked(projection) == raw | {
        "metadata": {
            "name": "a",
            "namespace": "n",
            "uid": "u",
            "resourceVersion": "5",
            "annotations": {"rlhf.dev/retry": "1"},
        }
    }


POLL = Poll("sft", 2, "10.0.0.1", 8080)


def test_progress_is_read_as_the_trainer_tells_it() -> None:
    document = {
        "stage": "sft",
        "attempt": 2,
        "step": 5,
        "begun": 3,
        "total": 10,
        "tokensPerSecond": None,
        "etaSeconds": 3.5,
        "headline": {"loss": 1.5, "bad": None},
    }
    sample = parsed(POLL, orjson.dumps(document))
    assert sample is not None
    assert (sample.begun, sample.step, sample.total) == (3, 5, 10)
    assert (sample.eta_seconds, sample.headline) == (3.5, {"loss": 1.5})


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"<html>", b'{"step": -1, "total": 2}', b'{"step": 1}', b'{"step": true, "total": 1}', b"\xff"],
)
def test_what_is_no_progress_is_none(content: bytes) -> None:
    assert parsed(POLL, content) is None


def test_progress_of_another_attempt_is_none() -> None:
    assert parsed(POLL, orjson.dumps({"attempt": 1, "step": 1, "total": 2})) is None


@given(st.dictionaries(st.text(max_size=5), st.floats() | st.none() | st.text(max_size=3), max_size=4))
def test_no_pod_can_put_a_number_that_is_none_into_status(headline: dict[str, Any]) -> None:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in headline.items()
    }
    sample = parsed(POLL, orjson.dumps({"step": 1, "total": 2, "headline": finite}))
    assert sample is not None
    assert all(math.isfinite(value) for value in sample.headline.values())


def scraped(*jobs: dict[str, Any]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(JobMetrics(lambda: [projections.rlhfjob(raw) for raw in jobs]))
    return registry


def stored(phase: str) -> dict[str, Any]:
    stage = {"name": "ppo", "type": "ppo", "state": "Running", "restarts": 2, "progress": {"step": 3, "total": 9}}
    ppo = {"kl": {"target": 8.0}, "costs": [{"stage": "cost", "limit": 0}], "lagrange": {"max": 20}}
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "beaver", "namespace": "team", "uid": "u"},
        "spec": {"stages": [{"name": "ppo", "ppo": ppo}]},
        "status": {"phase": phase, "activeSeconds": 12.5, "stages": [stage]},
    }


def test_metrics_of_a_running_job() -> None:
    value = scraped(stored("Running")).get_sample_value
    job = {"namespace": "team", "rlhfjob": "beaver"}
    stage = job | {"stage": "ppo"}
    assert value("rlhf_job_phase", job | {"phase": "Running"}) == 1
    assert value("rlhf_job_active_seconds", job) == 12.5
    assert value("rlhf_stage_state", stage | {"state": "Running"}) == 1
    assert (value("rlhf_stage_step", stage), value("rlhf_stage_steps", stage)) == (3, 9)
    assert value("rlhf_stage_restarts_total", stage) == 2
    assert value("rlhf_stage_lambda_bound", stage | {"cost": "cost"}) == 20
    assert value("rlhf_stage_kl_target", stage) == 8


def test_of_a_finished_job_only_the_phase_is_told() -> None:
    text = generate_latest(scraped(stored("Failed"))).decode()
    assert 'phase="Failed"' in text
    assert "rlhf_stage_state{" not in text


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_configuration_is_read(tmp_path: Path) -> None:
    config = load(
        write(
            tmp_path,
            "watch: []\noperator: {qps: 50, workers: 4}\nleaderElection: {leaseDurationSeconds: 15}\n"
            "settings: {image: trainer:1, profiles: {cpu: {sharedMemory: 1Gi}}, tenancy: {secrets: []}}\n",
        )
    )
    assert (config.operator.workers, config.operator.qps) == (4, 50.0)
    assert config.settings.tenancy.secrets == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: {}", "settings.image"),
        ("settings: {image: a, profile: {}}", "settings.profile"),
        ("settings: {image: a}\nleaderElection: {retryPeriodSeconds: 60}", "leaderElection"),
        ("settings: [", "not YAML"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, text))
