"""runPolicy.overrides: which attempts they change, and when they are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fakes.cluster_model import SETTINGS, Cluster, Conflict, Raw, job, stage_file
from rlhf_operator.reconcile import Settings

GPUS = {"limits": {"nvidia.com/gpu": "2"}}


class Refusing(Cluster):
    """A cluster that refuses the Jobs of a stage: a quota, an admission policy."""

    refused: str | None = None

    def create(self, raw: Raw) -> bool:
        if raw["kind"] == "Job" and raw["metadata"]["labels"]["rlhf.dev/stage"] == self.refused:
            raise Conflict
        return super().create(raw)


def hold(stage: str) -> Callable[[Raw], int | None]:
    """Everything ends well, but pods of this stage run on."""
    return lambda pod: None if pod["metadata"]["labels"]["rlhf.dev/stage"] == stage else 0


def overridden(cluster: Cluster, **changes: Any) -> None:
    """The user gives sft an override, or takes it back."""
    cluster.edit(runPolicy={"overrides": [{"stage": "sft", **changes}]} if changes else {})


def refused(settings: Settings = SETTINGS, **spec: Any) -> Refusing:
    """A job whose sft was put on record, and its Job refused."""
    cluster = Refusing(job(**spec), settings)
    cluster.refused = "sft"
    cluster.settle()
    assert [(attempt["number"], attempt["state"]) for attempt in cluster.stage("sft")["attempts"]] == [(0, "Pending")]
    cluster.refused = None
    return cluster


def gang(cluster: Cluster, stage: str = "sft") -> tuple[Raw, Raw, int]:
    """The stage's last Job, the file that its pods read, and the ranks on record."""
    last = [raw for raw in cluster.all("Job") if raw["metadata"]["labels"]["rlhf.dev/stage"] == stage][-1]
    return last, stage_file(last), cluster.stage(stage)["attempts"][-1]["ranks"]


def crash(cluster: Cluster, message: str | None = None, code: int = 1) -> None:
    """A pod of sft fails."""
    cluster.end_pod(cluster.pods()[-1]["metadata"]["name"], code, message=message)


# An attempt whose Job was refused


@pytest.mark.parametrize(
    ("override", "nodes", "ranks"), [({"nodes": 1}, 1, 1), ({"nodes": 3}, 3, 1), ({"resources": GPUS}, 2, 2)]
)
def test_an_override_after_a_refused_job_makes_the_gang_that_it_says(override: Raw, nodes: int, ranks: int) -> None:
    cluster = refused(nodes=2)
    overridden(cluster, **override)
    cluster.settle(hold("sft"))
    last, file, recorded = gang(cluster)
    assert last["spec"]["completions"] == file.get("nodes", 1) == nodes
    assert file.get("ranksPerNode", 1) == ranks
    assert recorded == nodes * ranks
    assert [attempt["number"] for attempt in cluster.stage("sft")["attempts"]] == [0]
    assert cluster.stage("sft")["state"] == "Running"


def test_a_job_that_is_refused_again_and_again_keeps_its_file() -> None:
    cluster = refused()
    cluster.refused = "sft"
    cluster.writes.clear()
    for _ in range(3):
        cluster.sync()
        cluster.reconcile()
    assert not [write for write in cluster.writes if write.startswith("delete")]


def test_an_override_that_its_namespace_may_not_use_is_refused_when_a_job_is_tried_again() -> None:
    limits = {"namespaces": {"team": {"serviceAccounts": ["a"]}}}
    cluster = refused(Settings.model_validate(SETTINGS.model_dump(mode="json", exclude_defaults=True) | limits))
    overridden(cluster, pod={"serviceAccountName": "b"})
    cluster.settle()
    assert cluster.condition("Stalled") == "True:Forbidden"
    assert not [name for name in cluster.ever if "-sft-" in name]
    overridden(cluster)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


def test_a_running_gang_stays_as_it_began() -> None:
    cluster = Cluster(job(nodes=2))
    cluster.settle(hold("sft"))
    before, (service,) = gang(cluster), cluster.all("Service")
    overridden(cluster, nodes=1, resources=GPUS)
    cluster.delete("Service", service["metadata"]["name"])
    cluster.settle(hold("sft"))
    assert gang(cluster) == before
    assert [obj["spec"] for obj in cluster.all("Service")] == [service["spec"]]


# The number of ranks of a stage that has a checkpoint


def test_other_ranks_are_refused_also_when_a_refused_job_is_tried_again() -> None:
    cluster = Refusing(job())
    cluster.settle(hold("sft"))
    cluster.refused = "sft"
    crash(cluster)
    cluster.settle()
    overridden(cluster, nodes=2)
    cluster.refused = None
    cluster.settle()
    assert cluster.condition("Stalled") == "True:InvalidOverride"
    assert len(cluster.stage("sft")["attempts"]) == 2
    overridden(cluster)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


def test_taking_back_an_override_may_not_change_the_ranks_either() -> None:
    cluster = Cluster(job(runPolicy={"overrides": [{"stage": "sft", "nodes": 2}]}))
    cluster.settle(hold("sft"))
    overridden(cluster)
    crash(cluster)
    cluster.settle()
    assert cluster.condition("Stalled") == "True:InvalidOverride"
    message = cluster.stage("sft")["message"]
    assert message.startswith("spec.runPolicy.overrides: sft has a checkpoint of 2 ranks; found 1")
    overridden(cluster, nodes=2)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


def test_a_checkpoint_that_only_the_trainer_knew_of_costs_one_attempt_and_not_the_job() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("sft"))
    crash(cluster, message="")  # for want of memory, before it was asked for its progress
    overridden(cluster, nodes=2)
    cluster.settle(hold("sft"))
    summary = json.dumps({"reason": "WorldSizeChanged", "message": "checkpoint step-50 was written by 1 ranks"})
    crash(cluster, message=summary, code=2)
    cluster.settle()
    assert cluster.condition("Stalled") == "True:InvalidOverride"
    message = cluster.stage("sft")["message"]
    assert message.startswith("spec.runPolicy.overrides[0].nodes: sft has a checkpoint of 1 ranks; found 2")
    overridden(cluster)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    assert [attempt["state"] for attempt in cluster.stage("sft")["attempts"]] == ["Failed", "Failed", "Complete"]
