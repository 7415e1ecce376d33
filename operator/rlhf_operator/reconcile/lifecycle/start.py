"""Begins what the lifecycle says may begin, once the last attempt of the stage has left no pod and storage is free."""

from __future__ import annotations

from datetime import timedelta

from rlhf_api.plan import PlannedStage
from rlhf_api.stages import SINGLE_PROCESS_STAGES
from rlhf_operator.reconcile import claims, profiles, reasons
from rlhf_operator.reconcile.admission import overrides
from rlhf_operator.reconcile.lifecycle import finish, pending, stop
from rlhf_operator.reconcile.objects import assembly
from rlhf_operator.reconcile.observed.gang import AttemptPods, attempts_of
from rlhf_operator.reconcile.observed.pods import Pod, owner_uid
from rlhf_operator.reconcile.policy import restart
from rlhf_operator.reconcile.run import ReconcileContext


def start_stages(run: ReconcileContext) -> None:
    """Begin what can begin; leave out what will not run."""
    begun: set[str] = set()
    while not run.out.look:
        actions = run.actions(stop.wish_of(run))
        for name, (reason, message) in actions.skip.items():
            finish.finish_stage(run, run.plan.stage(name), state="Skipped", reason=reason, message=message)
        for name, (reason, message) in actions.fail.items():
            finish.fail_unstarted(run, run.plan.stage(name), reason, message)
        for name in actions.reuse:
            planned = run.plan.stage(name)
            finish.finish_stage(run, planned, state="Reused", reason=reasons.REUSED, product=planned.product)
            run.tell(reasons.STAGE_REUSED, f"{name}: its product exists and was verified")
        if actions.skip or actions.fail or actions.reuse:
            continue
        due = next((name for name in actions.start if name not in begun), None)
        if due is None:
            return
        begun.add(due)
        _begin(run, run.plan.stage(due))


def _begin(run: ReconcileContext, planned: PlannedStage) -> None:
    stage = run.stages[planned.name]
    if not _cleared(run, planned):
        return
    due = restart.due(stage, run.settings.timings)
    if due is not None and due > run.now:
        pending.note_timeout(run, planned)
        run.wake(due)
        return
    if overrides.blocks(run, planned) or not _storage_free(run, planned):
        return
    assembly.begin_attempt(run, planned)
    if run.status.start_time is None:
        run.status = run.status.model_copy(update={"start_time": run.stages[planned.name].start_time})


def _cleared(run: ReconcileContext, planned: PlannedStage) -> bool:
    """Whether no pod of an earlier attempt can still run: ended, gone, or on a node lost for long enough."""
    clear = True
    for _, job in attempts_of(planned.name, run.children.jobs):
        gang = AttemptPods.of(job["metadata"]["name"], None, [job], run.children.pods)
        if gang.finished:
            continue
        if gang.condition("FailureTarget") is not None and not gang.live and gang.deleted_at is None:
            clear = False  # it says Failed in a moment, and stays to be looked at
            _bound_failing(run, gang)
            continue
        if gang.deleted_at is None:
            stop.stop_attempt(run, gang)
            clear = False
            continue
        clear = _lost(run, gang) and clear
    jobs = {job["metadata"]["uid"] for job in run.children.jobs}
    gone = {attempt.uid for attempt in run.stages[planned.name].attempts} - jobs
    for raw in run.children.pods:
        pod = Pod(raw)
        if pod.live and owner_uid(raw) in gone:
            clear = _lost(run, AttemptPods(None, (pod,))) and clear
    return clear


def _bound_failing(run: ReconcileContext, gang: AttemptPods) -> None:
    """A Job that never says Failed, because a node was lost with what ran beside the trainer, is deleted after a while."""
    timings = run.settings.timings
    patience = run.job.spec.run_policy.lost_node_timeout
    then = (gang.failed_at or run.now) + timedelta(seconds=timings.grace + timings.grace_margin + patience)
    if then > run.now:
        run.wake(then)
    else:
        stop.stop_attempt(run, gang)


def _lost(run: ReconcileContext, gang: AttemptPods) -> bool:
    patience = run.job.spec.run_policy.lost_node_timeout
    dead, then = gang.lost(patience, run.now)
    if not gang.live and gang.deleted_at is not None:
        timings = run.settings.timings
        then = gang.deleted_at + timedelta(seconds=timings.grace + timings.grace_margin + patience)
        dead = then <= run.now
    if not dead and then is not None:
        run.wake(then)
    return dead


def _storage_free(run: ReconcileContext, planned: PlannedStage) -> bool:
    """ReadWriteOnce means one stage at a time; a claim that only one pod may mount serves no gang."""
    others = [running.name for running, _ in run.open() if running.name != planned.name]
    shape = profiles.shape(run.job, planned, run.status.profiles, run.settings)
    gang = shape.nodes > 1 and planned.type not in SINGLE_PROCESS_STAGES
    if not (others or gang):
        return True
    modes = assembly.access(run)
    if run.out.look:
        return False
    if gang and claims.ONE_POD in modes:
        message = f"needs {shape.nodes} pods, but the claim {claims.claim_name(run.job)} serves one ({claims.ONE_POD})"
        finish.fail_unstarted(run, planned, reasons.INVALID_SPEC, f"{planned.name}: {message}")
        return False
    if others and claims.one_node(modes):
        message = f"waits for {', '.join(others)}: the claim {claims.claim_name(run.job)} is {', '.join(modes)}"
        run.change(planned.name, reason=reasons.STORAGE_TAKEN, message=message)
        return False
    return True
