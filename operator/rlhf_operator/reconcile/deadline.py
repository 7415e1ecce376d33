"""activeDeadlineSeconds counts active time: while an attempt is unsuspended. A queue, a backoff, a suspension are not."""

from __future__ import annotations

from datetime import timedelta

from rlhf_operator.reconcile import times
from rlhf_operator.reconcile.run import Run


def active_seconds(run: Run) -> float:
    """Active time so far."""
    since = run.status.active_since
    running = 0.0 if since is None else max(0.0, (run.now - times.read(since)).total_seconds())
    return run.status.active_seconds + running


def passed(run: Run) -> bool:
    """Whether the active time is used up."""
    limit = run.job.spec.active_deadline_seconds
    return limit is not None and active_seconds(run) >= limit


def message(run: Run) -> str:
    """What the deadline was."""
    return f"activeDeadlineSeconds: {run.job.spec.active_deadline_seconds} s of active time have passed"


def account(run: Run) -> None:
    """Bring the clock in status up to what runs now, and wake up when it will have run out."""
    active, since = _active(run), run.status.active_since
    if active and since is None:
        run.status = run.status.model_copy(update={"active_since": times.write(run.now)})
    elif not active and since is not None:
        seconds = round(active_seconds(run), 3)
        run.status = run.status.model_copy(update={"active_seconds": seconds, "active_since": None})
    limit = run.job.spec.active_deadline_seconds
    if active and limit is not None and not run.winding_up and not passed(run):
        run.wake(run.now + timedelta(seconds=limit - active_seconds(run)))


def _active(run: Run) -> bool:
    asked = [] if run.children.refusal is not None else run.out.create  # a refused Job does not run
    made = {one["metadata"]["name"]: one for one in asked if one["kind"] == "Job"}
    for planned, attempt in run.open():
        name = run.child(planned.name, attempt.number)
        job = run.gang(planned.name, attempt.number).job or made.get(name)
        if job is not None and not (job["spec"] or {}).get("suspend"):
            return True
    return False
