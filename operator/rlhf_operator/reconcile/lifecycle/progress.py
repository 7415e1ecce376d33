"""How far a running stage is, and whether it still moves. A failed poll changes nothing."""

from __future__ import annotations

from datetime import timedelta

from rlhf_api.plan import PlannedStage
from rlhf_api.stages import PREPARE
from rlhf_api.status import Attempt, Progress
from rlhf_operator.reconcile import naming, reasons
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.outcome import Poll, Sample
from rlhf_operator.reconcile.run import ReconcileContext

MAX_HEADLINE = 8


def follow(run: ReconcileContext, planned: PlannedStage, gang: AttemptPods) -> None:
    """Ask a running gang for its progress, and take over what it last told."""
    attempt = run.stages[planned.name].attempts[-1]
    lead = next((pod for pod in gang.pods if pod.index == 0 and pod.phase == "Running"), None)
    if lead is not None and lead.ip is not None:
        run.out.poll.append(Poll(planned.name, attempt.number, lead.ip, lead.metrics_port or run.settings.metrics_port))
    sample = run.children.samples.get(planned.name)
    if sample is None or sample.attempt != attempt.number:
        return
    if sample.show:
        _show(run, planned, attempt, sample)
    _watch(run, planned, sample)


def _show(run: ReconcileContext, planned: PlannedStage, attempt: Attempt, sample: Sample) -> None:
    changes: dict[str, int] = {"last_step": max(sample.step, attempt.last_step or 0)}
    before = [earlier for earlier in run.stages[planned.name].attempts[:-1] if earlier.last_step is not None]
    if before and before[-1].lost_steps is None and sample.begun is not None:
        _lost(run, planned, max(0, (before[-1].last_step or 0) - sample.begun), before[-1].number)
    run.change_attempt(planned.name, **changes)
    run.change(
        planned.name,
        progress=Progress(
            step=sample.step,
            total=sample.total,
            tokensPerSecond=sample.tokens_per_second,
            etaSeconds=sample.eta_seconds,
            headline=dict(list(sample.headline.items())[:MAX_HEADLINE]),
        ),
    )


def _lost(run: ReconcileContext, planned: PlannedStage, steps: int, number: int) -> None:
    """What an earlier attempt computed after the checkpoint that this one began from."""
    entries = run.stages[planned.name].attempts
    changed = [entry.model_copy(update={"lost_steps": steps}) if entry.number == number else entry for entry in entries]
    run.change(planned.name, attempts=changed)


def _watch(run: ReconcileContext, planned: PlannedStage, sample: Sample) -> None:
    """A gang without a step for so long hangs; the restart counts. One that hangs may not answer either: the last that it
    told ages, and is looked at when it is too old."""
    limit = run.job.spec.run_policy.stuck_timeout
    if limit is None or planned.type == PREPARE or sample.step >= sample.total > 0:
        return
    if sample.still < limit:
        run.wake(run.now + timedelta(seconds=limit - sample.still))
        return
    message = f"no step for {sample.still:.0f} s (stuckTimeout: {limit} s), at step {sample.step} of {sample.total}"
    run.change_attempt(planned.name, reason=reasons.STUCK, message=naming.cut(message))
