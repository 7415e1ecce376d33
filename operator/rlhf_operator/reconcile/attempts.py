"""Why an attempt ended, decided from every pod that was seen. First match wins:

1. a pod ended with 2 or 3: wrong input or a guard; another attempt cannot help, but with the checkpoint's ranks;
2. the operator's own intent, or a disruption: an eviction, or a deletion before any pod had failed on its own;
3. a pod that failed on its own, for want of memory among it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from rlhf_api.status import Attempt
from rlhf_operator.reconcile import naming, reasons, times
from rlhf_operator.reconcile.observe import Gang, Pod

WRONG_INPUT, GUARD, STOPPED = 2, 3, 75


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    state: Literal["Failed", "Disrupted", "Stopped"]
    reason: str
    message: str
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    final: bool = False
    """Another attempt cannot help."""


def why(attempt: Attempt, gang: Gang) -> End:
    """Why an attempt ended that did not succeed."""
    for code in (WRONG_INPUT, GUARD):
        told = next((pod for pod in gang.pods if pod.exit_code == code), None)
        if told is not None:
            end = _of(told, reasons.INVALID_INPUT if code == WRONG_INPUT else reasons.GUARD)
            return replace(end, final=end.reason != reasons.WORLD_SIZE_CHANGED)
    refused = _refused(gang)
    if refused is not None:
        return refused
    if attempt.reason in reasons.INTENTS:
        return _intended(attempt, gang)
    disruption = seen_disruption(gang)
    if attempt.reason in reasons.DISRUPTIONS:
        return End("Disrupted", str(attempt.reason), attempt.message or "", attempt.pod, attempt.node, _code(gang))
    if disruption is not None:
        return disruption
    own = own_failures(gang)
    if own:
        return _of(_culprit([*own, *_struck(gang)]), reasons.FAILURE)
    stopped = next((pod for pod in gang.pods if pod.exit_code == STOPPED), None)
    if stopped is not None:
        end = _of(stopped, reasons.STOPPED)
        return replace(end, state="Disrupted", reason=reasons.STOPPED)
    if gang.job is None:
        return End("Disrupted", reasons.JOB_DELETED, "its Job was deleted by someone else")
    return End("Disrupted", reasons.POD_DELETED, "a pod was deleted before it could tell how it ended")


def seen_disruption(gang: Gang) -> End | None:
    """A disruption that shows now; what shows it may be gone when the attempt ends, so it is recorded at once."""
    for pod in gang.pods:
        words = pod.disruption
        if words is not None:
            return End("Disrupted", reasons.EVICTED, naming.cut(words), pod.name, pod.node, pod.exit_code)
    deleted = [(at, pod) for pod in gang.pods if (at := pod.deleted_at) is not None and _after_start(at, gang)]
    if not deleted:
        return None
    first, pod = min(deleted, key=lambda one: (one[0], one[1].index))
    own = [pod.ended_at for pod in own_failures(gang)]
    if any(ended is None or ended <= first for ended in own):
        return None  # an ordinary crash: the Job controller deletes the siblings
    target = gang.condition("FailureTarget") or gang.condition("Failed")
    if target is not None and not own and times.read(target["lastTransitionTime"]) < first:
        return None
    return End("Disrupted", reasons.POD_DELETED, f"pod {pod.name} was deleted", pod.name, pod.node, pod.exit_code)


def _after_start(at: datetime, gang: Gang) -> bool:
    """Pods that Kueue's suspension ended, before the Job was let run again, show no disruption."""
    if gang.job is None or gang.deleted_at is not None:
        return True
    if gang.suspended or gang.condition("Suspended") is not None:
        return False
    return gang.started_at is None or at >= gang.started_at


def own_failures(gang: Gang) -> list[Pod]:
    """Pods that failed while nobody had asked them to end."""
    found = []
    for pod in gang.pods:
        code, ended, asked = pod.exit_code, pod.ended_at, pod.deleted_at
        if pod.phase == "Failed" and code is None and asked is None and pod.disruption is None:
            found.append(pod)  # never got to run: refused by the kubelet
        elif code not in (None, 0, STOPPED) and (asked is None or (ended is not None and ended < asked)):
            found.append(pod)
    return found


def _struck(gang: Gang) -> list[Pod]:
    """Pods that tell of a failure, but ended after they were asked to: the launcher of a killed rank may be slower than
    the peer that lost it, whose end makes the Job controller delete the rest."""
    return [
        pod
        for pod in gang.pods
        if pod.deleted_at is not None
        and pod.exit_code not in (None, 0, STOPPED)
        and pod.said.reason not in ("", reasons.GRACE_EXCEEDED)
    ]


def _culprit(pods: list[Pod]) -> Pod:
    """Who failed first: the others fail of it. A kill comes before what it makes the others raise, whoever ends first;
    Kubernetes' own times are whole seconds, and come last."""

    def blame(pod: Pod) -> tuple[bool, float, str, int]:
        ended = pod.ended_at
        return not pod.out_of_memory, pod.said.raised, "" if ended is None else times.write(ended), pod.index

    return min(pods, key=blame)


def _of(pod: Pod, otherwise: str) -> End:
    said = pod.said
    reason = naming.reason(said.reason, otherwise)
    message = said.message or _in_words(pod)
    if pod.out_of_memory:
        reason, message = reasons.OOM_KILLED, _memory(pod, said.message)
    return End("Failed", reason, naming.cut(message), pod.name, pod.node, pod.exit_code)


def _memory(pod: Pod, said: str) -> str:
    limit = next(
        (
            (one.get("resources") or {}).get("limits", {}).get("memory")
            for one in (pod.raw.get("spec") or {}).get("containers") or ()
            if one.get("name") == "trainer"
        ),
        None,
    )
    bound = f"the limit of {limit}" if limit else "the node's memory (the stage sets no limit)"
    hint = "raise it by runPolicy.overrides, or lower execution.microBatchTokens"
    return f"pod {pod.name} was killed for want of memory: it passed {bound}; {hint}. {said}".strip()


def _in_words(pod: Pod) -> str:
    code = pod.exit_code
    if code is None:
        status = pod.raw.get("status") or {}
        words = [str(word) for word in (status.get("reason"), status.get("message")) if word]
        return ": ".join(words) or "it ended without a word"
    if code > 128:
        return f"killed by signal {code - 128}, and left no message; see its log"
    return f"ended with exit code {code} and left no message; see its log"


def _refused(gang: Gang) -> End | None:
    """Exit 2 or 3 of a pod that is gone: the Job remembers that its policy matched."""
    failed = gang.condition("Failed") or gang.condition("FailureTarget")
    if failed is None or failed.get("reason") != "PodFailurePolicy":
        return None
    message = str(failed.get("message") or "")
    code = GUARD if f"exit code {GUARD} " in message else WRONG_INPUT
    reason = reasons.GUARD if code == GUARD else reasons.INVALID_INPUT
    return End("Failed", reason, naming.cut(message), exit_code=code, final=True)


def _intended(attempt: Attempt, gang: Gang) -> End:
    """The operator's intent; how the pods took it is told beside."""
    lead = next((pod for pod in gang.pods if pod.terminated is not None), None)
    stops = attempt.reason in reasons.STOPS
    return End(
        "Stopped" if stops else "Failed",
        str(attempt.reason),
        attempt.message or "",
        None if lead is None else lead.name,
        None if lead is None else lead.node,
        None if lead is None else lead.exit_code,
        final=attempt.reason == reasons.DEADLINE,
    )


def _code(gang: Gang) -> int | None:
    return next((pod.exit_code for pod in gang.pods if pod.exit_code not in (None, 0)), None)


def last_step(attempt: Attempt, gang: Gang) -> int | None:
    """The last step known: what the pods told at their end, or /progress before."""
    told = [pod.said.step for pod in gang.pods if pod.said.step is not None]
    known = [step for step in (attempt.last_step, *told) if step is not None]
    return max(known, default=None)


def ended_at(gang: Gang, now: datetime) -> str:
    """When the last pod ended; now, where no pod tells."""
    found = [pod.ended_at for pod in gang.pods]
    known = [ended for ended in found if ended is not None]
    return times.write(max(known) if known and len(known) == len(found) else now)
