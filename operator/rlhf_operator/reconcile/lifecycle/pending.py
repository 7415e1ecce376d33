"""Why an attempt does not run yet, in the words of whoever holds it up; and how long that may last."""

from __future__ import annotations

from datetime import datetime, timedelta

from rlhf_api.plan import PlannedStage
from rlhf_api.status import Attempt
from rlhf_operator.reconcile import naming, reasons, times
from rlhf_operator.reconcile.objects.assembly import queue_message
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.observed.pods import WAITS_FOR_OTHERS, Pod
from rlhf_operator.reconcile.outcome import LiveRead
from rlhf_operator.reconcile.run import ReconcileContext

BRIEF = timedelta(seconds=2)
"""A gang that ends sooner is never shown as running. Kubernetes tells whole seconds."""


def queued(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> None:
    """Someone else holds the Job: Kueue's queue, before it begins or again. It stays, and nothing is made."""
    name = run.child(planned.name, attempt.number)
    preempted = attempt.state == "Running" or attempt.reason == reasons.PREEMPTED
    reason = reasons.PREEMPTED if preempted else reasons.QUEUED
    queue = run.labels.get(naming.QUEUE) or gang.queue  # Kueue gives one to Jobs without, where it has a default
    words = run.explanation(LiveRead("Workload", name, gang.uid)) if queue and run.settings.kueue else None
    if attempt.state == "Running":
        run.tell(
            reasons.PREEMPTED, f"{planned.name}: attempt {attempt.number} was suspended; it will go on", warning=True
        )
    previous = run.stages[planned.name].message if run.stages[planned.name].state == "Queued" else None
    run.change_attempt(planned.name, state="Pending", reason=reason)
    message = naming.cut(words or previous or queue_message(run, queue))
    run.change(planned.name, state="Queued", reason=reason, message=message, progress=None)


def refused(run: ReconcileContext, planned: PlannedStage) -> None:
    """Say why its objects could not be made: a quota, an admission policy, a field of the spec that is wrong."""
    words = run.children.refusal
    if words is not None:
        run.stalled = run.stalled or (reasons.CREATE_FAILED, naming.cut(words))
        run.change(planned.name, state="Pending", reason=reasons.CREATE_FAILED, message=naming.cut(words))


def starting(run: ReconcileContext, planned: PlannedStage, gang: AttemptPods) -> bool:
    """Whether the whole gang runs; else say why it does not, and for how long it may not."""
    attempt = run.stages[planned.name].attempts[-1]
    up = [pod for pod in gang.pods if pod.phase in ("Running", "Succeeded", "Failed")]
    if attempt.state == "Running" or len(up) >= gang.nodes:
        if attempt.state == "Pending":
            if _brief(run, up):
                return False
            disruption = attempt.reason if attempt.reason in reasons.DISRUPTIONS else None
            run.change_attempt(planned.name, state="Running", reason=disruption)
        run.change(planned.name, state="Running", reason=None, message=None)
        return True
    note_timeout(run, planned)
    reason, message = _explained(run, gang)
    run.change(planned.name, state="Pending", reason=reason, message=message)
    if attempt.reason in (reasons.QUEUED, reasons.PREEMPTED):
        run.change_attempt(planned.name, reason=None)
    _timeout(run, planned, gang, message)
    return False


def _brief(run: ReconcileContext, pods: list[Pod]) -> bool:
    """Whether a gang has only begun, or has ended already: then one write tells how it ended, and none that it ran."""
    if not any(pod.live for pod in pods):
        return True
    began = max((at for pod in pods if (at := pod.started_at) is not None), default=None)
    if began is None or not began <= run.now < began + BRIEF:
        return False
    run.wake(began + BRIEF)
    return True


def _explained(run: ReconcileContext, gang: AttemptPods) -> tuple[str, str | None]:
    pending = [pod for pod in gang.pods if pod.phase == "Pending"]
    for pod in pending:
        waiting = pod.waiting
        if waiting is not None and waiting[0] not in WAITS_FOR_OTHERS:
            reason, message = waiting
            return naming.reason(reason, reasons.PENDING), naming.cut(f"{pod.name}: {message or reason}")
    if gang.job is None:
        return reasons.STARTING, None
    explain_at = _since(gang, run) + timedelta(seconds=run.settings.timings.explain_after)
    if explain_at > run.now:
        run.wake(explain_at)
        return reasons.STARTING, None
    if len(gang.pods) < gang.nodes:
        words = run.explanation(LiveRead("Events", gang.job["metadata"]["name"], gang.uid))
        return (reasons.STARTING, None) if words is None else (reasons.NO_PODS, naming.cut(words))
    return next(filter(None, [_of_events(run, pod) for pod in pending]), (reasons.STARTING, None))


def _of_events(run: ReconcileContext, pod: Pod) -> tuple[str, str] | None:
    """A volume, the network or an image that is not there: the kubelet tells of it in events alone."""
    words = run.explanation(LiveRead("PodEvents", pod.name, pod.uid))
    if words is None:
        return None
    return naming.reason(words.partition(":")[0], reasons.PENDING), naming.cut(f"{pod.name}: {words}")


def note_timeout(run: ReconcileContext, planned: PlannedStage) -> None:
    """Say in Stalled that the last attempt gave its devices back, as long as no later one runs."""
    ended = [attempt for attempt in run.stages[planned.name].attempts if attempt.end_time is not None]
    if ended and ended[-1].reason == reasons.PENDING_TIMEOUT:
        message = f"{planned.name}: {ended[-1].message or ''}; it gave its devices back and is tried again"
        run.stalled = run.stalled or (reasons.PENDING_TIMEOUT, naming.cut(message))


def _since(gang: AttemptPods, run: ReconcileContext) -> datetime:
    """Since when it may run: Kueue's queue does not count."""
    created = ((gang.job or {}).get("metadata") or {}).get("creationTimestamp")
    return gang.started_at or (times.read(created) if created else run.now)


def _timeout(run: ReconcileContext, planned: PlannedStage, gang: AttemptPods, message: str | None) -> None:
    limit = run.job.spec.run_policy.pending_timeout or run.settings.pending_timeout
    if limit is None:
        return
    end = _since(gang, run) + timedelta(seconds=limit)
    if end > run.now:
        run.wake(end)
        return
    why = f"not all pods ran within pendingTimeout ({limit} s)" + (f": {message}" if message else "")
    run.change_attempt(planned.name, reason=reasons.PENDING_TIMEOUT, message=naming.cut(why))
