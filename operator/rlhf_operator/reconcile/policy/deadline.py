"""activeDeadlineSeconds counts active time: while an attempt is unsuspended. A queue, a backoff, a suspension are not."""

from __future__ import annotations

from datetime import datetime, timedelta

from rlhf_api.status import Attempt
from rlhf_operator.reconcile import times
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.run import ReconcileContext

REBASE = timedelta(minutes=1)


def ran_until(run: ReconcileContext) -> datetime:
    """Until when the attempts ran that are active on record: an operator that was away does not make them longer."""
    gangs = [(attempt, run.gang(planned.name, attempt.number)) for planned, attempt in run.open()]
    ran = [(attempt, gang) for attempt, gang in gangs if not gang.suspended or gang.suspended_at is not None]
    ends = [_end(attempt, gang, run) for attempt, gang in ran]
    end_times = [end for end in ends if end is not None]
    return min(max(end_times), run.now) if end_times and len(end_times) == len(ends) else run.now


def _end(attempt: Attempt, gang: AttemptPods, run: ReconcileContext) -> datetime | None:
    """Until when an attempt ran, if it does not run; of a Job that is gone with its pods, as far as is on record."""
    gone = attempt.uid is not None and gang.job is None and not gang.live
    if gone and run.status.active_since is not None:
        return times.read(run.status.active_since)
    return gang.suspended_at if gang.suspended else gang.ended_at


def rebase(run: ReconcileContext) -> None:
    """Put on record how long attempts ran so far: with a status that is written anyway, once a minute at most."""
    since = run.status.active_since
    if since is not None and run.now - times.read(since) >= REBASE:
        changes = {"active_seconds": round(active_seconds(run), 3), "active_since": times.write(run.now)}
        run.status = run.status.model_copy(update=changes)


def active_seconds(run: ReconcileContext) -> float:
    """Active time so far."""
    since = run.status.active_since
    running = 0.0 if since is None else max(0.0, (run.ran_until - times.read(since)).total_seconds())
    return run.status.active_seconds + running


def passed(run: ReconcileContext) -> bool:
    """Whether the active time is used up."""
    limit = run.job.spec.active_deadline_seconds
    return limit is not None and active_seconds(run) >= limit


def account(run: ReconcileContext) -> None:
    """Bring the clock in status up to what runs now, and wake up when it will have run out."""
    active = _active(run)
    if run.status.active_since is not None and (not active or run.ran_until < run.now):
        seconds = round(active_seconds(run), 3)
        run.status = run.status.model_copy(update={"active_seconds": seconds, "active_since": None})
    if active and run.status.active_since is None:
        run.status = run.status.model_copy(update={"active_since": times.write(run.now)})
    run.ran_until = run.now
    limit = run.job.spec.active_deadline_seconds
    if active and limit is not None and not run.winding_up and not passed(run):
        run.wake(run.now + timedelta(seconds=limit - active_seconds(run)))


def _active(run: ReconcileContext) -> bool:
    created = [] if run.children.refusal is not None else run.out.create  # a refused Job does not run
    jobs = {raw["metadata"]["name"]: raw for raw in created if raw["kind"] == "Job"}
    for planned, attempt in run.open():
        name = run.child(planned.name, attempt.number)
        gang = run.gang(planned.name, attempt.number)
        job = gang.job or jobs.get(name)
        if job is not None and not (job["spec"] or {}).get("suspend") and gang.ended_at is None:
            return True
    return False
