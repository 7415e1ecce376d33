"""Whose fault an ending is: each row of `rlhf_api.faults`, as Kubernetes shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from test_reconcile_attempts import attempts, hold, is_, pair, pod_of

from fakes.cluster_model import SETTINGS, Cluster, Raw, job
from rlhf_api.faults import FAULTS, Fault
from rlhf_operator.reconcile import Sample
from rlhf_operator.reconcile.times import write


def running(value: Raw | None = None) -> Cluster:
    """A job whose sft runs on."""
    cluster = Cluster(value or job())
    cluster.settle(hold("sft"))
    return cluster


def first(cluster: Cluster) -> tuple[str, str, bool]:
    """State, reason and count of sft's first attempt."""
    return attempts(cluster)[0]


def terminated(code: int, reason: str = "Error", message: str = "", at: str | None = None) -> Raw:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}}


def fail(cluster: Cluster, **status: Any) -> None:
    """The kubelet says how sft's first pod ended."""
    pod = cluster.objects["Pod", pod_of(cluster, "sft")]
    pod["status"] = {"phase": "Failed", **status}
    pod["spec"]["nodeName"] = "bad-node"
    cluster._touch(pod)


# Clocks


@pytest.mark.parametrize("skew", [-7200, -5, -2, -1, 0, 1, 2, 5, 7200])
def test_a_crash_counts_whatever_the_nodes_clock_says(skew: int) -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    name = pod_of(cluster, "sft", 0)
    cluster.end_pod(name, 1)
    pod = cluster.objects["Pod", name]
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = write(
        cluster.now + timedelta(seconds=skew)
    )
    cluster.settle()
    assert attempts(cluster) == [("Failed", "Crashed", True), ("Complete", "Complete", False)]


@pytest.mark.parametrize("skew", [-7200, -2, 2, 7200])
def test_a_deleted_pod_counts_not_whatever_its_nodes_clock_says(skew: int) -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    name = pod_of(cluster, "sft", 0)
    cluster.delete("Pod", name)
    cluster.now += timedelta(seconds=2)
    cluster.end_pod(name, 143)
    pod = cluster.objects["Pod", name]
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = write(
        cluster.now + timedelta(seconds=skew)
    )
    cluster.settle()
    assert first(cluster) == ("Disrupted", "PodDeleted", False)


def test_a_nodes_clock_ahead_delays_no_restart() -> None:
    cluster = running()
    fail(cluster, containerStatuses=[{"name": "trainer", "state": terminated(1, at=write(cluster.now + timedelta(2)))}])
    before = cluster.now
    cluster.settle(hold("sft"))
    assert cluster.stage("sft")["state"] == "Running"
    assert cluster.now - before < timedelta(seconds=60)


def test_the_siblings_of_a_crash_are_not_taken_for_deleted_before_the_job_says_that_it_failed() -> None:
    """The Job controller deletes them first, and writes that the Job failed afterwards."""
    cluster = pair()
    cluster.settle(hold("sft"))
    cluster.end_pod(pod_of(cluster, "sft", 0), 1)
    cluster.delete("Pod", pod_of(cluster, "sft", 1))
    cluster.sync()
    cluster.reconcile()
    assert "reason" not in cluster.stage("sft")["attempts"][0]
    cluster.settle()
    assert first(cluster) == ("Failed", "Crashed", True)


# Containers that someone put beside the trainer


def beside(cluster: Cluster, code: int, sidecar: Raw, phase: str = "Running") -> None:
    """The trainer of sft's pod ends; a sidecar does as it likes."""
    name = pod_of(cluster, "sft")
    pod = cluster.objects["Pod", name]
    words = cluster.summary(pod, code)
    pod["status"] |= {
        "phase": phase,
        "containerStatuses": [
            {"name": "trainer", "state": terminated(code, message=words)},
            {"name": "istio-proxy", "state": sidecar},
        ],
    }
    cluster._touch(pod)


RUNS: Raw = {"running": {"startedAt": "2026-03-01T12:00:00Z"}}


def ends_when_deleted(cluster: Cluster) -> Callable[[Raw], int | None]:
    return lambda pod: None if is_(pod, "sft", 0) else 0


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        (0, ("Complete", "Complete", False)),
        (1, ("Failed", "Crashed", True)),
        (2, ("Failed", "InvalidInput", False)),
        (3, ("Failed", "KL", False)),
    ],
)
def test_the_trainers_end_is_the_pods_end_though_a_sidecar_runs_on(code: int, ended: tuple[str, str, bool]) -> None:
    cluster = running()
    beside(cluster, code, RUNS)
    cluster.settle(ends_when_deleted(cluster))
    assert first(cluster) == ended
    assert cluster.status["phase"] == ("Failed" if code in (2, 3) else "Complete")
    live = [pod for pod in cluster.pods() if pod["status"]["phase"] == "Running"]
    assert live == [], "the sidecar holds no device"


@pytest.mark.parametrize("sidecar", [terminated(1), terminated(137, "OOMKilled")])
def test_a_sidecar_that_fails_does_not_fail_a_stage_that_is_complete(sidecar: Raw) -> None:
    cluster = running()
    beside(cluster, 0, sidecar, "Failed")
    cluster.settle()
    assert first(cluster) == ("Complete", "Complete", False)
    assert cluster.stage("sft")["restarts"] == 0


def test_one_that_failed_is_seen_so_before_the_job_controller_is_done_with_it() -> None:
    cluster = running()
    beside(cluster, 0, terminated(1), "Failed")
    (gang,) = [gang for gang in cluster.all("Job") if "-sft-" in gang["metadata"]["name"]]
    cluster._condition(gang, "FailureTarget", "BackoffLimitExceeded")
    cluster.sync()
    cluster.reconcile()
    assert first(cluster) == ("Complete", "Complete", False)


def test_a_sidecar_that_fails_one_pod_of_two_counts_not() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    beside(cluster, 0, terminated(1, message="no upstream"), "Failed")
    cluster.settle()
    assert first(cluster) in {("Disrupted", "SidecarFailed", False), ("Disrupted", "PodDeleted", False)}
    assert cluster.status["phase"] == "Complete"


def ends_beside(cluster: Cluster, index: int, code: int, **summary: Any) -> None:
    """The trainer of one of sft's pods ends; its sidecar runs on."""
    pod = cluster.objects["Pod", pod_of(cluster, "sft", index)]
    words = json.loads(cluster.summary(pod, code)) | summary
    pod["status"]["containerStatuses"] = [
        {"name": "trainer", "state": terminated(code, message=json.dumps(words))},
        {"name": "istio-proxy", "state": RUNS},
    ]
    cluster._touch(pod)
    cluster.sync()
    cluster.reconcile()


def test_of_trainers_beside_sidecars_the_one_that_failed_first_is_blamed() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    ends_beside(cluster, 1, 1, reason="PeerLost", raised=20.0)
    assert cluster.stage("sft")["attempts"][0]["state"] == "Running", "the other has not ended"
    ends_beside(cluster, 0, 1, reason="CudaError", raised=10.0)
    assert first(cluster) == ("Failed", "CudaError", True)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


def test_a_trainer_that_fails_beside_a_sidecar_does_not_hide_what_the_platform_did_to_its_peer() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    ends_beside(cluster, 1, 1, reason="PeerLost")
    pod = cluster.objects["Pod", pod_of(cluster, "sft", 0)]
    pod["status"] |= {
        "phase": "Failed",
        "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
        ],
    }
    cluster._touch(pod)
    cluster.settle()
    assert first(cluster)[0::2] == ("Disrupted", False)


def test_a_peer_that_does_not_end_is_waited_for_as_long_as_its_grace_period() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    ends_beside(cluster, 1, 1)
    timings = SETTINGS.timings
    cluster.now += timedelta(seconds=timings.grace + timings.grace_margin - 1)
    cluster.sync()
    cluster.reconcile()
    assert cluster.stage("sft")["attempts"][0]["state"] == "Running"
    cluster.now += timedelta(seconds=1)
    cluster.sync()
    cluster.reconcile()
    assert first(cluster) == ("Failed", "Crashed", True)


def test_a_node_lost_with_a_sidecar_holds_up_the_next_attempt_for_a_while_alone() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    crashed, sibling = pod_of(cluster, "sft", 0), pod_of(cluster, "sft", 1)
    cluster.end_pod(crashed, 1)
    cluster.control(cluster.objects["Pod", crashed]["metadata"]["labels"]["batch.kubernetes.io/job-name"])
    pod = cluster.objects["Pod", sibling]
    pod["status"]["containerStatuses"] = [
        {"name": "trainer", "state": terminated(75, message=cluster.summary(pod, 75))},
        {"name": "proxy", "state": RUNS},
    ]
    cluster._touch(pod)
    cluster.lost.add(sibling)
    for _ in range(40):
        cluster.step(lambda pod: 0)
        cluster.now += timedelta(minutes=5)
    assert first(cluster) == ("Failed", "Crashed", True)
    assert cluster.status["phase"] == "Complete"


def test_a_sidecar_that_runs_on_does_not_look_stuck() -> None:
    cluster = running(job(runPolicy={"stuckTimeout": 600}))
    beside(cluster, 0, RUNS)
    cluster.samples["sft"] = Sample("sft", 0, 5, 10, still=1e6)
    cluster.settle(ends_when_deleted(cluster))
    assert first(cluster) == ("Complete", "Complete", False)


def native(cluster: Cluster, code: int, *, phase: str, sidecar: int) -> None:
    """The trainer of sft's pod ends; its native sidecar is an init container that ends after it."""
    name = pod_of(cluster, "sft")
    pod = cluster.objects["Pod", name]
    pod["status"] |= {
        "phase": phase,
        "containerStatuses": [{"name": "trainer", "state": terminated(code, message=cluster.summary(pod, code))}],
        "initContainerStatuses": [{"name": "proxy", "state": terminated(sidecar) if phase == "Failed" else RUNS}],
    }
    cluster._touch(pod)


@pytest.mark.parametrize("sidecar", [0, 2, 137, 143])
def test_a_crash_beside_a_native_sidecar_counts_however_that_ends(sidecar: int) -> None:
    cluster = running()
    native(cluster, 1, phase="Failed", sidecar=sidecar)
    cluster.settle()
    assert first(cluster) == ("Failed", "Crashed", True)


@pytest.mark.parametrize("code", [0, 1, 75])
@pytest.mark.parametrize("beside_it", [False, True])
def test_the_moment_between_the_containers_end_and_the_pods_decides_nothing(code: int, beside_it: bool) -> None:
    """The kubelet says first that the container ended, then that the pod did."""
    cluster = running()
    native(cluster, code, phase="Running", sidecar=0)
    if not beside_it:
        del cluster.objects["Pod", pod_of(cluster, "sft")]["status"]["initContainerStatuses"]
    cluster.writes.clear()
    cluster.sync()
    cluster.reconcile()
    assert not [write for write in cluster.writes if write.startswith("delete")]
    assert cluster.stage("sft")["state"] == "Running"


def test_a_deletion_that_is_lost_after_the_stage_is_complete_comes_again() -> None:
    cluster = running()
    beside(cluster, 0, RUNS)
    cluster.sync()
    deleting = cluster.delete
    cluster.delete = lambda *_: None  # type: ignore[method-assign]  # the API server answers 500
    cluster.reconcile()
    assert first(cluster) == ("Complete", "Complete", False)
    cluster.delete = deleting  # type: ignore[method-assign]
    cluster.settle(ends_when_deleted(cluster))
    assert [pod for pod in cluster.pods() if pod["status"]["phase"] == "Running"] == []


@pytest.mark.parametrize("code", [0, 2])
def test_one_that_is_lost_as_the_job_ends_comes_again_too(code: int) -> None:
    cluster = running(job(stages=[job()["spec"]["stages"][0]]))
    beside(cluster, code, RUNS)
    deleting = cluster.delete
    cluster.delete = lambda *_: None  # type: ignore[method-assign]
    cluster.settle(ends_when_deleted(cluster), rounds=40) if code else None
    cluster.delete = deleting  # type: ignore[method-assign]
    cluster.settle(ends_when_deleted(cluster))
    assert cluster.status["phase"] in ("Complete", "Failed")
    assert [pod for pod in cluster.pods() if pod["status"]["phase"] == "Running"] == []


# What the platform does


def lost_container(cluster: Cluster, name: str) -> None:
    pod = cluster.objects["Pod", name]
    pod["status"] = {
        "phase": "Failed",
        "containerStatuses": [{"name": "trainer", "state": terminated(137, "ContainerStatusUnknown")}],
    }
    cluster._touch(pod)


def test_a_sibling_that_never_started_does_not_make_a_crash_the_platforms() -> None:
    """The Job controller deletes it; its kubelet says of containers that never began that it lost them."""
    cluster = pair()
    cluster.settle(hold("sft"))
    cluster.end_pod(pod_of(cluster, "sft", 0), 1)
    sibling = pod_of(cluster, "sft", 1)
    cluster.delete("Pod", sibling)
    lost_container(cluster, sibling)
    cluster.sync()
    cluster.reconcile()
    cluster.settle()
    assert first(cluster) == ("Failed", "Crashed", True)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("NotAdmitted", {"reason": "UnexpectedAdmissionError", "message": "Allocate failed: no healthy devices"}),
        ("NotAdmitted", {"reason": "OutOfnvidia.com/gpu", "message": "Node didn't have enough resource"}),
        ("NotAdmitted", {"reason": "OutOfcpu", "message": "Node didn't have enough resource"}),
        ("NotAdmitted", {"reason": "TopologyAffinityError", "message": "Topology locality"}),
        ("NotAdmitted", {"reason": "NodeAffinity", "message": "Predicate NodeAffinity failed"}),
        (
            "StartError",
            {"containerStatuses": [{"name": "trainer", "state": terminated(128, "StartError", "nvml: not loaded")}]},
        ),
        (
            "ContainerLost",
            {"containerStatuses": [{"name": "trainer", "state": terminated(137, "ContainerStatusUnknown")}]},
        ),
        ("ContainerLost", {}),
        (
            "InitContainerFailed",
            {
                "initContainerStatuses": [{"name": "vault", "state": terminated(1, message="permission denied")}],
                "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}],
            },
        ),
        ("Evicted", {"reason": "NodeShutdown", "message": "the node shuts down"}),
        ("Evicted", {"reason": "Evicted", "message": "The node was low on resource: memory."}),
        (
            "Evicted",
            {
                "reason": "Evicted",
                "message": "memory exceeds what the node has",
                "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}],
            },
        ),
    ],
)
def test_what_the_platform_does_counts_not_and_is_capped(reason: str, status: Raw) -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 0}))

    def ends(pod: Raw) -> int | None:
        if not is_(pod, "sft"):
            return 0
        fail(cluster, **status)
        return None

    cluster.settle(ends, rounds=900)
    assert first(cluster) == ("Disrupted", reason, False)
    assert cluster.stage("sft")["reason"] == "DisruptedTooOften"
    assert cluster.stage("sft")["restarts"] == 0
    assert len(cluster.stage("sft")["attempts"]) == 8


def preferred(cluster: Cluster, number: int) -> list[list[str]]:
    """Nodes that an attempt of sft would rather not have."""
    (attempt_job,) = [
        gang
        for gang in cluster.all("Job")
        if gang["metadata"]["name"].endswith(f"-a{number}") and "-sft-" in gang["metadata"]["name"]
    ]
    affinity = attempt_job["spec"]["template"]["spec"].get("affinity") or {}
    terms = (affinity.get("nodeAffinity") or {}).get("preferredDuringSchedulingIgnoredDuringExecution") or []
    return [term["preference"]["matchFields"][0]["values"] for term in terms]


def test_the_next_attempt_would_rather_not_have_the_node_that_refused_the_last_one() -> None:
    cluster = running(job(runPolicy={"keep": "everything"}))
    fail(cluster, reason="UnexpectedAdmissionError", message="no healthy devices")
    cluster.settle(hold("sft"))
    assert preferred(cluster, 1) == [["bad-node"]]
    (pod,) = [pod["metadata"]["name"] for pod in cluster.pods() if is_(pod, "sft", 1)]
    cluster.end_pod(pod, 1)
    cluster.settle(hold("sft"))
    assert preferred(cluster, 2) == [], "a crash is not the node's fault"


def test_a_jobs_own_affinity_stays_beside_it() -> None:
    zone = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    mine = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": zone}]}}
    cluster = running(job(pod={"affinity": mine}))
    fail(cluster, reason="OutOfcpu", message="none left")
    cluster.settle(hold("sft"))
    (attempt_job,) = [gang for gang in cluster.all("Job") if gang["metadata"]["name"].endswith("-a1")]
    terms = attempt_job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert [term["weight"] for term in terms] == [1, 100]


# What the pod does


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ('Usage of EmptyDir volume "rlhf-tmp" exceeds the limit "10Gi". ', "overrides[].pod.volumes"),
        ('Usage of EmptyDir volume "rlhf-shm" exceeds the limit "1Gi". ', "sharedMemory"),
        ('Container trainer exceeded its local ephemeral storage limit "5Gi". ', "ephemeral-storage"),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 5Gi. ", "ephemeral-storage"),
    ],
)
def test_a_limit_of_its_own_counts_and_is_named(message: str, field: str) -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 2}))
    steps = iter(range(100, 10000, 100))

    def ends(pod: Raw) -> int | None:
        if not is_(pod, "sft"):
            return 0
        summary = json.dumps({"reason": "Stopped", "step": next(steps)})
        fail(
            cluster,
            reason="Evicted",
            message=message,
            containerStatuses=[{"name": "trainer", "state": terminated(137, message=summary)}],
        )
        return None

    cluster.settle(ends, rounds=600)
    assert first(cluster) == ("Failed", "LimitExceeded", True)
    assert cluster.stage("sft")["state"] == "Failed"
    assert len(cluster.stage("sft")["attempts"]) == 3
    assert message.strip(". ") in cluster.stage("sft")["message"]
    assert field in cluster.stage("sft")["message"]


@pytest.mark.parametrize(("code", "reason"), [(1, "Failure"), (2, "InvalidInput"), (3, "Guard"), (139, "SIGSEGV")])
def test_an_end_of_which_the_trainer_says_nothing_has_a_reason_and_words(code: int, reason: str) -> None:
    cluster = running(job(runPolicy={"maxRestarts": 0}))
    cluster.end_pod(pod_of(cluster, "sft"), code, message="")
    cluster.settle()
    assert first(cluster)[1] == reason
    assert "left no message; see its log" in cluster.stage("sft")["message"]


def test_a_limit_is_seen_though_the_kubelet_says_nothing_of_the_container() -> None:
    cluster = pair()
    cluster.settle(hold("sft"))
    fail(cluster, reason="Evicted", message='Usage of EmptyDir volume "data" exceeds the limit "1Gi". ')
    cluster.settle()
    assert first(cluster) == ("Failed", "LimitExceeded", True)


def crash_after(cluster: Cluster, time: timedelta, step: int) -> None:
    """sft runs for so long, comes to a step, and crashes."""
    cluster.now += time
    cluster.end_pod(pod_of(cluster, "sft"), 1, message=json.dumps({"reason": "Crashed", "step": step}))
    cluster.settle(hold("sft"))


def test_one_crash_in_days_ends_no_long_run() -> None:
    cluster = running(job(runPolicy={"maxRestarts": 1}))
    for week in range(1, 6):
        crash_after(cluster, timedelta(days=5), 1000 * week)
        assert cluster.stage("sft")["state"] == "Running"
        assert cluster.stage("sft")["restarts"] == 1


@pytest.mark.parametrize(("time", "steps"), [(timedelta(days=5), (7, 7, 7)), (timedelta(minutes=30), (10, 20, 30))])
def test_crashes_at_one_step_or_in_quick_succession_come_to_an_end(time: timedelta, steps: tuple[int, ...]) -> None:
    cluster = running(job(runPolicy={"maxRestarts": 1}))
    for step in steps[:2]:
        crash_after(cluster, time, step)
    assert cluster.stage("sft")["state"] in ("Failed", "Running")
    if cluster.stage("sft")["state"] == "Running":
        crash_after(cluster, time, steps[2])
    assert cluster.stage("sft")["state"] == "Failed"


# Time


def test_the_deadline_counts_what_attempts_ran_not_how_long_the_operator_was_away() -> None:
    cluster = Cluster(job(activeDeadlineSeconds=7200))
    for _ in range(12):
        cluster.step(hold("sft"))
    cluster.now += timedelta(minutes=30)
    cluster.end_pod(pod_of(cluster, "sft"), 0)
    for gang in cluster.all("Job"):
        cluster.control(gang["metadata"]["name"])
    cluster.now += timedelta(hours=60)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    assert 1800 <= cluster.status["activeSeconds"] < 2400


def test_a_deadline_that_passed_while_the_operator_was_away_still_ends_what_runs() -> None:
    cluster = Cluster(job(activeDeadlineSeconds=7200))
    for _ in range(12):
        cluster.step(hold("sft"))
    cluster.now += timedelta(hours=60)
    cluster.settle(hold("sft"))
    assert first(cluster)[1] == "DeadlineExceeded"
    assert cluster.status["phase"] == "Failed"


def test_a_gang_that_never_was_complete_gives_its_devices_back_and_says_so() -> None:
    cluster = Cluster(job(runPolicy={"pendingTimeout": 600, "maxRestarts": 1}))
    cluster._kubelet = lambda pod, ends: (  # type: ignore[method-assign]  # no node has room for sft
        cluster.end_pod(pod["metadata"]["name"], 75)
        if "deletionTimestamp" in pod["metadata"]
        else None
        if is_(pod, "sft")
        else Cluster._kubelet(cluster, pod, ends)
    )
    stalled = []
    for _ in range(60):
        cluster.step()
        stalled.append(cluster.condition("Stalled"))
        cluster.now += timedelta(seconds=60)
    assert first(cluster) == ("Failed", "PendingTimeout", True)
    assert "True:PendingTimeout" in stalled
    assert cluster.status["phase"] == "Failed"


def test_a_queue_is_no_run_though_the_operator_was_away() -> None:
    cluster = Cluster(job(activeDeadlineSeconds=7200))
    for _ in range(12):
        cluster.step(hold("sft"))
    (gang,) = [gang for gang in cluster.all("Job") if "-sft-" in gang["metadata"]["name"]]
    cluster.now += timedelta(minutes=5)
    gang["spec"]["suspend"] = True
    cluster.control(gang["metadata"]["name"])
    cluster.now += timedelta(hours=10)
    for pod in cluster.pods():
        cluster.end_pod(pod["metadata"]["name"], 75)
    cluster.step(hold("sft"))
    assert cluster.stage("sft")["attempts"][0].get("reason") != "DeadlineExceeded"
    assert cluster.status["activeSeconds"] < 600


def test_a_crash_that_came_before_the_stop_is_a_crash() -> None:
    cluster = running(job(runPolicy={"maxRestarts": 0}))
    cluster.end_pod(pod_of(cluster, "sft"), 1)
    for gang in cluster.all("Job"):
        cluster.control(gang["metadata"]["name"])
    cluster.edit(suspend=True)
    cluster.settle()
    assert first(cluster) == ("Failed", "Crashed", False)


def test_queueing_and_hanging_give_no_restarts_back() -> None:
    cluster = running(job(runPolicy={"maxRestarts": 1, "stuckTimeout": 600}))
    for attempt, step in enumerate((10, 20)):
        cluster.now += timedelta(hours=2)
        cluster.samples["sft"] = Sample("sft", attempt, step, 100, still=700)
        cluster.settle(hold("sft"))
    assert [ended[1] for ended in attempts(cluster)] == ["Stuck", "Stuck"]
    assert cluster.stage("sft")["state"] == "Failed"


# Requests


def test_a_retry_asked_for_before_the_failure_is_on_record_is_not_lost() -> None:
    cluster = running(job(runPolicy={"maxRestarts": 0}))
    cluster.end_pod(pod_of(cluster, "sft"), 1)
    for gang in cluster.all("Job"):
        cluster.control(gang["metadata"]["name"])
    cluster.job["metadata"]["annotations"] = {"rlhf.dev/retry": "1"}
    cluster._touch(cluster.job)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    assert [ended[0] for ended in attempts(cluster)] == ["Failed", "Complete"]


def test_a_value_of_the_retry_annotation_is_acted_on_once() -> None:
    value = job(runPolicy={"maxRestarts": 0})
    value["metadata"]["annotations"] = {"rlhf.dev/retry": "1"}
    cluster = Cluster(value)

    def tried() -> int:
        return len([name for name in cluster.ever if "-sft-" in name])

    def annotate(text: str) -> int:
        cluster.job["metadata"]["annotations"]["rlhf.dev/retry"] = text
        cluster._touch(cluster.job)
        cluster.settle(lambda pod: 1 if is_(pod, "sft") else 0)
        return tried()

    assert [annotate(text) for text in ("1", "2", "1", "2", "1", "3", "2")] == [1, 2, 2, 2, 2, 3, 3]


def test_one_acted_on_by_an_earlier_operator_is_remembered() -> None:
    cluster = Cluster(job(runPolicy={"maxRestarts": 0}))
    cluster.settle(lambda pod: 1 if is_(pod, "sft") else 0)
    cluster.job["status"]["retry"] = "1"
    cluster.job["status"].pop("retries", None)
    for text in ("1", "2", "1"):
        cluster.job["metadata"]["annotations"] = {"rlhf.dev/retry": text}
        cluster._touch(cluster.job)
        cluster.settle(lambda pod: 1 if is_(pod, "sft") else 0)
    assert len([name for name in cluster.ever if "-sft-" in name]) == 2


def test_a_job_that_is_gone_is_not_charged_for_the_operators_absence() -> None:
    cluster = Cluster(job(activeDeadlineSeconds=7200))
    for _ in range(12):
        cluster.step(hold("sft"))
    (name,) = [gang["metadata"]["name"] for gang in cluster.all("Job") if "-sft-" in gang["metadata"]["name"]]
    cluster.now += timedelta(hours=60)
    for pod in cluster.pods(name):
        del cluster.objects["Pod", pod["metadata"]["name"]]
    del cluster.objects["Job", name]
    for _ in range(40):
        cluster.step()
    assert first(cluster) == ("Disrupted", "JobDeleted", False)
    assert cluster.status["activeSeconds"] < 600


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_job_that_a_policys_ttl_removed_while_the_operator_was_away_is_made_again(code: int) -> None:
    cluster = running()
    cluster.end_pod(pod_of(cluster, "sft"), code)
    for gang in cluster.all("Job"):
        cluster.control(gang["metadata"]["name"])
    cluster.now += timedelta(hours=1)
    (name,) = [gang["metadata"]["name"] for gang in cluster.all("Job") if "-sft-" in gang["metadata"]["name"]]
    for pod in cluster.pods(name):
        del cluster.objects["Pod", pod["metadata"]["name"]]
    del cluster.objects["Job", name]
    cluster.settle()
    assert first(cluster) == ("Disrupted", "JobDeleted", False)
    assert cluster.status["phase"] == "Complete"


def test_an_attempt_that_an_earlier_operator_began_with_a_config_map_ends_well() -> None:
    cluster = running()
    (gang,) = [gang for gang in cluster.all("Job") if "-sft-" in gang["metadata"]["name"]]
    template = gang["spec"]["template"]
    template["metadata"].pop("annotations")
    template["spec"]["volumes"][0] = {"name": "rlhf-stage", "configMap": {"name": gang["metadata"]["name"]}}
    cluster._touch(gang)
    cluster.settle()
    assert first(cluster) == ("Complete", "Complete", False)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.reason)
def test_every_row_of_the_table_is_tested(fault: Fault) -> None:
    folder = Path(__file__).parent
    tests = "".join(path.read_text() for path in folder.glob("test_*.py"))
    assert re.search(rf'"{fault.reason}"', tests), f"no test of the operator's decisions sees {fault.reason}"
