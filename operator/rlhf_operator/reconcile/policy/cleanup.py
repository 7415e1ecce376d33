"""What earlier attempts left: their objects go when the next attempt is on record, unless all is to be kept. A Job that
runs on though its attempt has ended goes at once: something beside the trainer keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from rlhf_operator.reconcile.observed.gang import AttemptPods, attempts_of
from rlhf_operator.reconcile.outcome import Delete, Raw
from rlhf_operator.reconcile.run import OPEN, ReconcileContext


def outlived(jobs: Iterable[Raw]) -> Iterator[Delete]:
    """Jobs of attempts that have ended which run on. One that begins to fail ends by itself."""
    for raw in jobs:
        gang = AttemptPods(raw, ())
        if not gang.finished and gang.failed_at is None and gang.deleted_at is None:
            yield Delete("Job", raw["metadata"]["name"], raw["metadata"]["uid"])


def leftover(run: ReconcileContext) -> None:
    """Delete the Jobs of ended attempts that run on; the deletion may have been lost before."""
    for name, stage in run.stages.items():
        ended = {attempt.number for attempt in stage.attempts if attempt.state not in OPEN}
        jobs = [raw for number, raw in attempts_of(name, run.children.jobs) if number in ended]
        run.out.delete += [deletion for deletion in outlived(jobs) if deletion not in run.out.delete]


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
