"""Shows jobs of a cluster: the stages with their attempts as a tree, read from .status alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from rlhf_api.status import Attempt, StageStatus
from rlhf_sdk.cluster import jobs, watch
from rlhf_sdk.cluster.jobs import DONE, OPEN, ClusterJob, last_attempt
from rlhf_sdk.cluster.kubectl import Kubectl
from rlhf_sdk.output import Format, columns, console, emit, show
from rlhf_sdk.text import duration, number, plural


def title(job: ClusterJob, now: datetime) -> Iterator[str]:
    """`beaver: Running  3/6 stages  2:10:03  namespace team-a`, and what is to be known about the whole."""
    done = sum(stage.state in DONE for stage in job.status.stages)
    parts = [f"{job.name}: {_phase(job)}"]
    if job.status.stages:
        parts.append(f"{done}/{len(job.status.stages)} stages")
    if job.status.start_time is not None:
        parts.append(duration(_seconds(job.status.start_time, job.status.completion_time, now)))
    parts.append(f"namespace {job.namespace}")
    yield "  ".join(parts)
    for condition in job.status.conditions:
        stalled = condition.type == "Stalled" and not job.holds("Failed")  # else the failed stage says it below
        if stalled and condition.status == "True":
            yield from _indented(f"{condition.reason}: {condition.message}")


def table(job: ClusterJob, now: datetime) -> Table:
    """One row a stage, below it one an attempt."""
    shown = columns("STAGE", "STATE", "STEP", "TIME", "ETA", "NODE", "WHY", "HEADLINE")
    for stage in job.status.stages:
        headline = "  ".join(f"{name} {number(value)}" for name, value in _headline(stage).items())
        time = _duration(stage.start_time, stage.end_time, now)
        shown.add_row(stage.name, stage.state, _step(stage), time, _eta(stage), "", _why(stage), headline)
        for attempt in stage.attempts:
            branch = "└─" if attempt is stage.attempts[-1] else "├─"
            last = f"{attempt.last_step}" if attempt.last_step is not None and attempt.state not in OPEN else ""
            time = _duration(attempt.start_time, attempt.end_time, now)
            state = attempt.state if not attempt.counted else f"{attempt.state} (counts)"
            node = attempt.node or ""
            shown.add_row(f"{branch} a{attempt.number}", state, last, time, "", node, _ending(attempt), "")
    return shown


def messages(job: ClusterJob) -> Iterator[str]:
    """Everything that was said about a stage that does not simply go well, whole."""
    for stage in job.status.stages:
        if stage.message and stage.state not in DONE:
            yield f"{stage.name}: {stage.reason or stage.state}: {stage.message}"
        for attempt in stage.attempts:
            if _untold(stage, attempt):
                pod = f" (pod {attempt.pod})" if attempt.pod and attempt.pod not in str(attempt.message) else ""
                yield f"{stage.name} a{attempt.number}: {attempt.reason or attempt.state}: {attempt.message}{pod}"


def overview(jobs: Iterable[ClusterJob], now: datetime) -> Table:
    """One row a job."""
    shown = columns("JOB", "STATE", "STAGE", "PROGRESS", "AGE")
    for job in jobs:
        age = duration(_seconds(job.raw["metadata"]["creationTimestamp"], None, now))
        shown.add_row(job.name, _phase(job), job.status.stage or "", job.status.progress or "", age)
    return shown


def brief(job: ClusterJob) -> dict[str, Any]:
    """What every command's `--output json` says of a job: which it is, and how it stands."""
    return {
        "job": job.name,
        "namespace": job.namespace,
        "uid": job.uid,
        "suspend": job.suspended,
        "phase": job.phase,
        "exitCode": int(job.exit) if job.ended else None,
    }


def as_json(job: ClusterJob, now: datetime) -> dict[str, Any]:
    """What `--output json` prints of a job."""
    return {
        **brief(job),
        "live": not job.ended,
        "started": job.status.start_time,
        "completed": job.status.completion_time,
        "conditions": {
            condition.type: {"status": condition.status, "reason": condition.reason, "message": condition.message}
            for condition in job.status.conditions
        },
        "stages": {stage.name: _stage_json(stage, now) for stage in job.status.stages},
    }


def _stage_json(stage: StageStatus, now: datetime) -> dict[str, Any]:
    last, progress = last_attempt(stage), stage.progress
    seconds = None if stage.start_time is None else _seconds(stage.start_time, stage.end_time, now)
    return {
        "type": stage.type,
        "phase": stage.state,
        "attempt": None if last is None else last.number,
        "restarts": stage.restarts,
        "exitCode": None if last is None else last.exit_code,
        "reason": stage.reason,
        "message": stage.message,
        "product": stage.product,
        "seconds": seconds,
        "step": None if progress is None else progress.step,
        "total": None if progress is None else progress.total,
        "etaSeconds": None if progress is None else progress.eta_seconds,
        "headline": dict(_headline(stage)),
        "attempts": [attempt.model_dump(mode="json") for attempt in stage.attempts],
    }


def _phase(job: ClusterJob) -> str:
    if job.retrying:
        return f"{job.phase}, retry asked for"
    if job.suspended and job.phase not in ("Suspended", "Complete", "Failed", "Invalid"):
        return f"{job.phase}, suspending"
    return job.phase if job.status.phase is not None else "Pending, not seen by the operator yet"


def _step(stage: StageStatus) -> str:
    if stage.progress is None or not stage.progress.total:
        return ""
    return f"{stage.progress.step}/{stage.progress.total}"


def _eta(stage: StageStatus) -> str:
    seconds = None if stage.progress is None else stage.progress.eta_seconds
    return "" if seconds is None or stage.state != "Running" else duration(seconds)


def _headline(stage: StageStatus) -> dict[str, float]:
    return {} if stage.progress is None else stage.progress.headline


def _why(stage: StageStatus) -> str:
    """A stage's own reason, where its state does not say it all."""
    parts = [] if stage.state in DONE or stage.reason in (None, stage.state) else [str(stage.reason)]
    if stage.restarts:
        parts.append(plural(stage.restarts, "restart"))
    return ", ".join(parts)


def _ending(attempt: Attempt) -> str:
    """Reason, exit code and loss of an attempt that did not simply end well."""
    parts = [attempt.reason] if attempt.reason and attempt.reason != attempt.state else []
    if attempt.exit_code:
        parts.append(f"exit {attempt.exit_code}")
    if attempt.lost_steps:
        parts.append(f"{plural(attempt.lost_steps, 'step')} lost")
    return ", ".join(parts)


def _untold(stage: StageStatus, attempt: Attempt) -> bool:
    """Whether an attempt's message says what its stage's, which stands above it, does not."""
    if not attempt.message or attempt.state in ("Complete", "Running"):
        return False
    return stage.state in DONE or attempt.message not in (stage.message or "")


def _indented(text: str) -> Iterator[str]:
    return (f"  {line}" for line in text.splitlines())


def _duration(start: str | None, end: str | None, now: datetime) -> str:
    return "" if start is None else duration(_seconds(start, end, now))


def _seconds(start: str, end: str | None, now: datetime) -> float:
    last = now.astimezone(UTC) if end is None else datetime.fromisoformat(end)
    return max(0.0, (last - datetime.fromisoformat(start)).total_seconds())


def print_all(kubectl: Kubectl, output: Format) -> None:
    """One row a job of the namespace."""
    all_jobs, now = list(jobs.listed(kubectl)), datetime.now(UTC)
    if output is Format.JSON:
        emit({"jobs": [as_json(job, now) for job in all_jobs]})
    elif all_jobs:
        show(overview(all_jobs, now))
    else:
        show(f"no RLHFJobs in namespace {kubectl.namespace()}")


def print_job(job: ClusterJob, output: Format) -> None:
    """A job as it stands."""
    now = datetime.now(UTC)
    if output is Format.JSON:
        emit(as_json(job, now))
        return
    for part in _parts(job, now):
        show(part)


def print_until_ended(kubectl: Kubectl, job: ClusterJob) -> None:
    """A job until it has ended: redrawn in place on a terminal, else a line a change."""
    terminal = console()
    if not terminal.is_terminal:
        print_job(watch.wait_until(kubectl, job, lambda current: current.ended, show), Format.TEXT)
        return
    from rich.live import Live

    with Live(console=terminal, auto_refresh=False) as live:
        for current in watch.poll_job(kubectl, job):
            live.update(Group(*_parts(current, datetime.now(UTC))), refresh=True)
            if current.ended:
                return


def _parts(job: ClusterJob, now: datetime) -> list[RenderableType]:
    stages: list[RenderableType] = [table(job, now)] if job.status.stages else []
    return [*title(job, now), *stages, *messages(job)]
