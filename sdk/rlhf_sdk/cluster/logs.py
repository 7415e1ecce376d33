"""A stage's log: from its pod while that is there, then from the storage, where every rank leaves its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from rlhf_api import names
from rlhf_api.status import StageStatus
from rlhf_sdk.cluster import reader_pod
from rlhf_sdk.cluster.jobs import DONE, OPEN, ClusterJob, last_attempt
from rlhf_sdk.cluster.kubectl import Kubectl, refusal
from rlhf_sdk.cluster.reader import Reader
from rlhf_sdk.cluster.stream_process import BLOCK, Piped, piped
from rlhf_sdk.cluster.watch import SECONDS, reload_job, wait_until
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Log, complain


@dataclass(frozen=True)
class LogRequest:
    """What of a stage's logs is meant."""

    stage: str
    rank: str = "0"
    """A number; or `launcher`, of the first pod, `launcher1` of the second, ..."""
    attempt: int | None = None
    """None: the last."""
    tail: int | None = None
    """Lines from the end; None: all."""
    stored: bool = False
    """Not from the pod, although it is there."""


def lines(kubectl: Kubectl, job: ClusterJob, request: LogRequest) -> tuple[int, str, list[str]]:
    """Attempt, where its log is, and the log.

    Raises:
        CommandError: there is none; says which there are, or why it has not begun.
    """
    attempt = _chosen(job, request)
    pod = _pod(kubectl, job, request, attempt)
    why = _waits(job, request, attempt, pod)
    if why is not None:
        raise CommandError(f"{request.stage}: attempt {attempt} has not started: {why}", Exit.INVALID)
    if pod is not None:
        name = pod["metadata"]["name"]
        with _printed(kubectl, name, request) as process:
            text = b"".join(iter(lambda: process.read(BLOCK), b"")).decode(errors="replace")
        return attempt, f"pod/{name}", text.splitlines()
    with reader_pod.reader(kubectl, job) as reader:
        file = stored(reader, job, request, attempt)
        return attempt, file, reader.lines(file, request.tail)


def follow(kubectl: Kubectl, job: ClusterJob, request: LogRequest) -> None:
    """Print the log as it grows, until the attempt ends; one that has not begun is waited for."""
    job = _begun(kubectl, job, request)
    attempt = _chosen(job, request)

    def lasting() -> bool:
        last = last_attempt(reload_job(kubectl, job).stage(request.stage))
        return last is not None and last.number == attempt and last.state in OPEN

    shown_reason = None
    while (why := _waits(job, request, attempt, pod := _pod(kubectl, job, request, attempt))) is not None:
        if why != shown_reason:
            complain(f"{request.stage}: attempt {attempt} has not started: {why}")
            shown_reason = why
        time.sleep(SECONDS)
        job = reload_job(kubectl, job)
    if pod is not None:
        _stream(kubectl, pod["metadata"]["name"], request, lasting)
        return
    with reader_pod.reader(kubectl, job) as reader:
        reader.follow(stored(reader, job, request, attempt), request.tail, Log().write, lasting)


def stored(reader: Reader, job: ClusterJob, request: LogRequest, attempt: int) -> str:
    """Path of a log on the storage.

    Raises:
        CommandError: there is none; says which there are.
    """
    folder = f"work/{job.uid}/{request.stage}/logs"
    files = reader.sizes(folder)
    name = request.rank if request.rank.startswith("launcher") else f"rank{request.rank}"
    for file in (f"{folder}/a{attempt}/{name}.log", *_instead(folder, request, attempt)):
        if file in files:
            return file
    existing = sorted(
        path.removeprefix(f"{folder}/").removesuffix(".log").replace("/rank", " rank ").replace("/", " ")
        for path in files
    )
    raise CommandError(
        f"{request.stage}: no log of rank {request.rank} in attempt {attempt} on the storage; "
        f"there are: {', '.join(existing) or 'none'}",
        Exit.INVALID,
    )


def _instead(folder: str, request: LogRequest, attempt: int) -> Sequence[str]:
    """The launcher's log where its ranks had not started."""
    return (f"{folder}/a{attempt}/launcher.log",) if request.rank == "0" else ()


def _chosen(job: ClusterJob, request: LogRequest) -> int:
    stage = job.stage(request.stage)
    last = last_attempt(stage)
    if last is None:
        raise CommandError(f"{stage.name}: no logs: {_unbegun(stage)}", Exit.INVALID)
    if request.attempt is not None and request.attempt > last.number:
        raise CommandError(
            f"{stage.name}: no attempt {request.attempt}; the last is attempt {last.number}", Exit.INVALID
        )
    return last.number if request.attempt is None else request.attempt


def _unbegun(stage: StageStatus) -> str:
    if stage.state in DONE:
        return "its product was there and is reused"
    words = ": ".join(word for word in (stage.reason, stage.message) if word)
    return f"it has not begun ({stage.state}{f': {words}' if words else ''})"


def _begun(kubectl: Kubectl, job: ClusterJob, request: LogRequest) -> ClusterJob:
    """The job once the stage has an attempt; what happens meanwhile is told."""

    def true(current: ClusterJob) -> bool:
        if current.ended:
            return True
        stages = [stage for stage in current.status.stages if stage.name == request.stage]
        return any(stage.attempts or stage.state in DONE for stage in stages)

    if not job.status.stages or not true(job):
        return wait_until(kubectl, job, true, complain)
    return job


def _waits(job: ClusterJob, request: LogRequest, attempt: int, pod: dict[str, Any] | None) -> str | None:
    """Why an attempt has no log yet; None: it has, or never will."""
    stage = job.stage(request.stage)
    last = last_attempt(stage)
    if last is None or last.number != attempt or last.state not in OPEN:
        return None
    if pod is not None:
        started, why = reader_pod.state_of(pod)
        return None if started else why
    words = ": ".join(word for word in (stage.reason, stage.message) if word)
    return words or "Pending" if last.state == "Pending" else None


def _pod(kubectl: Kubectl, job: ClusterJob, request: LogRequest, attempt: int) -> dict[str, Any] | None:
    """The pod whose own log it is: the launcher's, with the rank 0 in the first."""
    text = request.rank.removeprefix("launcher") or "0"
    if request.stored or (request.rank != "0" and not request.rank.startswith("launcher")) or not text.isdigit():
        return None
    attempt_pods = reader_pod.pods_of(kubectl, job, request.stage, attempt)
    return next((pod for pod in attempt_pods if reader_pod.index_of(pod) == int(text)), None)


def _stream(kubectl: Kubectl, pod: str, request: LogRequest, lasting: Callable[[], bool]) -> None:
    log = Log()
    with _printed(kubectl, pod, request, "--follow") as process:
        while block := process.read(BLOCK):
            log.write(block)
    if lasting():
        complain(f"{request.stage}: the stream ended, but the attempt goes on; follow it again")


def _printed(kubectl: Kubectl, pod: str, request: LogRequest, *flags: str) -> AbstractContextManager[Piped]:
    """kubectl as it prints a pod's log: with no bound on the time that takes."""
    tail = () if request.tail is None else (f"--tail={request.tail}",)
    return piped(kubectl.command("logs", pod, f"--container={names.CONTAINER}", *tail, *flags), refusal)
