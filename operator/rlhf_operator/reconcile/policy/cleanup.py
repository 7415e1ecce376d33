"""What earlier attempts left: their objects go when the next attempt is on record, unless all is to be kept."""

from __future__ import annotations

from typing import Literal

from rlhf_operator.reconcile.observed.gang import AttemptPods, attempts_of
from rlhf_operator.reconcile.outcome import Delete, Raw
from rlhf_operator.reconcile.run import ReconcileContext


def superseded(run: ReconcileContext) -> None:
    """Delete the ended Jobs of earlier attempts, with their Services."""
    if run.job.spec.run_policy.keep == "everything":
        return
    again = [stage for stage in run.stages.values() if stage.attempts and stage.attempts[-1].number > 0]
    for stage in again:
        last = stage.attempts[-1].number
        for number, raw in attempts_of(stage.name, run.children.jobs):
            if number < last and AttemptPods(raw, ()).finished:
                _delete(run, "Job", raw)
        for number, raw in attempts_of(stage.name, run.children.services):
            if number < last:
                _delete(run, "Service", raw)


def _delete(run: ReconcileContext, kind: Literal["Job", "Service"], raw: Raw) -> None:
    metadata = raw["metadata"]
    if "deletionTimestamp" not in metadata:
        run.out.delete.append(Delete(kind, metadata["name"], metadata["uid"]))
