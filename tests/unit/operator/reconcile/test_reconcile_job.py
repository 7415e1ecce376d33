"""A job from its first sight to its end, on a model of a cluster."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from fakes.cluster_model import JOB, SETTINGS, Cluster, Killed, Raw, job
from rlhf_api.stages import STAGE_TYPES
from rlhf_api.status import JobStatus
from rlhf_operator.reconcile import Observed, reconcile, times
from rlhf_operator.reconcile.memo import JOBS

ALL = ("prepare", "sft", "reward", "cost", "report")


def stage_of(pod: Raw) -> str:
    return str(pod["metadata"]["labels"]["rlhf.dev/stage"])


def states(cluster: Cluster) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in cluster.status["stages"]}


def essence(cluster: Cluster) -> str:
    """Status without times and pods' names, which differ from run to run."""
    text = json.loads(json.dumps(cluster.status))
    for stage in text["stages"]:
        for entry in (stage, *stage["attempts"]):
            for name in ("startTime", "endTime", "pod"):
                entry.pop(name, None)
    for condition in text["conditions"]:
        condition.pop("lastTransitionTime")
    for name in ("startTime", "completionTime", "activeSeconds"):
        text.pop(name)
    return json.dumps(text, sort_keys=True)


def test_a_job_runs_to_its_end() -> None:
    cluster = Cluster(job())
    cluster.settle()
    assert states(cluster) == dict.fromkeys(ALL, "Complete")
    assert cluster.condition("Complete") == "True:Complete"
    assert cluster.condition("Ready") == "True:Complete"
    assert cluster.condition("Failed") == "False:NotFinished"
    assert cluster.status["phase"] == "Complete"
    assert len(cluster.ever) == len(ALL)
    assert JobStatus.model_validate(cluster.status).completion_time is not None
    assert all(stage["product"] for stage in cluster.status["stages"][1:])


def test_an_upgrade_that_raises_a_recipe_renames_no_product_of_a_running_job(monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = Cluster(job())
    undisturbed.settle()
    cluster = Cluster(job())
    cluster.settle(lambda pod: None if stage_of(pod) == "sft" else 0)
    for name in ("sft", "rewardModel", "report"):
        monkeypatch.setitem(STAGE_TYPES, name, replace(STAGE_TYPES[name], recipe=99))
    JOBS.clear()  # another process
    cluster.settle()
    JOBS.clear()
    products = [[stage.get("product") for stage in which.status["stages"]] for which in (undisturbed, cluster)]
    assert products[0] == products[1]


def test_a_stage_starts_only_after_all_it_takes_from() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None if stage_of(pod) == "sft" else 0)
    assert states(cluster) == {
        "prepare": "Complete",
        "sft": "Running",
        "reward": "Waiting",
        "cost": "Waiting",
        "report": "Waiting",
    }


def test_ready_stages_run_side_by_side() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None if stage_of(pod) in ("reward", "cost") else 0)
    assert states(cluster)["reward"] == states(cluster)["cost"] == "Running"
    assert cluster.status["stage"] == "reward,cost"


def test_products_that_prepare_found_take_no_pod() -> None:
    cluster = Cluster(job())
    summary = json.dumps({"reason": "Done", "result": cluster.result(("sft", "reward"))})
    cluster.settle(lambda pod: None)
    cluster.end_pod(next(pod["metadata"]["name"] for pod in cluster.pods()), 0, message=summary)
    cluster.settle()
    assert states(cluster)["sft"] == states(cluster)["reward"] == "Reused"
    assert len(cluster.ever) == 3


def test_reconciling_ends_when_the_first_gang_runs() -> None:
    cluster = Cluster(job())
    cluster.reconcile()
    assert cluster.condition("Reconciling") == "True:Accepted"
    assert cluster.status["observedGeneration"] == 1
    cluster.settle(lambda pod: None)
    assert cluster.condition("Reconciling") == "False:Running"
    assert cluster.condition("Ready") == "True:Running"


def test_gangs_that_end_at_once_are_written_down_once_each() -> None:
    """Load on the API server is what bounds the rate of jobs, and a status is the dearest write."""
    cluster = Cluster(job())
    cluster.settle()
    ends_seen = len(("accepted", "prepare", "sft", "reward and cost", "report"))
    assert cluster.writes.count("status") == ends_seen


def test_a_gang_that_runs_on_is_shown_as_running_within_seconds() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None)
    assert states(cluster)["prepare"] == "Running"
    shown = next(condition for condition in cluster.status["conditions"] if condition["type"] == "Ready")[
        "lastTransitionTime"
    ]
    pod = cluster.pods()[0]["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    assert times.read(shown) - times.read(pod) <= timedelta(seconds=3)


def test_a_finished_job_that_nothing_changes_makes_no_writes() -> None:
    cluster = Cluster(job())
    cluster.settle()
    cluster.writes.clear()
    for _ in range(3):
        cluster.sync()
        cluster.reconcile()
    assert cluster.writes == []


def test_a_running_job_that_nothing_changes_makes_no_writes() -> None:
    cluster = Cluster(job(activeDeadlineSeconds=10_000))
    for _ in range(30):
        cluster.sync()
        cluster.reconcile()
        for raw in cluster.all("Job"):
            cluster.control(raw["metadata"]["name"])
        for pod in cluster.pods():
            cluster.run_pod(pod["metadata"]["name"])
    cluster.writes.clear()
    for _ in range(3):
        cluster.sync()
        cluster.reconcile()
    assert cluster.writes == []


def test_a_spec_that_is_wrong_is_said_with_its_path_and_makes_nothing() -> None:
    wrong = job()
    wrong["spec"]["stages"][1]["rewardModel"]["model"] = {"stage": "nowhere"}
    cluster = Cluster(wrong)
    cluster.settle()
    assert cluster.condition("Stalled") == "True:InvalidSpec"
    message = next(condition["message"] for condition in cluster.status["conditions"] if condition["type"] == "Stalled")
    assert "spec.stages[1].rewardModel.model.stage" in message
    assert cluster.ever == set()
    assert cluster.events == ["InvalidSpec"]


@pytest.mark.parametrize(
    ("edit", "path"),
    [
        ({"profile": "h100x8"}, "spec.profile: there is no profile h100x8"),
        ({"storage": None}, "spec.storage"),
    ],
)
def test_what_the_platform_lacks_is_said_with_its_path(edit: Raw, path: str) -> None:
    value = job(**edit)
    value["spec"] = {name: field for name, field in value["spec"].items() if field is not None}
    cluster = Cluster(value)
    cluster.settle()
    assert cluster.condition("Stalled") == "True:InvalidSpec"
    assert path in str(cluster.status["conditions"])
    assert cluster.ever == set()


def test_the_image_and_plan_version_of_the_start_are_kept_to_the_end() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None)
    cluster.settings = SETTINGS.model_copy(update={"image": "trainer@sha256:2"})
    cluster.settle()
    images = {raw["spec"]["template"]["spec"]["containers"][0]["image"] for raw in cluster.all("Job")}
    assert images == {"trainer@sha256:1"}
    assert cluster.status["image"] == "trainer@sha256:1"
    assert cluster.status["planVersion"] == "1"


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None)
    gone = copy.deepcopy(cluster.job)
    gone["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    out = reconcile(gone, Observed(), SETTINGS, cluster.now)
    assert (out.create, out.delete, out.status) == ([], [], cluster.status)


def test_status_fields_of_a_newer_operator_stay() -> None:
    cluster = Cluster(job())
    cluster.job["status"] = {"newField": 1}
    cluster.settle()
    assert cluster.status["newField"] == 1


def test_killed_after_each_single_write_it_comes_to_the_same_end() -> None:
    """A sweep over all writes of one job: never two active Jobs for a stage, always the same status."""

    def ends(pod: Raw) -> int:
        crashed = stage_of(pod) == "reward" and pod["metadata"]["labels"]["rlhf.dev/attempt"] == "0"
        return 1 if crashed else 0

    undisturbed = Cluster(JOB)
    undisturbed.settle(ends)
    total = len(undisturbed.writes)
    assert total > 10
    for kill in range(total):
        cluster = Cluster(JOB)
        cluster.kill_after = kill
        try:
            cluster.settle(ends)
            raise AssertionError("never killed")
        except Killed:
            cluster.kill_after = None
        cluster.settle(ends)
        assert essence(cluster) == essence(undisturbed), f"killed after write {kill}"
        assert cluster.ever == undisturbed.ever
