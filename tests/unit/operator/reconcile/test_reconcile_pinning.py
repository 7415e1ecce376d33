"""A job ends with what it began with, whatever becomes of the platform's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fakes.cluster_model import SETTINGS, Cluster, Raw, job
from rlhf_operator.reconcile import Sample, Settings

BIG = {"nodes": 4, "resources": {"limits": {"nvidia.com/gpu": "8"}}}
TIMINGS = {"grace": 10, "graceMargin": 5, "backoff": 77, "backoffLimit": 99}


def changed(**changes: Any) -> Settings:
    return Settings.model_validate(SETTINGS.model_dump(mode="json", by_alias=True) | changes)


def sft(pod: Raw) -> bool:
    return bool(pod["metadata"]["labels"]["rlhf.dev/stage"] == "sft")


def running(*, earlier: bool = False) -> Cluster:
    """A job whose sft runs; `earlier`: under an operator that pinned its profiles alone."""
    cluster = Cluster(job())
    cluster.settle(lambda pod: None if sft(pod) else 0)
    if earlier:
        del cluster.job["status"]["platform"]
    return cluster


def pods_of(cluster: Cluster, stage: str) -> list[tuple[int, Raw]]:
    """Number of pods and their spec, of every Job made for a stage."""
    jobs = [
        job_object
        for job_object in cluster.asked
        if job_object["kind"] == "Job" and f"-{stage}-" in job_object["metadata"]["name"]
    ]
    return [(job_object["spec"]["completions"], job_object["spec"]["template"]["spec"]) for job_object in jobs]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"profiles": {"gpu": BIG}, "defaultProfile": "gpu"},
        {"profiles": {**SETTINGS.model_dump(mode="json")["profiles"], "gpu": BIG}, "defaultProfile": "gpu"},
        {"profiles": {}, "defaultProfile": "cpu"},
        {"profiles": {"default": BIG}},
    ],
    ids=["renamed", "another", "none", "same name"],
)
def test_the_default_profile_is_the_one_the_job_began_with(changes: Raw, earlier: bool) -> None:
    cluster = running(earlier=earlier)
    cluster.settings = changed(**changes)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    for stage in ("sft", "reward", "cost"):
        ((nodes, pod),) = pods_of(cluster, stage)
        assert (nodes, pod["containers"][0]["resources"]["limits"]) == (1, {"memory": "2Gi", "cpu": "2"})


@pytest.mark.parametrize("earlier", [False, True])
def test_a_stage_that_is_restarted_has_the_ranks_of_its_checkpoint(earlier: bool) -> None:
    cluster = running(earlier=earlier)
    cluster.samples["sft"] = Sample("sft", 0, 500, 1000)
    cluster.step(lambda pod: None)
    cluster.settings = changed(profiles={"default": {}, "gpu": BIG}, defaultProfile="gpu")
    cluster.evict(next(pod["metadata"]["name"] for pod in cluster.pods() if sft(pod)))
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    assert [attempt["ranks"] for attempt in cluster.stage("sft")["attempts"]] == [1, 1]


def test_group_grace_port_and_image_of_a_restarted_stage_are_those_it_began_with() -> None:
    cluster = running()
    cluster.settings = changed(fsGroup=5, metricsPort=9090, image="trainer@sha256:2", timings=TIMINGS)
    cluster.evict(next(pod["metadata"]["name"] for pod in cluster.pods() if sft(pod)))
    cluster.settle()
    (_, before), (_, after) = pods_of(cluster, "sft")
    assert before == after | {"volumes": before["volumes"]}
    assert after["securityContext"]["fsGroup"] == 10001
    assert after["terminationGracePeriodSeconds"] == 150


def test_a_job_that_begins_later_has_the_new_configuration() -> None:
    cluster = Cluster(job(), changed(fsGroup=5, metricsPort=9090, image="trainer@sha256:2", timings=TIMINGS))
    cluster.settle()
    ((_, pod),) = pods_of(cluster, "sft")
    (container,) = pod["containers"]
    assert (container["image"], container["ports"][0]["containerPort"]) == ("trainer@sha256:2", 9090)
    assert (pod["securityContext"]["fsGroup"], pod["terminationGracePeriodSeconds"]) == (5, 15)


@pytest.mark.parametrize("earlier", [False, True])
def test_progress_is_asked_of_the_port_that_the_pod_has(earlier: bool) -> None:
    cluster = running(earlier=earlier)
    cluster.settings = changed(metricsPort=9090)
    cluster.sync()
    assert [(poll.stage, poll.port) for poll in cluster.reconcile().poll] == [("sft", 8080)]


def test_a_job_of_an_earlier_operator_gets_no_time_limit_at_the_upgrade() -> None:
    cluster = Cluster(job())
    for _ in range(3):  # its pod is made, and stays pending
        cluster.sync()
        cluster.reconcile()
        for job_object in cluster.all("Job"):
            cluster.control(job_object["metadata"]["name"])
    del cluster.job["status"]["platform"]
    cluster.now = cluster.now.replace(year=cluster.now.year + 1)
    cluster.sync()
    cluster.reconcile()
    assert cluster.status["platform"]["pendingTimeout"] == 0
    assert [attempt["state"] for attempt in cluster.stage("prepare")["attempts"]] == ["Pending"]
    assert "reason" not in cluster.stage("prepare")["attempts"][0]


def test_pins_are_written_once() -> None:
    cluster = running(earlier=True)
    cluster.step(lambda pod: None)
    writes = len(cluster.writes)
    cluster.settings = changed(fsGroup=5, metricsPort=9090)
    for _ in range(5):
        cluster.step(lambda pod: None)
    assert cluster.writes[writes:] == []


def test_the_group_may_be_left_out() -> None:
    cluster = Cluster(job(), changed(fsGroup=None))
    cluster.settle()
    for _, pod in pods_of(cluster, "sft") + pods_of(cluster, "prepare"):
        assert "fsGroup" not in pod["securityContext"]
        assert "fsGroupChangePolicy" not in pod["securityContext"]
    assert cluster.status["phase"] == "Complete"


def test_the_default_profile_exists() -> None:
    with pytest.raises(ValidationError, match="found nonesuch; expected one of the profiles: cpu, pair"):
        Settings.model_validate({"image": "a", "profiles": {"pair": {}}, "defaultProfile": "nonesuch"})
    Settings.model_validate({"image": "a", "profiles": {"pair": {}}, "defaultProfile": "cpu"})


def test_a_retry_counts_disruptions_anew() -> None:
    cluster = Cluster(job())
    disrupted = True

    def ends(pod: Raw) -> int | None:
        if sft(pod) and disrupted:
            cluster.evict(pod["metadata"]["name"])
            return None
        return 0

    cluster.settle(ends, rounds=600)
    assert cluster.stage("sft")["reason"] == "DisruptedTooOften"
    cluster.job["metadata"]["annotations"] = {"rlhf.dev/retry": "1"}
    cluster._touch(cluster.job)
    last = cluster.stage("sft")["attempts"][-1]["number"]
    while cluster.status["phase"] == "Failed" or cluster.stage("sft")["attempts"][-1]["number"] < last + 2:
        cluster.step(ends)
        cluster.now = cluster.now.replace(year=cluster.now.year + 1)
    disrupted = False
    cluster.settle(ends)
    assert cluster.status["phase"] == "Complete"
