"""A job that a newer operator has driven, read by this one: corpus/stored/newer-operator.json."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fakes.cluster_model import SETTINGS, START, Cluster, Raw
from rlhf_operator.reconcile import Observed, ReconcileResult, reconcile, times
from rlhf_operator.reconcile.stored import UnknownStatus, profile_of

STORED = Path(__file__).parents[3] / "corpus" / "stored" / "newer-operator.json"


def stored() -> Raw:
    value: Raw = json.loads(STORED.read_text())
    return value


def condition(out: ReconcileResult, kind: str) -> Raw:
    (condition,) = [entry for entry in out.status["conditions"] if entry["type"] == kind]
    return condition


def test_a_job_of_a_newer_operator_goes_on_to_its_end() -> None:
    cluster = Cluster(stored())
    cluster.now = START.replace(hour=13)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    assert cluster.status["elastic"] == {"ranks": [1, 2]}, "what only the newer one knows stays"


def test_what_is_left_out_of_a_pinned_profile_is_told_and_the_rest_is_used() -> None:
    cluster = Cluster(stored())
    cluster.now = START.replace(hour=13)
    while not any("reward" in name for name in cluster.ever):
        cluster.step()
    (message,) = [condition["message"] for condition in cluster.status["conditions"] if condition["type"] == "Ready"]
    for field in ("topology", "pod.hostUsers", "pod.tolerations[0].operator"):
        assert f"status.profiles[default].{field}: " in message
    (reward_job,) = [obj for obj in cluster.asked if obj["kind"] == "Job" and "reward" in obj["metadata"]["name"]]
    pod = reward_job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert "tolerations" not in pod
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "2Gi", "cpu": "2"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"resolved": "[]"}, "status.resolved"),
        ({"resolved": '{"inputs": 1, "functions": "", "hits": "0"}'}, "status.resolved"),
        ({"resolved": "[" * 3000}, "status.resolved"),
        ({"resolved": None}, "status.resolved"),
        ({"profiles": {"default": "{"}}, "status.profiles[default]"),
        ({"profiles": {"default": "[]"}}, "status.profiles[default]"),
        ({"stages": [{"name": "sft", "type": "sft", "state": "Scaling"}]}, "status.stages[0].state"),
        ({"startTime": 5}, "status.startTime"),
    ],
)
def test_what_decides_and_cannot_be_read_leaves_the_job_as_it_is_and_is_named(change: Raw, field: str) -> None:
    raw = stored()
    raw["status"] |= change
    raw["status"] = {name: value for name, value in raw["status"].items() if value is not None}
    out = reconcile(raw, Observed(), SETTINGS, START)
    assert (out.create, out.delete, out.look) == ([], [], [])
    stalled = condition(out, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "UnknownStatus")
    assert stalled["message"].startswith(f"{field}: "), stalled
    rest = {name: value for name, value in out.status.items() if name != "conditions"}
    assert rest == {name: value for name, value in raw["status"].items() if name != "conditions"}
    assert [event.reason for event in out.events] == ["UnknownStatus"]
    again = reconcile(raw | {"status": copy.deepcopy(out.status)}, Observed(), SETTINGS, START.replace(hour=20))
    assert (again.status, again.events) == (out.status, []), "said once"


def test_a_profile_that_was_not_pinned_and_is_gone_from_the_platform_is_named() -> None:
    raw = stored()
    raw["spec"]["profile"] = "gone"
    out = reconcile(raw, Observed(), SETTINGS, START)
    assert condition(out, "Stalled")["reason"] == "UnknownStatus"
    assert condition(out, "Stalled")["message"].startswith("status.profiles: found no gone, ")


def test_another_plan_version_is_told() -> None:
    raw = stored()
    raw["status"]["planVersion"] = "v9"
    stalled = condition(reconcile(raw, Observed(), SETTINGS, START), "Stalled")
    assert (stalled["reason"], stalled["status"]) == ("UnknownPlanVersion", "True")


@pytest.mark.parametrize("value", [[], 5, None, "x", {"pod": {"env": [{}]}}])
def test_a_pinned_profile_is_read_or_refused(value: Any) -> None:
    if isinstance(value, dict):
        assert profile_of("a", json.dumps(value))[0].pod.env == []
    else:
        with pytest.raises(UnknownStatus, match=r"status.profiles\[a\]"):
            profile_of("a", json.dumps(value))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-03-01T12:00:00.123456789Z", "2026-03-01T12:00:00Z"),
        ("2026-03-01T13:00:00+01:00", "2026-03-01T12:00:00Z"),
        ("2026-03-01T12:00:00", "2026-03-01T12:00:00Z"),
        ("2026-03-01t12:00:00z", "2026-03-01T12:00:00Z"),
        ("0000-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59-14:00", "3000-01-01T00:00:00Z"),
    ],
)
def test_every_time_that_an_api_server_stores_is_read(text: str, same: str) -> None:
    assert times.write(times.read(text)) == same
