"""The operator's own reasons to end an attempt: written to it first, then its Job is deleted. Never taken back."""

from __future__ import annotations

from rlhf_api.stages import REPORT
from rlhf_operator.reconcile import deadline, reasons
from rlhf_operator.reconcile.observe import Gang
from rlhf_operator.reconcile.outcome import Delete
from rlhf_operator.reconcile.run import Run


def mark(run: Run) -> None:
    """Write to every running attempt why it is to end, if it is."""
    for planned, attempt in list(run.open()):
        if attempt.reason in reasons.INTENTS:
            continue
        found = _intent(run, report=planned.type == REPORT)
        if found is not None:
            reason, message = found
            run.change_attempt(planned.name, reason=reason, message=message)


def _intent(run: Run, *, report: bool) -> tuple[str, str] | None:
    failed = run.failed
    if run.winding_up and not report and failed is not None:
        return reasons.SIBLING_FAILED, f"stopped, because {failed.name} failed"
    if run.job.spec.suspend:
        return reasons.SUSPENDED, "stopped on request (spec.suspend)"
    if not run.winding_up and deadline.passed(run):
        return reasons.DEADLINE, deadline.message(run)
    return None


def end(run: Run) -> None:
    """Delete the Jobs of attempts that are to end."""
    for planned, attempt in run.open():
        if attempt.reason in reasons.INTENTS:
            stop(run, run.gang(planned.name, attempt.number))


def stop(run: Run, gang: Gang) -> None:
    """Delete a Job: its pods get SIGTERM, and save a checkpoint within their grace period."""
    if gang.job is not None and gang.deleted_at is None and not gang.finished:
        metadata = gang.job["metadata"]
        wanted = Delete("Job", metadata["name"], metadata["uid"])
        if wanted not in run.out.delete:
            run.out.delete.append(wanted)
