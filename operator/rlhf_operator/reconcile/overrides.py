"""What runPolicy.overrides may not change: the number of ranks of a stage that has a checkpoint."""

from __future__ import annotations

from rlhf_api.errors import Finding
from rlhf_api.job import RLHFJob
from rlhf_api.status import StageStatus
from rlhf_operator.reconcile.profiles import Shape


def refused(job: RLHFJob, stage: StageStatus, shape: Shape) -> Finding | None:
    """An override that would resume a stage with another number of ranks, relative to `spec`.

    A stage is taken to have a checkpoint from its first step on: the operator cannot see the storage.
    """
    ranks = next((attempt.ranks for attempt in reversed(stage.attempts) if attempt.ranks), None)
    stepped = any((attempt.last_step or 0) > 0 for attempt in stage.attempts)
    if ranks is None or not stepped or shape.world == ranks:
        return None
    for index, override in enumerate(job.spec.run_policy.overrides):
        if override.stage == stage.name:
            field = "nodes" if override.nodes is not None else "resources"
            message = f"{stage.name} has a checkpoint of {ranks} ranks; found {shape.world}"
            return Finding(
                ("runPolicy", "overrides", index, field),
                message,
                f"keep it at {ranks} ranks, or make a new job",
            )
    return None
