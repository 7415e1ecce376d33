"""The health checks of docs/health over every status that the operator writes: recorded from its own reconcile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from health_checks import HEALTH, Argo, Flux

from fakes.cluster_model import SETTINGS, Cluster, Killed, Raw, job
from rlhf_api.status import Condition, JobStatus
from rlhf_operator.reconcile import Settings

ARGO, STARTED, COMPLETE = Argo(), Flux("flux.yaml"), Flux("flux-complete.yaml")
CHART = HEALTH.parents[1] / "charts" / "rlhf-operator" / "files" / "health"
Ends = Callable[[Raw], int | None]


class Recorded(Cluster):
    """Keeps the job as it was after every reconcile."""

    def __init__(self, rlhfjob: Raw, settings: Settings = SETTINGS) -> None:
        self.seen: list[Raw] = []
        super().__init__(rlhfjob, settings)
        self.seen.append(copy.deepcopy(self.job))

    def reconcile(self) -> Any:
        if ("RLHFJob", self.name) not in self.objects:
            return super().reconcile()
        out = super().reconcile()
        self.seen.append(copy.deepcopy(self.job))
        return out


def stage_of(pod: Raw) -> str:
    return str(pod["metadata"]["labels"]["rlhf.dev/stage"])


def ends(**codes: int | None) -> Ends:
    """Pods of these stages end so, or (None) run on; all others end well."""
    return lambda pod: codes.get(stage_of(pod), 0)


WELL = ends()


def settled(cluster: Recorded, how: Ends = WELL) -> Recorded:
    cluster.settle(how)
    return cluster


def not_seen() -> Recorded:
    return Recorded(job())


def accepted() -> Recorded:
    cluster = Recorded(job())
    cluster.reconcile()
    return cluster


def preparing() -> Recorded:
    return settled(Recorded(job()), ends(prepare=None))


def running() -> Recorded:
    return settled(Recorded(job()), ends(sft=None))


def edited_and_not_seen() -> Recorded:
    cluster = running()
    cluster.edit(activeDeadlineSeconds=100_000)
    return cluster


def queued() -> Recorded:
    value = job()
    value["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a"}
    return settled(Recorded(value))


def being_suspended() -> Recorded:
    cluster = running()
    cluster.edit(suspend=True)
    cluster.sync()
    cluster.reconcile()
    return cluster


def suspended() -> Recorded:
    return settled(being_suspended())


def resumed() -> Recorded:
    cluster = suspended()
    cluster.edit(suspend=False)
    return settled(cluster, ends(sft=None))


def invalid_spec() -> Recorded:
    value = job()
    value["spec"]["stages"][1]["rewardModel"]["model"] = {"stage": "nowhere"}
    return settled(Recorded(value))


def no_such_profile() -> Recorded:
    return settled(Recorded(job(profile="h100x8")))


def forbidden() -> Recorded:
    limits = SETTINGS.model_dump(mode="json", exclude_defaults=True) | {"tenancy": {"claims": []}}
    return settled(Recorded(job(), Settings.model_validate(limits)))


def refused_override() -> Recorded:
    cluster = running()
    cluster.edit(runPolicy={"overrides": [{"stage": "sft", "nodes": 2}]})
    cluster.end_pod(cluster.pods()[-1]["metadata"]["name"], 1)
    return settled(cluster)


def unknown_plan() -> Recorded:
    cluster = running()
    cluster.job["status"]["planVersion"] = "0"
    return settled(cluster)


def winding_up() -> Recorded:
    return settled(Recorded(job()), ends(reward=2, report=None))


def failed() -> Recorded:
    return settled(Recorded(job()), ends(reward=2))


def failed_for_good() -> Recorded:
    return settled(Recorded(job(runPolicy={"maxRestarts": 1})), ends(sft=1))


def with_a_gate() -> Raw:
    value = job()
    value["spec"]["stages"].append(
        {
            "name": "evaluate",
            "evaluate": {
                "candidates": [{"stage": "sft"}],
                "baseline": {"input": "base"},
                "prompts": [{"input": "rows"}],
                "costs": [{"stage": "cost"}],
                "gates": [{"metric": "cost.cost", "max": 0}],
            },
        }
    )
    return value


def gate_failed() -> Recorded:
    cluster = Recorded(with_a_gate())
    cluster.settle(ends(evaluate=None))
    (pod,) = [pod for pod in cluster.pods() if stage_of(pod) == "evaluate"]
    cluster.end_pod(pod["metadata"]["name"], 3, message='{"code": 3, "reason": "GateFailed", "message": "cost.cost"}')
    return settled(cluster)


def past_its_deadline() -> Recorded:
    return settled(Recorded(job(activeDeadlineSeconds=100)), ends(sft=None))


def report_failed() -> Recorded:
    return settled(Recorded(job()), ends(report=2))


def retried() -> Recorded:
    cluster = failed()
    cluster.job["metadata"]["annotations"] = {"rlhf.dev/retry": "1"}
    return settled(cluster, ends(reward=None))


def complete() -> Recorded:
    return settled(Recorded(job(ttlSecondsAfterFinished=60)))


def complete_and_edited() -> Recorded:
    cluster = complete()
    cluster.edit(ttlSecondsAfterFinished=None)
    return settled(cluster)


EXPECTED: dict[Callable[[], Recorded], tuple[str, str, str, str]] = {
    # Argo CD, words of its message, Flux, Flux that waits for the end
    not_seen: ("Progressing", "has not seen it", "Unknown", "Unknown"),
    accepted: ("Progressing", "prepare: 0/5 stages", "InProgress", "InProgress"),
    preparing: ("Progressing", "prepare: 0/5 stages", "Current", "InProgress"),
    queued: ("Progressing", "prepare: 0/5 stages", "InProgress", "InProgress"),
    running: ("Progressing", "sft: 1/5 stages", "Current", "InProgress"),
    edited_and_not_seen: ("Progressing", "has not seen this change", "InProgress", "InProgress"),
    being_suspended: ("Progressing", "sft: 1/5 stages", "Current", "InProgress"),
    suspended: ("Suspended", "Suspended: spec.suspend is true", "Current", "InProgress"),
    resumed: ("Progressing", "sft: 1/5 stages", "Current", "InProgress"),
    invalid_spec: ("Degraded", "InvalidSpec: spec.stages[1].rewardModel.model.stage", "Failed", "Failed"),
    no_such_profile: ("Degraded", "InvalidSpec: spec.profile", "Failed", "Failed"),
    forbidden: ("Degraded", "Forbidden: spec.storage.claimName", "Failed", "Failed"),
    refused_override: ("Degraded", "InvalidOverride: spec.runPolicy.overrides[0].nodes", "Failed", "Failed"),
    unknown_plan: ("Degraded", "UnknownPlanVersion: began with plan version 0", "Failed", "Failed"),
    winding_up: ("Progressing", "report: 3/5 stages", "InProgress", "InProgress"),
    failed: ("Degraded", "InvalidInput: reward: ended with 2", "Failed", "Failed"),
    failed_for_good: ("Degraded", "Crashed: sft: ended with 1", "Failed", "Failed"),
    gate_failed: ("Degraded", "GateFailed: evaluate: cost.cost", "Failed", "Failed"),
    past_its_deadline: ("Degraded", "DeadlineExceeded: sft: activeDeadlineSeconds", "Failed", "Failed"),
    report_failed: ("Degraded", "InvalidInput: report: ended with 2", "Failed", "Failed"),
    retried: ("Progressing", "reward: ", "Current", "InProgress"),
    complete: ("Healthy", "Complete: every stage is complete", "Current", "Current"),
    complete_and_edited: ("Healthy", "Complete: every stage is complete", "Current", "Current"),
}


@pytest.mark.parametrize("scene", EXPECTED, ids=lambda scene: scene.__name__)
def test_health_of_a_job_that_is(scene: Callable[[], Recorded]) -> None:
    argo, words, started, completed = EXPECTED[scene]
    resource = scene().job
    status, message = ARGO.health(resource)
    assert (status, STARTED.health(resource), COMPLETE.health(resource)) == (argo, started, completed)
    assert words in message


@pytest.fixture(scope="module")
def recorded() -> list[Raw]:
    """The job after every reconcile of every scene, and of an operator killed after each of its first writes."""
    snapshots = [snapshot for scene in EXPECTED for snapshot in scene().seen]
    for kill in range(8):
        cluster = Recorded(job())
        cluster.kill_after = kill
        with pytest.raises(Killed):
            cluster.settle()
        cluster.kill_after = None
        snapshots += settled(cluster).seen
    return snapshots


def test_every_phase_and_every_state_of_every_condition_was_recorded(recorded: list[Raw]) -> None:
    statuses = [snapshot["status"] for snapshot in recorded if "status" in snapshot]
    phases = set(get_args(get_args(JobStatus.model_fields["phase"].annotation)[0]))
    assert {status["phase"] for status in statuses} == phases - {"Succeeded"}  # as an earlier operator called Complete
    kinds = ("Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended")
    states = {(condition["type"], condition["status"]) for status in statuses for condition in status["conditions"]}
    assert states == {(kind, truth) for kind in kinds for truth in ("True", "False")}
    assert set(get_args(Condition.model_fields["status"].annotation)) - {"Unknown"} == {"True", "False"}


def test_on_every_recorded_status_argo_and_flux_agree(recorded: list[Raw]) -> None:
    for snapshot in recorded:
        phase = snapshot.get("status", {}).get("phase")
        argo, message = ARGO.health(snapshot)
        started, completed = STARTED.health(snapshot), COMPLETE.health(snapshot)
        assert message.strip(": "), snapshot["status"]
        assert (argo == "Degraded") == (started == "Failed") == (completed == "Failed"), snapshot["status"]
        assert (argo == "Healthy") == (completed == "Current"), snapshot["status"]
        observed = snapshot["metadata"]["generation"] == snapshot.get("status", {}).get("observedGeneration")
        assert (argo == "Healthy") == (phase == "Complete" and observed)
        assert (argo == "Suspended") == (phase == "Suspended" and observed)
        if phase in ("Failed", "Invalid"):
            assert (argo == "Degraded") == observed
        if argo in ("Healthy", "Suspended"):
            assert started == "Current"


@pytest.mark.parametrize("name", ["argocd.lua", "flux.yaml"])
def test_the_chart_tells_the_same_checks_as_the_documents(name: str) -> None:
    assert (CHART / name).read_bytes() == (HEALTH / name).read_bytes()


def test_the_manual_shows_where_they_go() -> None:
    manual = (Path(HEALTH).parent / "gitops.md").read_text()
    for name in ("health/argocd.lua", "health/flux.yaml", "health/flux-complete.yaml"):
        assert f"]({name})" in manual
    assert "resource.customizations.health.rlhf.dev_RLHFJob" in manual
