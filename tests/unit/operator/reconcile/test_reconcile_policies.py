"""Suspension, deadline, TTL, retry, overrides, tenancy, storage, Kueue, pending, progress."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from fakes.cluster_model import SETTINGS, START, Cluster, Raw, job
from rlhf_api.status import JobStatus
from rlhf_operator.reconcile import LiveRead, Sample, Settings

Ends = Callable[[Raw], int | None]


def hold(*stages: str) -> Ends:
    """Everything ends well, but pods of these stages run on."""
    return lambda pod: None if pod["metadata"]["labels"]["rlhf.dev/stage"] in stages else 0


def fail(stage: str, code: int) -> Ends:
    return lambda pod: code if pod["metadata"]["labels"]["rlhf.dev/stage"] == stage else 0


def attempts(cluster: Cluster, stage: str) -> list[tuple[str, str]]:
    return [(attempt["state"], attempt.get("reason", "")) for attempt in cluster.stage(stage)["attempts"]]


def settings(**changes: Any) -> Settings:
    return Settings.model_validate(SETTINGS.model_dump(mode="json", exclude_defaults=True) | changes)


def queued() -> Cluster:
    value = job()
    value["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "low"}
    return Cluster(value)


def jobs_of(cluster: Cluster, stage: str) -> list[Raw]:
    return [raw for raw in cluster.all("Job") if raw["metadata"]["labels"]["rlhf.dev/stage"] == stage]


# Suspension


def test_suspend_stops_with_a_checkpoint_and_resume_is_an_uncounted_attempt() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("sft"))
    cluster.edit(suspend=True)
    cluster.settle(hold("sft"))
    assert cluster.condition("Suspended") == "True:Suspended"
    assert (cluster.status["phase"], cluster.stage("sft")["state"]) == ("Suspended", "Suspended")
    assert jobs_of(cluster, "sft") == []
    cluster.edit(suspend=False)
    cluster.settle()
    assert attempts(cluster, "sft") == [("Stopped", "Suspended"), ("Complete", "Complete")]
    assert cluster.stage("sft")["restarts"] == 0
    assert cluster.condition("Suspended") == "False:NotSuspended"
    assert cluster.status["phase"] == "Complete"


def test_a_job_made_suspended_makes_nothing_until_it_is_resumed() -> None:
    cluster = Cluster(job(suspend=True))
    cluster.settle()
    assert (cluster.ever, cluster.condition("Suspended")) == (set(), "True:Suspended")
    assert "image" not in cluster.status
    cluster.edit(suspend=False)
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


def test_a_stage_that_ends_while_it_is_being_suspended_is_complete() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("sft"))
    cluster.edit(suspend=True)
    cluster.end_pod(cluster.pods()[-1]["metadata"]["name"], 0)
    cluster.control(jobs_of(cluster, "sft")[0]["metadata"]["name"])
    cluster.settle()
    assert cluster.stage("sft")["state"] == "Complete"
    assert cluster.stage("reward")["state"] == "Waiting"


# The deadline


def test_the_deadline_counts_active_time_only_and_fails_the_job() -> None:
    cluster = Cluster(job(activeDeadlineSeconds=100))
    cluster.step()
    cluster.step()
    cluster.edit(suspend=True)
    cluster.settle()
    active = cluster.status["activeSeconds"]
    cluster.now += timedelta(hours=5)
    cluster.edit(suspend=False)
    cluster.settle(lambda pod: 0 if pod["metadata"]["labels"]["rlhf.dev/stage"] in ("prepare", "report") else None)
    assert active < 10
    assert cluster.condition("Failed") == "True:DeadlineExceeded"
    assert attempts(cluster, "sft") == [("Failed", "DeadlineExceeded")]
    assert cluster.stage("report")["state"] == "Complete"


def test_a_job_that_is_refused_is_not_active() -> None:
    cluster = Cluster(job(activeDeadlineSeconds=600))
    cluster.refuses = "exceeded quota"
    for _ in range(100):
        cluster.sync()
        cluster.reconcile()
        cluster.now += timedelta(seconds=60)
    assert cluster.status["phase"] == "Pending"
    assert cluster.status["activeSeconds"] <= 60
    cluster.refuses = None
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


# The TTL


def test_the_ttl_deletes_the_children_and_leaves_the_job() -> None:
    cluster = Cluster(job(ttlSecondsAfterFinished=600))
    cluster.settle()
    assert [cluster.all(kind) for kind in ("Service", "Pod", "Job")] == [[], [], []]
    assert cluster.status["phase"] == "Complete"
    assert cluster.now > START + timedelta(seconds=600)


def test_a_finished_jobs_deleted_child_is_never_made_again() -> None:
    cluster = Cluster(job())
    cluster.settle()
    cluster.delete("Job", cluster.all("Job")[0]["metadata"]["name"])
    cluster.writes.clear()
    cluster.settle()
    assert cluster.writes == []


def test_a_job_that_an_earlier_operator_called_succeeded_is_left_as_it_is() -> None:
    cluster = Cluster(job())
    cluster.settle()
    cluster.job["status"]["phase"] = "Succeeded"
    JobStatus.model_validate(cluster.status)
    cluster.writes.clear()
    cluster.settle()
    assert cluster.writes == []


def test_the_job_itself_goes_only_if_that_is_asked_for() -> None:
    cluster = Cluster(job(ttlSecondsAfterFinished=0, runPolicy={"deleteAfterFinished": True}))
    cluster.settle()
    assert ("RLHFJob", "beaver") not in cluster.objects


# Retry


def test_retry_starts_a_failed_job_again_from_its_failed_stage() -> None:
    cluster = Cluster(job())
    cluster.settle(fail("reward", 2))
    assert cluster.status["phase"] == "Failed"
    cluster.job["metadata"]["annotations"] = {"rlhf.dev/retry": "1"}
    cluster.settle()
    assert cluster.status["phase"] == "Complete"
    assert [state for state, _ in attempts(cluster, "sft")] == ["Complete"]
    assert [state for state, _ in attempts(cluster, "reward")] == ["Failed", "Complete"]
    assert cluster.condition("Failed") == "False:NotFinished"
    assert cluster.stage("report")["attempts"][-1]["number"] == 1


def test_the_same_value_is_acted_on_once_and_one_from_before_the_failure_does_nothing() -> None:
    value = job()
    value["metadata"]["annotations"] = {"rlhf.dev/retry": "old"}
    cluster = Cluster(value)
    cluster.settle(fail("reward", 2))
    assert cluster.status["phase"] == "Failed"
    assert len(attempts(cluster, "reward")) == 1


# Overrides


def test_an_override_changes_the_attempts_to_come() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("sft"))
    cluster.edit(runPolicy={"overrides": [{"stage": "sft", "resources": {"limits": {"memory": "9Gi"}}}]})
    cluster.settle(hold("sft"))
    assert len(attempts(cluster, "sft")) == 1
    cluster.end_pod(cluster.pods()[-1]["metadata"]["name"], 1)
    cluster.settle(hold("sft"))
    container = jobs_of(cluster, "sft")[-1]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {"limits": {"memory": "9Gi"}}


def test_another_number_of_ranks_is_refused_once_there_is_a_checkpoint() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("sft"))
    cluster.edit(runPolicy={"overrides": [{"stage": "sft", "nodes": 2}]})
    cluster.end_pod(cluster.pods()[-1]["metadata"]["name"], 1)
    cluster.settle()
    assert cluster.condition("Stalled") == "True:InvalidOverride"
    message = cluster.stage("sft")["message"]
    assert message.startswith("spec.runPolicy.overrides[0].nodes: sft has a checkpoint of 1 ranks; found 2")
    cluster.edit(runPolicy={})
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


# Tenancy


@pytest.mark.parametrize(
    ("limits", "path"),
    [
        ({"profiles": ["cpu-*"]}, "spec.profile: this namespace may not use the profile pair"),
        ({"claims": ["models"]}, "spec.inputs[1].source: this namespace may not use the claim data"),
        ({"secrets": []}, "spec.credentials.secretName: this namespace may not use the Secret token"),
        ({"serviceAccounts": ["a"]}, "spec.pod.serviceAccountName: this namespace may not use the service account b"),
    ],
)
def test_what_a_namespace_may_not_name_is_refused_with_its_path(limits: Raw, path: str) -> None:
    value = job(profile="pair", credentials={"secretName": "token"}, pod={"serviceAccountName": "b"})
    cluster = Cluster(value, settings(namespaces={"team": limits}))
    cluster.settle()
    assert cluster.condition("Stalled") == "True:Forbidden"
    assert path in str(cluster.status["conditions"])
    assert cluster.ever == set()


def test_another_namespaces_limits_do_not_count() -> None:
    cluster = Cluster(job(), settings(namespaces={"other": {"profiles": []}}))
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


# Storage


def test_a_read_write_once_claim_means_one_stage_at_a_time() -> None:
    cluster = Cluster(job())
    cluster.objects["PersistentVolumeClaim", "models"] = {"spec": {"accessModes": ["ReadWriteOnce"]}}
    cluster.settle(hold("reward", "cost"))
    assert cluster.stage("reward")["state"] == "Running"
    assert cluster.stage("cost")["state"] == "Waiting"
    assert cluster.stage("cost")["reason"] == "StorageTaken"
    cluster.settle()
    assert cluster.status["phase"] == "Complete"


def test_a_claim_made_from_a_template_outlives_the_job_unless_told_otherwise() -> None:
    for delete_with_job, owners in ((False, 0), (True, 1)):
        template = {"accessModes": ["ReadWriteMany"], "size": "1Gi", "deleteWithJob": delete_with_job}
        cluster = Cluster(job(storage={"claimTemplate": template}))
        cluster.settle()
        claim = cluster.objects["PersistentVolumeClaim", "beaver-storage"]
        assert len(claim["metadata"].get("ownerReferences", [])) == owners
        assert cluster.status["phase"] == "Complete"


# Kueue


def test_jobs_with_a_queue_are_made_suspended_and_wait_in_it() -> None:
    cluster = queued()
    cluster.settle()
    raw = cluster.all("Job")[0]
    assert raw["spec"]["suspend"] is True
    assert raw["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert raw["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    assert cluster.stage("prepare")["state"] == "Queued"
    assert cluster.writes.count("status") == 1
    assert cluster.condition("Reconciling") == "True:Accepted"
    assert "activeSince" not in cluster.status


def test_the_queues_own_words_are_told() -> None:
    cluster = queued()
    cluster.settle()
    name = cluster.all("Job")[0]["metadata"]["name"]
    cluster.explanations = {LiveRead("Workload", name): "couldn't assign flavors: insufficient quota for cpu"}
    cluster.settle()
    assert cluster.stage("prepare")["message"] == "couldn't assign flavors: insufficient quota for cpu"


def test_a_preempted_job_stays_and_goes_on_as_the_same_attempt() -> None:
    cluster = queued()
    cluster.settle()
    raw = cluster.all("Job")[0]
    raw["spec"]["suspend"] = False
    cluster.settle(hold("prepare"))
    assert cluster.stage("prepare")["state"] == "Running"
    cluster.now += timedelta(minutes=1)
    raw["spec"]["suspend"] = True
    cluster.settle(hold("prepare"))
    assert (cluster.stage("prepare")["state"], cluster.stage("prepare")["reason"]) == ("Queued", "Preempted")
    assert "Preempted" in cluster.events
    assert "activeSince" not in cluster.status
    raw["spec"]["suspend"] = False
    cluster.settle()
    assert attempts(cluster, "prepare") == [("Complete", "Complete")]


# Pending


def test_the_schedulers_own_words_are_told() -> None:
    cluster = Cluster(job())
    cluster.sync()
    cluster.reconcile()
    cluster.control(cluster.all("Job")[0]["metadata"]["name"])
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    cluster.pods()[0]["status"]["conditions"] = [condition]
    cluster.sync()
    cluster.reconcile()
    assert cluster.stage("prepare")["reason"] == "Unschedulable"
    assert words in cluster.stage("prepare")["message"]


def test_a_job_without_pods_is_explained_by_the_job_controllers_words() -> None:
    cluster = Cluster(job())
    cluster.sync()
    cluster.reconcile()
    name = cluster.all("Job")[0]["metadata"]["name"]
    cluster.now += timedelta(seconds=20)
    cluster.sync()
    assert cluster.reconcile().explain == [LiveRead("Events", name)]
    cluster.explanations = {LiveRead("Events", name): 'pods "x" is forbidden: exceeded quota: team'}
    cluster.reconcile()
    assert cluster.stage("prepare")["reason"] == "NoPods"
    assert "exceeded quota" in cluster.stage("prepare")["message"]


def test_a_gang_that_is_pending_for_too_long_fails_its_attempt() -> None:
    cluster = Cluster(job(runPolicy={"pendingTimeout": 60, "maxRestarts": 0}))
    cluster.sync()
    for _ in range(30):
        cluster.sync()
        cluster.reconcile()
        for raw in cluster.all("Job"):
            cluster.control(raw["metadata"]["name"])
        for pod in cluster.pods():
            if "deletionTimestamp" in pod["metadata"]:
                cluster.end_pod(pod["metadata"]["name"], 137, message="")
        cluster.now += timedelta(seconds=5)
    assert attempts(cluster, "prepare") == [("Failed", "PendingTimeout")]
    assert "within pendingTimeout (60 s)" in cluster.stage("prepare")["message"]


# Progress


def test_progress_is_shown_and_steps_that_were_lost_are_counted() -> None:
    cluster = Cluster(job())
    cluster.settle(hold("sft"))
    cluster.samples = {"sft": Sample("sft", 0, 40, 100, eta_seconds=300.0)}
    cluster.settle(hold("sft"))
    assert cluster.status["progress"] == "1/5 stages, 40/100 5m left"
    assert cluster.stage("sft")["progress"]["step"] == 40
    cluster.end_pod(cluster.pods()[-1]["metadata"]["name"], 1, message='{"step": 47, "reason": "Crashed"}')
    cluster.settle(hold("sft"))
    cluster.samples = {"sft": Sample("sft", 1, 0, 0)}  # it loads its model
    cluster.settle(hold("sft"))
    assert "lostSteps" not in cluster.stage("sft")["attempts"][0]
    cluster.samples = {"sft": Sample("sft", 1, 44, 100, begun=41)}  # fast: it is asked now and then
    cluster.settle(hold("sft"))
    assert cluster.stage("sft")["attempts"][0]["lostSteps"] == 6


def test_a_sample_of_an_earlier_attempt_changes_nothing() -> None:
    cluster = Cluster(job())
    cluster.samples = {"prepare": Sample("prepare", 7, 40, 100)}
    cluster.settle(hold("prepare"))
    assert "progress" not in cluster.stage("prepare")


def test_a_gang_without_a_step_is_restarted() -> None:
    cluster = Cluster(job(runPolicy={"stuckTimeout": 600}))
    cluster.settle(hold("sft"))
    cluster.samples = {"sft": Sample("sft", 0, 40, 100, still=598.0)}
    cluster.sync()
    cluster.reconcile()
    assert len(attempts(cluster, "sft")) == 1
    assert cluster.requeue == 2.0, "it answers no more, and nobody would look"
    cluster.samples = {"sft": Sample("sft", 0, 40, 100, still=601.0)}
    cluster.settle(hold("sft"))
    assert attempts(cluster, "sft")[0] == ("Failed", "Stuck")
    assert cluster.stage("sft")["restarts"] == 1
    assert len(attempts(cluster, "sft")) == 2
