"""The end of an attempt: its record, and whether the stage is done, tried again, stopped or failed."""

from __future__ import annotations

from typing import Any

from rlhf_api.lifecycle import RetryBudget, decide, disrupted_too_often
from rlhf_api.plan import PlannedStage
from rlhf_api.stages import PREPARE, REPORT
from rlhf_operator.reconcile import naming, reasons, times
from rlhf_operator.reconcile.observed import diagnosis
from rlhf_operator.reconcile.observed.diagnosis import Diagnosis
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.policy import restart
from rlhf_operator.reconcile.run import ReconcileContext


def complete_attempt(run: ReconcileContext, planned: PlannedStage, gang: AttemptPods) -> None:
    """It ended well: its product is in place."""
    ended = diagnosis.ended_at(gang, run.now)
    lead = next((pod for pod in gang.pods if pod.index == 0), None)
    reused = lead is not None and lead.summary.reason == "Reused"
    attempt = run.change_attempt(
        planned.name,
        state="Complete",
        reason=reasons.REUSED if reused else reasons.COMPLETE,
        message=None,
        end_time=ended,
        pod=None if lead is None else lead.name,
        node=None if lead is None else lead.node,
        exit_code=0,
        last_step=diagnosis.last_step(run.stages[planned.name].attempts[-1], gang),
    )
    product = run.plan.stage(planned.name).product
    finish_stage(
        run,
        planned,
        state="Reused" if reused else "Complete",
        reason=attempt.reason,
        message=None,
        product=run.stages[planned.name].product or product,
    )
    run.tell(reasons.STAGE_COMPLETE, f"{planned.name}: attempt {attempt.number} is complete")


def finish_attempt(run: ReconcileContext, planned: PlannedStage, end: Diagnosis, gang: AttemptPods) -> None:
    """It ended otherwise: record why, then do what the lifecycle decides."""
    stage = run.stages[planned.name]
    last_step = diagnosis.last_step(stage.attempts[-1], gang)
    run.change_attempt(
        planned.name,
        state=end.state,
        reason=end.reason,
        message=naming.cut(end.message) or None,
        end_time=diagnosis.ended_at(gang, run.now),
        pod=end.pod,
        node=end.node,
        exit_code=end.exit_code,
        last_step=last_step,
    )
    budget = _budget(run, planned, gang)
    verdict = decide(end.result, budget)
    if verdict == "suspend":
        run.change(planned.name, state="Suspended", reason=reasons.SUSPENDED, message=None, progress=None)
    elif verdict == "skip":
        message = "stopped, because another stage failed; its checkpoint stays"
        finish_stage(run, planned, state="Skipped", reason=reasons.STOPPED, message=message)
    elif verdict == "retry":
        run.change_attempt(planned.name, counted=True)
        run.change(planned.name, restarts=budget.restarts + 1)
        _again(run, planned, end, f"restart {budget.restarts + 1} of {budget.max_restarts}")
    elif verdict == "retry uncounted":
        _again(run, planned, end, "a restart that does not count")
    elif verdict == "fail: disrupted too often":
        result = disrupted_too_often(end.result, budget)
        _fail(run, planned, result.reason, result.message)
    else:
        _fail(run, planned, end.reason, end.message)


def _budget(run: ReconcileContext, planned: PlannedStage, gang: AttemptPods) -> RetryBudget:
    stage = run.stages[planned.name]
    return RetryBudget(
        restarts=restart.counted(stage, gang, run.now),
        max_restarts=run.job.spec.run_policy.max_restarts,
        disruptions=restart.without_progress(stage),
        max_disruptions=run.settings.max_disruptions,
        needed=planned.type == REPORT or not run.winding_up,
    )


def finish_stage(run: ReconcileContext, planned: PlannedStage, **changes: Any) -> None:
    """The stage has come to an end."""
    run.change(planned.name, end_time=times.write(run.now), progress=None, **changes)


def _again(run: ReconcileContext, planned: PlannedStage, end: Diagnosis, counted: str) -> None:
    stage = run.stages[planned.name]
    seconds = restart.delay(stage, run.settings.timings)
    what = "from its last checkpoint" if planned.type != PREPARE else "from the start"
    message = f"attempt {stage.attempts[-1].number} ended: {end.reason}: {end.message}"
    run.change(
        planned.name, state="Waiting", reason=reasons.RESTARTING, message=naming.cut(message, 2048), progress=None
    )
    run.tell(reasons.STAGE_RESTARTED, f"{planned.name}: {message}; {counted}, {what}, in {seconds:.0f} s", warning=True)


def _fail(run: ReconcileContext, planned: PlannedStage, reason: str, message: str) -> None:
    stage = run.stages[planned.name]
    last = stage.attempts[-1] if stage.attempts else None
    where = ""
    if last is not None and last.pod is not None:
        code = "" if last.exit_code is None else f", exit code {last.exit_code}"
        where = f" (pod {last.pod}{'' if last.node is None else f' on {last.node}'}{code})"
    text = naming.cut(f"{message}{where}", 2048)
    finish_stage(run, planned, state="Failed", reason=reason, message=text)
    run.tell(reasons.STAGE_FAILED, f"{planned.name}: {reason}: {text}", warning=True)


def fail_unstarted(run: ReconcileContext, planned: PlannedStage, reason: str, message: str) -> None:
    """A stage that may not even begin."""
    finish_stage(run, planned, state="Failed", reason=reason, message=message)
    run.tell(reasons.STAGE_FAILED, f"{planned.name}: {reason}: {message}", warning=True)
