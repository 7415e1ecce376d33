"""What runPolicy.overrides may not change: the number of ranks of a stage that has a checkpoint, and tenancy."""

from __future__ import annotations

from rlhf_api.errors import Finding, Loc, format_path
from rlhf_api.expansion import written_at
from rlhf_api.job import RLHFJob
from rlhf_api.plan import PlannedStage
from rlhf_api.status import StageStatus
from rlhf_operator.reconcile import naming, profiles, reasons
from rlhf_operator.reconcile.admission import tenancy
from rlhf_operator.reconcile.profiles import Shape
from rlhf_operator.reconcile.run import ReconcileContext

OVERRIDES = ("runPolicy", "overrides")


def blocks(run: ReconcileContext, planned: PlannedStage) -> bool:
    """Whether an override keeps the stage from going on: refused, with the field's path."""
    shape = profiles.shape(run.job, planned, run.status.profiles, run.settings)
    finding = refused(run.job, run.stages[planned.name], shape)
    reason = reasons.INVALID_OVERRIDE
    if finding is None:
        wrong = (
            violation
            for violation in tenancy.forbidden(run.job, run.settings, run.status.profiles)
            if violation.at[:2] == OVERRIDES
        )
        finding, reason = next(wrong, None), reasons.FORBIDDEN
    if finding is None:
        return False
    hint = f" ({finding.hint})" if finding.hint else ""
    message = naming.cut(f"{format_path(written_at(run.raw, ('spec', *finding.at)))}: {finding.message}{hint}", 4096)
    run.change(planned.name, reason=reason, message=message)
    run.stalled = run.stalled or (reason, message)
    return True


def refused(job: RLHFJob, stage: StageStatus, shape: Shape) -> Finding | None:
    """An override, or the lack of one, by which a stage would resume with another number of ranks; relative to `spec`.

    The operator cannot see the storage. A stage is taken to have a checkpoint from its first step on, as far as the
    operator heard of steps; else an attempt finds out, and ends with WorldSizeChanged.
    """
    others = {attempt.ranks for attempt in stage.attempts if attempt.reason == reasons.WORLD_SIZE_CHANGED}
    recorded = (attempt.ranks for attempt in reversed(stage.attempts) if attempt.ranks and attempt.ranks not in others)
    ranks = next(recorded, None)
    stepped = any((attempt.last_step or 0) > 0 for attempt in stage.attempts)
    if ranks is None or not (stepped or others) or shape.world == ranks:
        return None
    message = f"{stage.name} has a checkpoint of {ranks} ranks; found {shape.world}"
    return Finding(_where(job, stage.name), message, f"keep it at {ranks} ranks, or make a new job")


def _where(job: RLHFJob, stage: str) -> Loc:
    for index, override in enumerate(job.spec.run_policy.overrides):
        if override.stage == stage:
            fields = [field for field in ("nodes", "resources") if getattr(override, field) is not None]
            return *OVERRIDES, index, *fields[:1]
    return OVERRIDES
