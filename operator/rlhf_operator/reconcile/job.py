"""`reconcile`: one job, everything known of it, the time -> what to do. Level-triggered: called again after anything."""

from __future__ import annotations

from datetime import datetime, timedelta

from rlhf_api.errors import SpecError
from rlhf_api.status import JobStatus
from rlhf_operator.reconcile import conditions, reasons, times
from rlhf_operator.reconcile.admission import check
from rlhf_operator.reconcile.lifecycle import advance, start, stop
from rlhf_operator.reconcile.outcome import Event, Observed, Raw, ReconcileResult
from rlhf_operator.reconcile.policy import cleanup, deadline, retry, ttl
from rlhf_operator.reconcile.run import ReconcileContext
from rlhf_operator.reconcile.settings import Settings
from rlhf_operator.reconcile.stored import UnknownStatus, status_of


def reconcile(raw: Raw, children: Observed, settings: Settings, now: datetime) -> ReconcileResult:
    """What to do about a job.

    Args:
        raw: the RLHFJob, as the API server gave it.
        children: what it owns, as far as a cache knows.
        settings: the platform's configuration.
        now: the time, with its zone.
    """
    if raw["metadata"].get("deletionTimestamp"):
        return ReconcileResult(status=dict(raw.get("status") or {}))  # what it owns goes with it
    phase = (raw.get("status") or {}).get("phase")
    failed = phase == "Failed" and retry.requested(raw)
    if phase in ttl.FINISHED and not failed:
        return ttl.after(raw, children, now)
    try:
        status = status_of(raw)
    except UnknownStatus as error:
        return _leave(raw, str(error), now)
    try:
        run = ReconcileContext.of(raw, status, children, settings, now)
    except SpecError as error:
        return _refuse(
            raw, status, reasons.INVALID_SPEC, "; ".join(problem.render() for problem in error.problems), now
        )
    except UnknownStatus as error:
        return _leave(raw, str(error), now)
    refusal = check.refused(run)
    if refusal is not None:
        return _refuse(raw, status, *refusal, now)
    if failed:
        retry.start_again(run)
    run.ran_until = deadline.ran_until(run)
    _advance(run)
    if run.out.look:
        return ReconcileResult(status=dict(raw.get("status") or {}), look=run.out.look)
    retry.acknowledge(run, acted=failed)
    deadline.account(run)
    conditions.judge(run)
    _finish(run, status)
    run.out.status = _written(raw, run.status)
    if run.out.status != (raw.get("status") or {}):  # not worth a write of its own
        deadline.rebase(run)
        run.out.status = _written(raw, _with_uids(run))
    return run.out


def _advance(run: ReconcileContext) -> None:
    """Follow what runs, end what must end, begin what can begin."""
    stop.mark_stops(run)
    for planned, attempt in list(run.open()):
        advance.follow_attempt(run, planned, attempt)
    if run.out.look:  # all questions at once; what was decided without the answers is not done
        return
    stop.mark_stops(run)
    stop.stop_marked(run)
    if not run.job.spec.suspend:
        check.accept(run)
    start.start_stages(run)
    cleanup.superseded(run)
    cleanup.leftover(run)


def _finish(run: ReconcileContext, before: JobStatus) -> None:
    """Record the end of the job, and tell what changed."""
    phase = run.status.phase
    if phase in ttl.FINISHED and run.status.completion_time is None:
        run.status = run.status.model_copy(update={"completion_time": times.write(run.now)})
        failed = phase == "Failed"
        kind = "Failed" if failed else "Complete"
        words = next(condition.message for condition in run.status.conditions if condition.type == kind)
        run.tell(kind, words, warning=failed)
        seconds = run.job.spec.ttl_seconds_after_finished
        if seconds is not None:
            run.wake(run.now + timedelta(seconds=max(1, seconds)))
    if before.phase != phase and phase == "Suspended":
        run.tell(reasons.SUSPENDED, "suspended; its checkpoints stay")
    if before.phase == "Suspended" and phase != "Suspended":
        run.tell(reasons.RESUMED, "goes on from its last checkpoints")


def _refuse(raw: Raw, status: JobStatus, reason: str, message: str, now: datetime) -> ReconcileResult:
    generation = raw["metadata"].get("generation")
    invalid = conditions.invalid(status, reason, message, now=times.write(now), generation=generation)
    out = ReconcileResult(status=_written(raw, invalid))
    if not any(
        condition.type == "Stalled" and condition.reason == reason and condition.status == "True"
        for condition in status.conditions
    ):
        out.events.append(Event(reason, message[:1024], warning=True))
    return out


def _leave(raw: Raw, words: str, now: datetime) -> ReconcileResult:
    """Leave everything as it is: a newer operator wrote what decides."""
    before = raw.get("status") or {}
    message = f"{words}; upgrade the operator, or make a new job"
    out = ReconcileResult(status=conditions.troubled(before, reasons.UNKNOWN_STATUS, message, now=times.write(now)))
    if out.status != before:
        out.events.append(Event(reasons.UNKNOWN_STATUS, message[:1024], warning=True))
    return out


def _with_uids(run: ReconcileContext) -> JobStatus:
    """The status, with the UIDs of the Jobs that are there: a Job that goes may leave its pods."""
    for planned in run.plan.stages:
        attempts = run.stages[planned.name].attempts
        gang = run.gang(planned.name, attempts[-1].number) if attempts else None
        if gang is not None and gang.job is not None:
            run.change_attempt(planned.name, uid=gang.uid)
    return run.status.model_copy(update={"stages": list(run.stages.values())})


def _written(raw: Raw, status: JobStatus) -> Raw:
    """Status as it is stored. Fields that only a newer operator knows stay."""
    aliases = {field.alias for field in JobStatus.model_fields.values()}
    foreign = {name: value for name, value in (raw.get("status") or {}).items() if name not in aliases}
    return foreign | status.model_dump(mode="json", exclude_none=True)
