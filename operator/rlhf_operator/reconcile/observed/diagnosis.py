"""Why an attempt ended, decided from every pod that was seen, by the table of `rlhf_api.faults`.

Order and durations are those of the control plane (the Job's conditions, deletion timestamps): every node has a clock of
its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from rlhf_api import faults
from rlhf_api.contract import GUARD, STOPPED, WRONG_INPUT
from rlhf_api.faults import Fault
from rlhf_api.lifecycle import AttemptResult, describe_exit, reason_of
from rlhf_api.status import Attempt
from rlhf_operator.reconcile import naming, reasons, times
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.observed.pods import CONTAINER, Pod

SHARED_MEMORY = "rlhf-shm"
"""The volume behind /dev/shm."""


@dataclass(frozen=True)
class Diagnosis:
    """How an attempt ended."""

    state: Literal["Failed", "Disrupted", "Stopped"]
    reason: str
    message: str
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    final: bool = False
    """Another attempt cannot help."""

    @property
    def result(self) -> AttemptResult:
        """For the lifecycle, which knows of no pods."""
        return AttemptResult(self.state, self.reason, self.message, self.exit_code, self.final)


def diagnose(attempt: Attempt, gang: AttemptPods) -> Diagnosis:
    """Why an attempt ended that did not succeed."""
    for code, fault in ((WRONG_INPUT, faults.WRONG_INPUT), (GUARD, faults.GUARD)):
        failed_pod = next((pod for pod in gang.pods if pod.exit_code == code), None)
        if failed_pod is not None:
            end = _of(failed_pod, fault)
            return replace(end, final=end.reason != faults.WORLD_SIZE.reason)
    refused = _refused(gang)
    if refused is not None:
        return refused
    if attempt.reason in reasons.INTENTS:
        return _intended(attempt, gang)
    if attempt.reason in reasons.DISRUPTIONS:
        return Diagnosis(
            "Disrupted", str(attempt.reason), attempt.message or "", attempt.pod, attempt.node, _code(gang)
        )
    disruption = seen_disruption(gang)
    if disruption is not None:
        return disruption
    failures = own_failures(gang)
    if failures:
        return _of(root_cause([*failures, *cascaded_failures(gang)]), faults.FAILURE)
    sidecar = next((pod for pod in gang.pods if pod.failed_sidecar is not None), None)
    if sidecar is not None:
        return _platform(faults.SIDECAR_FAILED, sidecar, sidecar.failed_sidecar or "")
    stopped = next((pod for pod in gang.pods if pod.exit_code == STOPPED), None)
    if stopped is not None:
        return replace(_of(stopped, faults.STOPPED), state="Disrupted", reason=faults.STOPPED.reason)
    if gang.job is None:
        return Diagnosis("Disrupted", faults.JOB_DELETED.reason, "its Job was deleted by someone else")
    return Diagnosis("Disrupted", faults.POD_DELETED.reason, "a pod was deleted before it could tell how it ended")


def seen_disruption(gang: AttemptPods) -> Diagnosis | None:
    """What the platform did to the attempt, as far as it shows now; what shows it may be gone when the attempt ends, so
    it is recorded at once."""
    failed, failures = gang.failed_at, own_failures(gang)
    for pod in gang.pods:
        if not _tells(pod, gang):
            continue
        signs = (
            (faults.EVICTED, pod.disruption),
            (faults.NOT_ADMITTED, pod.not_admitted),
            (faults.START_ERROR, pod.not_started),
            (faults.INIT_FAILED, pod.failed_init),
            (faults.CONTAINER_LOST, pod.container_lost),
        )
        for fault, words in signs:
            if words is not None:
                return _platform(fault, pod, words)
    deleted = [(at, pod) for pod in gang.pods if (at := pod.deleted_at) is not None and _after_start(at, gang)]
    if not deleted:
        return None
    first, pod = min(deleted, key=lambda deletion: (deletion[0], deletion[1].index))
    if failed is None and failures and gang.deleted_at is None:
        return None  # the Job controller deletes the siblings of a crashed pod before it says so: it will say when
    if failed is not None and (failed < first or (failed == first and failures)):
        return None  # an ordinary crash: the Job controller deleted the siblings
    return _platform(faults.POD_DELETED, pod, f"pod {pod.name} was deleted")


def _tells(pod: Pod, gang: AttemptPods) -> bool:
    """Whether a pod's end can show what the platform did: not where the Job controller had it deleted, because another
    had failed before, or because the Job was suspended. Its kubelet may then say that it lost the container."""
    deleted = pod.deleted_at
    if deleted is None or gang.deleted_at is not None:
        return True
    if gang.failed_at is None:
        return _after_start(deleted, gang) and (not own_failures(gang) or pod.disruption is not None)
    return _after_start(deleted, gang) and deleted < gang.failed_at


def _platform(fault: Fault, pod: Pod, words: str) -> Diagnosis:
    return Diagnosis(fault.then, fault.reason, naming.cut(words), pod.name, pod.node, pod.exit_code)


def _after_start(at: datetime, gang: AttemptPods) -> bool:
    """Pods that Kueue's suspension ended, before the Job was let run again, show no disruption."""
    if gang.job is None or gang.deleted_at is not None:
        return True
    if gang.suspended or gang.condition("Suspended") is not None:
        return False
    return gang.started_at is None or at >= gang.started_at


def own_failures(gang: AttemptPods) -> list[Pod]:
    """Pods that failed while nobody had asked them to end."""
    return [
        pod
        for pod in gang.pods
        if pod.deleted_at is None and (pod.own_limit is not None or pod.exit_code not in (None, 0, STOPPED))
    ]


def cascaded_failures(gang: AttemptPods) -> list[Pod]:
    """Pods that tell of a failure, but ended after they were asked to: the launcher of a killed rank may be slower than
    the peer that lost it, whose end makes the Job controller delete the rest."""
    return [
        pod
        for pod in gang.pods
        if pod.deleted_at is not None
        and pod.exit_code not in (None, 0, STOPPED)
        and pod.summary.reason not in ("", reasons.GRACE_EXCEEDED)
    ]


def root_cause(pods: list[Pod]) -> Pod:
    """Who failed first: the others fail of it. A kill comes before what it makes the others raise, whoever ends first."""
    return min(pods, key=lambda pod: (not pod.out_of_memory, pod.summary.raised, pod.index))


def _of(pod: Pod, fault: Fault) -> Diagnosis:
    summary = pod.summary
    reason = naming.reason(summary.reason, reason_of(pod.exit_code or 0) if fault is faults.FAILURE else fault.reason)
    message = summary.message or describe_exit(pod.exit_code or 0)
    if pod.out_of_memory:
        reason, message = faults.OUT_OF_MEMORY.reason, _memory(pod, summary.message)
    if pod.own_limit is not None:
        reason, message = faults.OWN_LIMIT.reason, _limit(pod.own_limit)
    return Diagnosis("Failed", reason, naming.cut(message), pod.name, pod.node, pod.exit_code)


def _memory(pod: Pod, detail: str) -> str:
    limit = next(
        (
            (container.get("resources") or {}).get("limits", {}).get("memory")
            for container in (pod.raw.get("spec") or {}).get("containers") or ()
            if container.get("name") == CONTAINER
        ),
        None,
    )
    bound = f"the limit of {limit}" if limit else "the node's memory (the stage sets no limit)"
    hint = "raise it by runPolicy.overrides, or lower execution.microBatchTokens"
    return f"pod {pod.name} was killed for want of memory: it passed {bound}; {hint}. {detail}".strip()


def _limit(words: str) -> str:
    """A limit that a pod passed, and which field raises it."""
    if f'"{SHARED_MEMORY}"' in words:
        return f"{words}: that is /dev/shm; raise the profile's sharedMemory"
    if "EmptyDir" in words:
        return f"{words}; raise the volume's sizeLimit by runPolicy.overrides[].pod.volumes"
    return f"{words}; raise the limit of ephemeral-storage by runPolicy.overrides[].resources"


def _refused(gang: AttemptPods) -> Diagnosis | None:
    """Exit 2 or 3 of a pod that is gone: the Job remembers that its policy matched."""
    failed = gang.condition("Failed") or gang.condition("FailureTarget")
    if failed is None or failed.get("reason") != "PodFailurePolicy":
        return None
    message = str(failed.get("message") or "")
    code, fault = (GUARD, faults.GUARD) if f"exit code {GUARD} " in message else (WRONG_INPUT, faults.WRONG_INPUT)
    return Diagnosis(fault.then, fault.reason, naming.cut(message), exit_code=code, final=fault.final)


def _intended(attempt: Attempt, gang: AttemptPods) -> Diagnosis:
    """The operator's intent; how the pods took it is told beside."""
    lead = next((pod for pod in gang.pods if pod.terminated is not None), None)
    stops = attempt.reason in reasons.STOPS
    return Diagnosis(
        "Stopped" if stops else "Failed",
        str(attempt.reason),
        attempt.message or "",
        None if lead is None else lead.name,
        None if lead is None else lead.node,
        None if lead is None else lead.exit_code,
        final=attempt.reason == reasons.DEADLINE,
    )


def _code(gang: AttemptPods) -> int | None:
    return next((pod.exit_code for pod in gang.pods if pod.exit_code not in (None, 0)), None)


def last_step(attempt: Attempt, gang: AttemptPods) -> int | None:
    """The last step known: what the pods told at their end, or /progress before."""
    reported = [pod.summary.step for pod in gang.pods if pod.summary.step is not None]
    steps = [step for step in (attempt.last_step, *reported) if step is not None]
    return max(steps, default=None)


def ended_at(gang: AttemptPods, now: datetime) -> str:
    """When it ended, as the control plane wrote it; now, where it did not. Never later: a restart waits from then on."""
    return times.write(now if gang.ended_at is None else min(gang.ended_at, now))
