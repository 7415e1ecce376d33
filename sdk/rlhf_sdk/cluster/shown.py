"""Prints what `rlhf status` shows of jobs on a cluster."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Group, RenderableType

from rlhf_sdk.cluster import following, jobs, views
from rlhf_sdk.cluster.jobs import ClusterJob
from rlhf_sdk.cluster.kubectl import Kubectl
from rlhf_sdk.output import Format, console, emit, show


def print_all(kubectl: Kubectl, output: Format) -> None:
    """One row a job of the namespace."""
    all_jobs, now = list(jobs.listed(kubectl)), datetime.now(UTC)
    if output is Format.JSON:
        emit({"jobs": [views.as_json(job, now) for job in all_jobs]})
    elif all_jobs:
        show(views.overview(all_jobs, now))
    else:
        show(f"no RLHFJobs in namespace {kubectl.namespace()}")


def print_job(job: ClusterJob, output: Format) -> None:
    """A job as it stands."""
    now = datetime.now(UTC)
    if output is Format.JSON:
        emit(views.as_json(job, now))
        return
    for part in _parts(job, now):
        show(part)


def watch(kubectl: Kubectl, job: ClusterJob) -> None:
    """A job until it has ended: redrawn in place on a terminal, else a line a change."""
    terminal = console()
    if not terminal.is_terminal:
        print_job(following.wait_until(kubectl, job, lambda current: current.ended, show), Format.TEXT)
        return
    from rich.live import Live

    with Live(console=terminal, auto_refresh=False) as live:
        for current in following.poll_job(kubectl, job):
            live.update(Group(*_parts(current, datetime.now(UTC))), refresh=True)
            if current.ended:
                return


def _parts(job: ClusterJob, now: datetime) -> list[RenderableType]:
    table: list[RenderableType] = [views.table(job, now)] if job.status.stages else []
    return [*views.title(job, now), *table, *views.messages(job)]
