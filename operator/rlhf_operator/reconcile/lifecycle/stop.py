"""The operator's own reasons to end an attempt: written to it first, then its Job is deleted. Never taken back."""

from __future__ import annotations

from rlhf_api.lifecycle import Wish
from rlhf_operator.reconcile import reasons
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.outcome import Delete
from rlhf_operator.reconcile.policy import deadline
from rlhf_operator.reconcile.run import ReconcileContext


def wish_of(run: ReconcileContext) -> Wish:
    """What is wanted of the job."""
    if run.job.spec.suspend:
        return "suspend"
    return "fail" if deadline.passed(run) else "run"


def mark_stops(run: ReconcileContext) -> None:
    """Write to every running attempt why it is to end, if it is."""
    for stage, (reason, message) in run.actions(wish_of(run)).stop.items():
        attempt = run.attempt(stage)
        ended = attempt is not None and run.gang(stage, attempt.number).ended_at is not None  # by itself, before
        if attempt is not None and attempt.reason not in reasons.INTENTS and not ended:
            run.change_attempt(stage, reason=reason, message=message)


def stop_marked(run: ReconcileContext) -> None:
    """Delete the Jobs of attempts that are to end."""
    for planned, attempt in run.open():
        if attempt.reason in reasons.INTENTS:
            stop_attempt(run, run.gang(planned.name, attempt.number))


def stop_attempt(run: ReconcileContext, gang: AttemptPods) -> None:
    """Delete a Job: its pods get SIGTERM, and save a checkpoint within their grace period."""
    if gang.job is not None and gang.deleted_at is None and not gang.finished:
        metadata = gang.job["metadata"]
        deletion = Delete("Job", metadata["name"], metadata["uid"])
        if deletion not in run.out.delete:
            run.out.delete.append(deletion)
