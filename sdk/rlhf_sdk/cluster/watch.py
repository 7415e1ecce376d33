"""Looks at a job again and again, and tells what changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rlhf_api.status import StageStatus
from rlhf_sdk.cluster.jobs import DONE, ClusterJob, get, last_attempt
from rlhf_sdk.cluster.kubectl import Away, Kubectl, Unserved
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import complain

SECONDS = 2.0
"""Between two looks."""


def poll_job(kubectl: Kubectl, job: ClusterJob, pause: Callable[[float], None] = time.sleep) -> Iterator[ClusterJob]:
    """The job as it stands, now and every few seconds; a cluster that does not answer for a while is waited for.

    Raises:
        CommandError: the job is gone, or another one has its name.
    """
    yield job
    away = False
    while True:
        pause(SECONDS)
        try:
            job = reload_job(kubectl, job)
        except (Away, Unserved) as error:
            if not away:
                complain(f"the cluster does not answer, trying again: {error}")
            away = True
            continue
        if away:
            complain("the cluster answers again")
        away = False
        yield job


def reload_job(kubectl: Kubectl, job: ClusterJob) -> ClusterJob:
    """The same job as it stands now.

    Raises:
        CommandError: it is gone, or another one has its name.
    """
    current = get(kubectl, job.name)
    if current.uid != job.uid:
        raise CommandError(f"{job.name}: was deleted, and another job of that name made (uid {current.uid})")
    return current


def wait_until(
    kubectl: Kubectl,
    job: ClusterJob,
    true: Callable[[ClusterJob], bool],
    tell: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> ClusterJob:
    """Tell of every change until the condition is true of the job; gives the job."""
    shown: dict[str, str] = {}
    for current in poll_job(kubectl, job, pause):
        now = lines(current)
        for what, line in now.items():
            if shown.get(what) != line:
                tell(f"{time.strftime('%H:%M:%S')} {line}")
        shown = now
        if true(current):
            return current
    raise AssertionError("polling never ends by itself")


def wait_for_end(kubectl: Kubectl, job: ClusterJob) -> tuple[ClusterJob, Exit]:
    """Tell on stderr how the job goes until it has ended, then what to do next; gives it and its exit code."""
    target = kubectl.target.within(job.namespace)
    try:
        ended = wait_until(kubectl, job, lambda current: current.ended, complain)
    except KeyboardInterrupt:
        complain(f"{job.name} goes on; watch it again: {target.command('status', job.name, '--watch')}")
        raise
    if ended.exit is Exit.DONE:
        complain(f"its report: {target.command('pull', job.name)}")
    elif ended.failed is not None:
        complain(f"its log: {target.command('logs', job.name, ended.failed.name)}")
        complain(f"from the failed stage on, once the cause is mended: {target.command('retry', job.name)}")
    return ended, ended.exit


def lines(job: ClusterJob) -> dict[str, str]:
    """What is worth a line when it changes, by what it is about."""
    texts = {"": f"{job.name}: {job.phase}"}
    for condition in job.status.conditions:
        if condition.type == "Stalled" and condition.status == "True" and not job.holds("Failed"):
            texts["Stalled"] = f"{job.name}: {condition.reason}: {condition.message}"
    for stage in job.status.stages:
        if stage.state != "Waiting":
            texts[stage.name] = _line(stage)
    return texts


def _line(stage: StageStatus) -> str:
    last = last_attempt(stage)
    text = f"{stage.name}: {stage.state}"
    if last is not None and last.number > 0 and stage.state not in DONE:
        text += f", attempt {last.number}"
    if stage.state in ("Running", *DONE):
        return text
    words = ": ".join(word for word in (stage.reason, stage.message) if word and word != stage.state)
    return f"{text}: {words}" if words else text
