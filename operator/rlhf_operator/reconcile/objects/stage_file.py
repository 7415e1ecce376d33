"""`stage.json` of an attempt."""

from __future__ import annotations

from rlhf_api.contract import JOB_PATH, STORAGE_PATH, TERMINATION_PATH
from rlhf_api.plan import PlannedStage
from rlhf_api.stage_file import Paths, Processes, StageFile, build
from rlhf_operator.reconcile.profiles import Shape
from rlhf_operator.reconcile.run import ReconcileContext

RENDEZVOUS = 29500


def stage_file(run: ReconcileContext, planned: PlannedStage, number: int, shape: Shape, name: str) -> StageFile:
    """The stage's file.

    Args:
        run: the job.
        planned: the stage.
        number: of the attempt.
        shape: what its pods are made of; of a Job that exists, the Job says how many there are.
        name: the attempt's Job and Service.
    """
    master = f"{name}-0.{name}:{RENDEZVOUS}" if shape.nodes > 1 else None
    paths = Paths(STORAGE_PATH, f"{STORAGE_PATH}/work/{run.uid}", JOB_PATH, TERMINATION_PATH)
    processes = Processes(shape.nodes, shape.ranks, shape.threads, run.settings.metrics_port, master)
    return build(run.job, run.uid, run.plan, planned, run.records, run.resolved, paths, processes, number)
