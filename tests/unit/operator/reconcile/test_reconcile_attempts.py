"""Why an attempt ended, whether it counts, and what follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from fakes.cluster_model import Cluster, Raw, job, stage_file
from rlhf_api.status import StageStatus
from rlhf_operator.reconcile.policy.restart import delay
from rlhf_operator.reconcile.settings import Timings

Ends = Callable[[Raw], int | None]


def is_(pod: Raw, stage: str, attempt: int | None = None, index: int | None = None) -> bool:
    labels, notes = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    return (
        labels["rlhf.dev/stage"] == stage
        and attempt in (None, int(labels["rlhf.dev/attempt"]))
        and index in (None, int(notes["batch.kubernetes.io/job-completion-index"]))
    )


def pair() -> Cluster:
    """A job whose sft has two pods."""
    value = job()
    value["spec"]["stages"][0]["nodes"] = 2
    return Cluster(value)


def hold(stage: str, attempt: int | None = None) -> Ends:
    """Everything ends well, but pods of this stage run on."""
    return lambda pod: None if is_(pod, stage, attempt) else 0


def pod_of(cluster: Cluster, stage: str, index: int = 0) -> str:
    return next(str(pod["metadata"]["name"]) for pod in cluster.pods() if is_(pod, stage, None, index))


def attempts(cluster: Cluster, stage: str = "sft") -> list[tuple[str, str, bool]]:
    return [
        (attempt["state"], attempt.get("reason", ""), attempt["counted"])
        for attempt in cluster.stage(stage)["attempts"]
    ]


def test_a_rank_that_fails_by_itself_counts_one_restart_once() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    cluster.end_pod(pod_of(cluster, "sft", 1), 1)
    cluster.settle()
    assert attempts(cluster) == [("Failed", "Crashed", True), ("Complete", "Complete", False)]
    assert cluster.stage("sft")["restarts"] == 1
    assert cluster.status["phase"] == "Complete"


def test_an_evicted_pod_counts_none() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    cluster.evict(pod_of(cluster, "sft", 0))
    cluster.settle()
    assert attempts(cluster) == [("Disrupted", "Evicted", False), ("Complete", "Complete", False)]
    assert cluster.stage("sft")["restarts"] == 0


def test_an_eviction_that_nobody_saw_happen_counts_none() -> None:
    """The pod is gone before it was looked at; no pod had failed on its own."""
    cluster = pair()
    cluster.settle(hold("sft"))
    name = pod_of(cluster, "sft", 0)
    cluster.evict(name)
    cluster.end_pod(name, 75)
    for _ in range(3):
        for raw in cluster.all("Job"):
            cluster.control(raw["metadata"]["name"])
        for pod in cluster.pods():
            if "deletionTimestamp" in pod["metadata"]:
                cluster.end_pod(pod["metadata"]["name"], 75)
    cluster.settle()
    assert [counted for _, _, counted in attempts(cluster)] == [False, False]


def test_a_deleted_pod_counts_none_though_its_sibling_crashes_of_it() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    cluster.delete("Pod", pod_of(cluster, "sft", 0))
    cluster.sync()
    cluster.reconcile()
    cluster.now += timedelta(seconds=5)
    cluster.end_pod(pod_of(cluster, "sft", 1), 1)
    cluster.settle()
    assert attempts(cluster) == [("Disrupted", "PodDeleted", False), ("Complete", "Complete", False)]


def test_wrong_input_is_not_tried_again() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: 2 if is_(pod, "prepare") else 0)
    assert attempts(cluster, "prepare") == [("Failed", "InvalidInput", False)]
    assert cluster.condition("Failed") == "True:InvalidInput"
    assert cluster.condition("Stalled") == "True:InvalidInput"
    assert {stage["state"] for stage in cluster.status["stages"][1:]} == {"Skipped"}


def test_wrong_input_wins_over_a_crash_and_a_disruption() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    cluster.evict(pod_of(cluster, "sft", 0))
    cluster.end_pod(pod_of(cluster, "sft", 1), 2)
    cluster.settle()
    assert attempts(cluster) == [("Failed", "InvalidInput", False)]


def test_a_guard_fails_the_job_with_the_trainers_words() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: 3 if is_(pod, "sft") else 0)
    assert cluster.stage("sft")["reason"] == "KL"
    assert "ended with 3 (pod beaver-sft-" in cluster.stage("sft")["message"]
    assert "on node-1, exit code 3" in cluster.stage("sft")["message"]


def test_an_out_of_memory_pod_is_named_with_its_limit() -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 0}))
    cluster.settle(hold("sft"))
    cluster.end_pod(pod_of(cluster, "sft"), 137, reason="OOMKilled", message="")
    cluster.settle()
    assert cluster.stage("sft")["reason"] == "OOMKilled"
    assert "the limit of 2Gi" in cluster.stage("sft")["message"]


@pytest.mark.parametrize(
    ("of_first", "of_second", "blamed"),
    [
        ({"reason": "RuntimeError", "raised": 99.5}, {"reason": "Killed"}, "Killed"),
        ({"reason": "RuntimeError", "raised": 99.5}, {"reason": "KeyError", "raised": 99.25}, "KeyError"),
        ({"reason": "KeyError", "raised": 99}, {"reason": "RuntimeError", "raised": 99.5}, "KeyError"),
    ],
)
def test_of_a_gang_that_ends_in_one_second_the_one_that_began_it_is_named(
    of_first: dict[str, Any], of_second: dict[str, Any], blamed: str
) -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    for index, summary in enumerate((of_first, of_second)):
        cluster.end_pod(pod_of(cluster, "sft", index), 1, message=json.dumps({"message": "its words", **summary}))
    cluster.settle()
    assert attempts(cluster)[0] == ("Failed", blamed, True)


@pytest.mark.parametrize(
    ("later", "blamed"),
    [
        ({"reason": "Killed"}, "Killed"),
        ({"reason": "KeyError", "raised": 98}, "KeyError"),
        ({"reason": "RuntimeError", "raised": 100}, "RuntimeError"),
        ({"reason": "GraceExceeded"}, "RuntimeError"),
        ({}, "RuntimeError"),
    ],
)
def test_one_that_failed_first_and_told_so_last_is_named(later: dict[str, Any], blamed: str) -> None:
    """The peer that lost it may end before it does; by then the Job controller has asked the rest to end."""
    cluster = pair()
    cluster.settle(hold("sft"))
    first, last = pod_of(cluster, "sft", 0), pod_of(cluster, "sft", 1)
    cluster.end_pod(first, 1, message=json.dumps({"message": "lost it", "reason": "RuntimeError", "raised": 99.5}))
    cluster.control(cluster.objects["Pod", first]["metadata"]["labels"]["batch.kubernetes.io/job-name"])
    assert "deletionTimestamp" in cluster.objects["Pod", last]["metadata"]
    cluster.now += timedelta(seconds=1)
    cluster.end_pod(last, 1, message=json.dumps({"message": "its words", **later}) if later else "")
    cluster.settle()
    assert attempts(cluster)[0] == ("Failed", blamed, True)
    again = next(
        index for index, write in enumerate(cluster.writes) if write.startswith("create Job") and "-a1" in write
    )
    assert not [write for write in cluster.writes[:again] if write.startswith("delete Job")], "it stays to be looked at"


def test_restarts_are_bounded_and_then_the_stage_fails() -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 2}))
    cluster.settle(lambda pod: 1 if is_(pod, "sft") else 0)
    assert [attempt[2] for attempt in attempts(cluster)] == [True, True, False]
    assert cluster.stage("sft")["state"] == "Failed"
    assert cluster.status["phase"] == "Failed"


def test_a_failed_job_stops_siblings_keeps_products_and_still_reports() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None if is_(pod, "cost") else 2 if is_(pod, "reward") else 0)
    states = {stage["name"]: (stage["state"], stage.get("reason")) for stage in cluster.status["stages"]}
    assert states["sft"] == ("Complete", "Complete")
    assert states["reward"] == ("Failed", "InvalidInput")
    assert states["cost"] == ("Skipped", "Stopped")
    assert states["report"] == ("Complete", "Complete")
    assert attempts(cluster, "cost") == [("Stopped", "SiblingFailed", False)]
    outcomes = stage_file(cluster.objects["Job", next(n for n in cluster.ever if "report" in n)])["outcomes"]
    assert outcomes["reward"] | {"message": ""} == {
        "state": "failed", "exitCode": 2, "reason": "InvalidInput", "message": ""
    }  # fmt: skip
    assert outcomes["cost"] == {"state": "stopped"}
    assert cluster.condition("Complete") == "False:NotFinished"


def test_disruptions_without_progress_are_bounded() -> None:
    cluster = Cluster(job())

    def ends(pod: Raw) -> int | None:
        if is_(pod, "sft"):
            cluster.evict(pod["metadata"]["name"])
            return None
        return 0

    cluster.settle(ends, rounds=600)
    assert cluster.stage("sft")["reason"] == "DisruptedTooOften"
    assert cluster.stage("sft")["restarts"] == 0
    assert len(cluster.stage("sft")["attempts"]) == 8


def test_a_result_that_was_lost_with_its_pod_is_fetched_again() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("prepare"))
    name = pod_of(cluster, "prepare")
    cluster.end_pod(name, 0)
    cluster.control(cluster.all("Job")[0]["metadata"]["name"])
    del cluster.objects["Pod", name]
    cluster.settle()
    assert attempts(cluster, "prepare") == [("Disrupted", "LostResult", False), ("Complete", "Complete", False)]


def test_a_result_of_another_job_counts_as_a_failure() -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 0}))
    cluster.settle(hold("prepare"))
    cluster.end_pod(pod_of(cluster, "prepare"), 0, message='{"result": {"inputs": "", "functions": "", "hits": "0"}}')
    cluster.settle()
    assert attempts(cluster, "prepare") == [("Failed", "NoResult", False)]
    assert cluster.status["phase"] == "Failed"


def test_a_job_that_someone_deletes_is_a_disruption() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("sft"))
    cluster.delete("Job", cluster.all("Job")[-1]["metadata"]["name"])
    cluster.settle()
    assert attempts(cluster)[0][::2] == ("Disrupted", False)
    assert cluster.status["phase"] == "Complete"


def test_jobs_that_someone_deletes_at_once_are_asked_for_at_once() -> None:
    cluster = Cluster(job())
    cluster.settle(lambda pod: None if is_(pod, "reward") or is_(pod, "cost") else 0)
    for raw in [raw for raw in cluster.all("Job") if raw["metadata"]["labels"]["rlhf.dev/stage"] in ("reward", "cost")]:
        del cluster.objects["Job", raw["metadata"]["name"]]
    for pod in cluster.pods():
        del cluster.objects["Pod", pod["metadata"]["name"]]
    cluster.sync()
    cluster.reconcile()  # the model refuses a second round of questions
    assert attempts(cluster, "reward") == attempts(cluster, "cost") == [("Disrupted", "JobDeleted", False)]


def test_the_next_attempt_waits_for_the_last_pod_of_the_one_before() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    cluster.end_pod(pod_of(cluster, "sft", 1), 1)
    stuck = pod_of(cluster, "sft", 0)
    for _ in range(40):  # pod 0 does not end: its node is lost
        cluster.sync()
        cluster.reconcile()
        cluster.control(cluster.objects["Pod", stuck]["metadata"]["labels"]["batch.kubernetes.io/job-name"])
        cluster.now += timedelta(seconds=5)
    assert len(cluster.stage("sft")["attempts"]) == 1
    for _ in range(80):  # 150 s of grace and 300 s of lostNodeTimeout later it is taken for dead
        cluster.sync()
        cluster.reconcile()
        cluster.control(cluster.objects["Pod", stuck]["metadata"]["labels"]["batch.kubernetes.io/job-name"])
        cluster.now += timedelta(seconds=5)
    assert attempts(cluster)[0] == ("Failed", "Crashed", True)
    assert cluster.stage("sft")["attempts"][1]["state"] == "Pending"


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_lost_node_does_not_hold_its_stage_for_ever(nodes: int) -> None:
    cluster = Cluster(job(nodes=nodes))
    cluster.settle(hold("sft"))
    cluster.lose(pod_of(cluster, "sft", 0))
    before = cluster.now
    cluster.settle()
    assert attempts(cluster)[0] == ("Disrupted", "Evicted", False)
    assert cluster.status["phase"] == "Complete"
    assert timedelta(seconds=300) < cluster.now - before < timedelta(seconds=1800)


def test_superseded_attempts_are_cleaned_up_unless_all_is_kept() -> None:
    for keep, jobs in (("products", 5), ("everything", 6)):
        cluster = Cluster(job(runPolicy={"keep": keep}))
        cluster.settle(lambda pod: 1 if is_(pod, "sft", 0) else 0)
        assert len(cluster.all("Job")) == jobs


def test_a_deleted_service_of_a_running_stage_is_made_again() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    (before,) = cluster.all("Service")
    cluster.delete("Service", before["metadata"]["name"])
    cluster.settle(hold("sft"))
    (after,) = cluster.all("Service")
    assert after["spec"] == before["spec"]


def test_attempts_kept_in_status_are_bounded_but_their_numbers_grow() -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 12}))
    cluster.settle(lambda pod: 1 if is_(pod, "sft") else 0, rounds=900)
    numbers = [attempt["number"] for attempt in cluster.stage("sft")["attempts"]]
    assert numbers == list(range(3, 13))
    assert cluster.stage("sft")["restarts"] == 12


@pytest.mark.parametrize(("restarts", "seconds"), [(1, 10), (2, 20), (3, 40), (6, 320), (7, 360), (50, 360)])
def test_the_wait_before_a_restart_doubles_to_six_minutes(restarts: int, seconds: float) -> None:
    attempt = {"number": 1, "state": "Failed", "counted": True}
    stage = StageStatus.model_validate(
        {"name": "sft", "type": "sft", "state": "Waiting", "restarts": restarts, "attempts": [attempt]}
    )
    assert delay(stage, Timings()) == seconds
