"""What became of an attempt that has not ended: guard clauses, from the Job's absence to its daily run."""

from __future__ import annotations

import json
from datetime import timedelta

from rlhf_api.contract import STORAGE_PATH
from rlhf_api.plan import PlannedStage
from rlhf_api.stages import PREPARE
from rlhf_api.status import Attempt
from rlhf_api.termination_codec import Told, expand
from rlhf_operator.reconcile import naming, plans, reasons, times
from rlhf_operator.reconcile.admission import overrides
from rlhf_operator.reconcile.lifecycle import finish, pending, progress, stop
from rlhf_operator.reconcile.objects import assembly
from rlhf_operator.reconcile.observed import diagnosis
from rlhf_operator.reconcile.observed.diagnosis import Diagnosis
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.observed.pods import Pod
from rlhf_operator.reconcile.outcome import LiveRead
from rlhf_operator.reconcile.run import ReconcileContext


def follow_attempt(run: ReconcileContext, planned: PlannedStage, attempt: Attempt) -> None:
    """Bring the attempt's record up to what its objects say."""
    gang = run.gang(planned.name, attempt.number)
    if gang.job is None:
        _absent(run, planned, attempt, gang)
    elif gang.succeeded:
        _complete(run, planned, attempt, gang)
    elif gang.failed:
        if _settled(run, planned, attempt, gang):
            finish.finish_attempt(run, planned, diagnosis.diagnose(attempt, gang), gang)
    elif gang.deleted_at is not None:
        _leaving(run, planned, attempt, gang)
    elif attempt.reason in reasons.INTENTS:
        return  # `lifecycle.stop` deletes its Job
    elif gang.condition("FailureTarget") is not None:
        _failing(run, planned, attempt, gang)
    elif gang.suspended:
        pending.queued(run, planned, attempt, gang)
    elif _lost(run, planned, attempt, gang):
        return
    elif gang.broken:
        _record_disruption(run, planned, attempt, gang)
        if _trainers_ended(run, planned, attempt, gang):
            finish.finish_attempt(run, planned, diagnosis.diagnose(run.attempt(planned.name) or attempt, gang), gang)
            stop.stop_attempt(run, gang)  # what someone put beside the trainer would run on
    else:
        _record_disruption(run, planned, attempt, gang)
        assembly.mend_service(run, planned, attempt.number, gang)
        if pending.starting(run, planned, gang):
            progress.follow(run, planned, gang)


def _absent(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> None:
    """Never made, or deleted by someone: a cache cannot tell, and a second gang must not start beside the first."""
    if not run.sure(LiveRead("Job", run.child(planned.name, attempt.number))):
        return
    if gang.live:
        dead, then = gang.lost(run.job.spec.run_policy.lost_node_timeout, run.now)
        if not dead:
            if then is not None:
                run.wake(then)
            return
    untouched = attempt.state == "Pending" and not gang.pods
    if untouched and attempt.reason not in reasons.INTENTS | reasons.DISRUPTIONS:
        if overrides.blocks(run, planned):
            return
        assembly.make_objects(run, planned, attempt.number)
        pending.refused(run, planned)
    else:
        finish.finish_attempt(run, planned, diagnosis.diagnose(attempt, gang), gang)


def _settled(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> bool:
    """Whether the pods of a finished Job are seen as they ended; a cache may show them as they were."""
    ended = [pod for pod in gang.pods if not pod.live]
    if len(ended) == gang.nodes:
        return True
    return run.sure(LiveRead("Job", run.child(planned.name, attempt.number)))


def _complete(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> None:
    if not _settled(run, planned, attempt, gang):
        return
    stop.stop_attempt(run, gang)  # what someone put beside the trainer would run on
    if planned.type != PREPARE:
        finish.complete_attempt(run, planned, gang)
        return
    lead = next((pod for pod in gang.pods if pod.exit_code == 0), None)
    if lead is None:
        message = "it ended well, but its pod was deleted before it could tell what it found"
        finish.finish_attempt(run, planned, Diagnosis("Disrupted", reasons.LOST_RESULT, message), gang)
        return
    wrong = _take_result(run, lead)
    if wrong is None:
        finish.complete_attempt(run, planned, gang)
    else:
        message = naming.cut(f"it ended well, but what it found cannot be used: {wrong}")
        finish.finish_attempt(
            run, planned, Diagnosis("Failed", reasons.NO_RESULT, message, lead.name, lead.node, 0), gang
        )


def _take_result(run: ReconcileContext, lead: Pod) -> str | None:
    """Take over what prepare found; else what is wrong with it."""
    result = {name: value for name in Told.__annotations__ if isinstance(value := lead.summary.result.get(name), str)}
    if not result.keys() >= {"inputs", "functions", "hits"}:
        return "its summary has no result"
    text = json.dumps(result, separators=(",", ":"))
    try:
        expand(run.job, plans.read_resolved(text), STORAGE_PATH)
        run.plan, run.resolved = plans.resolve(run.job, text)
    except (ValueError, KeyError) as error:
        return str(error)
    run.status = run.status.model_copy(update={"resolved": text})
    return None


def _leaving(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> None:
    """Its Job is being deleted, and goes when the last pod has gone; one on a lost node is waited for so long."""
    if attempt.reason not in reasons.INTENTS | reasons.DISRUPTIONS:
        end = diagnosis.seen_disruption(gang) or Diagnosis("Disrupted", reasons.JOB_DELETED, "its Job is being deleted")
        if not diagnosis.own_failures(gang):
            _note(run, planned, end)
    timings, requested = run.settings.timings, gang.deleted_at or run.now
    grace = timedelta(seconds=timings.grace + timings.grace_margin)
    last = max([requested + grace, *(pod.gone_at for pod in gang.live if pod.gone_at is not None)])
    then = last + timedelta(seconds=run.job.spec.run_policy.lost_node_timeout)
    dead, _ = gang.lost(run.job.spec.run_policy.lost_node_timeout, run.now)
    if then > run.now and not (gang.live and dead):
        run.wake(then)
        return
    now = run.attempt(planned.name) or attempt
    finish.finish_attempt(run, planned, diagnosis.diagnose(now, gang), gang)


def _failing(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> None:
    """The Job controller ends the gang: it says Failed when the last pod has ended, which one on a lost node never does."""
    _record_disruption(run, planned, attempt, gang)
    if not gang.live and len(gang.pods) >= gang.nodes:  # all can tell now; those it deleted go as it says Failed
        finish.finish_attempt(run, planned, diagnosis.diagnose(run.attempt(planned.name) or attempt, gang), gang)
        return
    dead, then = gang.lost(run.job.spec.run_policy.lost_node_timeout, run.now)
    if not (gang.live and dead):
        if then is not None:
            run.wake(then)
        return
    now = run.attempt(planned.name) or attempt
    finish.finish_attempt(run, planned, diagnosis.diagnose(now, gang), gang)
    stop.stop_attempt(run, gang)


def _trainers_ended(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> bool:
    """Whether every trainer of a broken gang has ended, or had the time to: only then does it show who failed first, and
    what the platform did. Elsewhere the Job controller waits so; it sees no end of a pod whose sidecar runs on."""
    if len(gang.pods) >= gang.nodes and all(pod.terminated is not None for pod in gang.pods):
        return True
    if attempt.end_time is None:
        attempt = run.change_attempt(planned.name, end_time=times.write(run.now))
    timings = run.settings.timings
    last = times.after(str(attempt.end_time), timings.grace + timings.grace_margin)
    if last > run.now:
        run.wake(last)
    return last <= run.now


def _lost(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> bool:
    """Whether a node took a pod with it: such a pod never ends, the Job controller waits for it for ever, and so do its
    peers. The rest of the gang is stopped; where nothing is left of it the attempt has ended."""
    timeout = run.job.spec.run_policy.lost_node_timeout
    given_up = [pod.gone_at + timedelta(seconds=timeout) for pod in gang.live if pod.gone_at is not None]
    if not given_up or min(given_up) > run.now:
        if given_up:
            run.wake(min(given_up))
        return False
    _record_disruption(run, planned, attempt, gang)
    dead, _ = gang.lost(timeout, run.now)
    if dead:
        finish.finish_attempt(run, planned, diagnosis.diagnose(run.attempt(planned.name) or attempt, gang), gang)
    stop.stop_attempt(run, gang)
    return True


def _record_disruption(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, gang: AttemptPods) -> None:
    if attempt.reason in reasons.DISRUPTIONS:
        return
    disruption = diagnosis.seen_disruption(gang)
    if disruption is not None:
        _note(run, planned, disruption)


def _note(run: ReconcileContext, planned: PlannedStage, end: Diagnosis) -> None:
    """Write down what befell the attempt: the pod that shows it may be gone when the attempt ends."""
    run.change_attempt(planned.name, reason=end.reason, message=end.message, pod=end.pod, node=end.node)
