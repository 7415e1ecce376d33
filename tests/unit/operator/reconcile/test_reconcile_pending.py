"""Why pods do not start, in the words of whoever holds them up; and where the first of them is put."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.cluster_model import Cluster, Raw, job
from rlhf_api.errors import SpecError
from rlhf_api.load import parse_job
from rlhf_operator.pending_reasons import printable
from rlhf_operator.reconcile import LiveRead

SCHEDULED = {"type": "PodScheduled", "status": "True"}
CREATING = {"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}
INITIALIZING = {"name": "trainer", "state": {"waiting": {"reason": "PodInitializing"}}}


def held_up(**status: object) -> Cluster:
    """A cluster where prepare's pod is on a node and stays pending, for longer than a start takes."""
    cluster = Cluster(job())
    cluster.sync()
    cluster.reconcile()
    cluster.control(cluster.all("Job")[0]["metadata"]["name"])
    cluster.pods()[0]["status"] = {"phase": "Pending", "conditions": [SCHEDULED], **status}
    cluster.now += timedelta(seconds=20)
    cluster.sync()
    return cluster


def test_a_pod_that_stays_in_container_creating_is_explained_by_its_last_event() -> None:
    cluster = held_up(containerStatuses=[CREATING])
    (pod,) = cluster.pods()
    (look,) = cluster.reconcile().explain
    assert (look.what, look.name, look.uid) == ("PodEvents", pod["metadata"]["name"], pod["metadata"]["uid"])
    cluster.explanations = {look: 'FailedMount: MountVolume.SetUp failed for volume "models": timed out'}
    cluster.reconcile()
    stage = cluster.stage("prepare")
    assert stage["reason"] == "FailedMount"
    assert stage["message"] == f'{look.name}: FailedMount: MountVolume.SetUp failed for volume "models": timed out'
    (ready,) = [condition for condition in cluster.status["conditions"] if condition["type"] == "Ready"]
    assert ready["message"] == f"prepare: {stage['message']}"


def test_words_without_a_reason_are_told_all_the_same() -> None:
    cluster = held_up(containerStatuses=[CREATING])
    (look,) = cluster.reconcile().explain
    cluster.explanations = {look: "\\x1b[31m no reason: " + "é" * 5000}
    cluster.reconcile()
    assert cluster.stage("prepare")["reason"] == "Pending"
    assert len(cluster.stage("prepare")["message"]) == 1024


def test_no_event_is_asked_for_while_a_pod_may_still_be_starting() -> None:
    cluster = held_up(containerStatuses=[CREATING])
    cluster.now -= timedelta(seconds=10)
    cluster.sync()
    out = cluster.reconcile()
    assert (out.explain, cluster.stage("prepare")["reason"]) == ([], "Starting")
    assert out.requeue is not None


@pytest.mark.parametrize("kind", ["initContainerStatuses", "containerStatuses"])
def test_another_container_that_holds_the_trainer_up_is_named(kind: str) -> None:
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}
    sidecar = {"name": "istio-init", "state": state}
    statuses: dict[str, list[Raw]] = {"containerStatuses": [INITIALIZING]}
    statuses[kind] = [sidecar, *statuses.get(kind, [])]
    cluster = held_up(**statuses)
    assert cluster.reconcile().explain == []
    stage = cluster.stage("prepare")
    assert stage["reason"] == "CrashLoopBackOff"
    assert "container istio-init: back-off 5m0s" in stage["message"]


def test_what_an_event_says_is_one_line_that_no_terminal_obeys() -> None:
    assert printable("FailedMount: a\n\tb\x1b[2J \u202ec" + "x" * 9000).startswith("FailedMount: a b\\x1b[2J \\u202ec")
    assert len(printable("x" * 9000)) == 2048


def test_a_queue_that_kueue_itself_gave_a_job_is_asked_and_named() -> None:
    """A LocalQueue `default` holds Jobs whose RLHFJob names no queue."""
    cluster = Cluster(job())
    cluster.sync()
    cluster.reconcile()
    (raw,) = cluster.all("Job")
    raw["spec"]["suspend"] = True
    raw["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "default"
    cluster._touch(raw)
    cluster.sync()
    assert cluster.reconcile().explain == [LiveRead("Workload", raw["metadata"]["name"])]
    assert cluster.stage("prepare")["message"] == "waits in the queue default"


def test_kueues_labels_go_to_the_jobs_and_its_topology_to_their_pods() -> None:
    value = job(pod={"annotations": {"kueue.x-k8s.io/podset-required-topology": "rack"}})
    labels = {"kueue.x-k8s.io/queue-name": "q", "kueue.x-k8s.io/max-exec-time-seconds": "3600"}
    value["metadata"]["labels"] = labels | {"team": "a"}
    cluster = Cluster(value)
    cluster.step()
    (raw,) = cluster.all("Job")
    assert labels.items() <= raw["metadata"]["labels"].items()
    annotations = raw["spec"]["template"]["metadata"]["annotations"]
    assert annotations.pop("rlhf.dev/stage-file")
    assert annotations == {"kueue.x-k8s.io/podset-required-topology": "rack"}


@pytest.mark.parametrize(
    "pod",
    [
        {"annotations": {"kueue.x-k8s.io/pod-group-name": "a"}},
        {"labels": {"kueue.x-k8s.io/podset-required-topology": "a"}},
    ],
)
def test_what_else_kueue_sets_on_pods_is_refused(pod: Raw) -> None:
    with pytest.raises(SpecError, match="is set by the platform"):
        parse_job(job(pod=pod))


@pytest.mark.parametrize("made_for_the_job", [True, False])
def test_a_volume_is_made_in_the_zone_where_all_stages_can_reach_it(made_for_the_job: bool) -> None:
    """With WaitForFirstConsumer it lies where prepare runs, which takes nothing else of the job's placement."""
    template = {"claimTemplate": {"accessModes": ["ReadWriteOnce"], "size": "100Gi"}}
    storage = template if made_for_the_job else {"claimName": "models"}
    zone = {"topology.kubernetes.io/zone": "a"}
    cluster = Cluster(job(storage=storage, pod={"nodeSelector": {**zone, "gpu": "h100"}}))
    cluster.settle()
    selectors = {
        raw["metadata"]["labels"]["rlhf.dev/stage"]: raw["spec"]["template"]["spec"].get("nodeSelector")
        for raw in cluster.asked
        if raw["kind"] == "Job"
    }
    assert selectors["prepare"] == selectors["report"] == (zone if made_for_the_job else None)
    assert selectors["sft"] == {**zone, "gpu": "h100"}
