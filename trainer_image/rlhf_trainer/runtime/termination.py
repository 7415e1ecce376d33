"""What came of a stage: one exit code, and a summary that fits a Kubernetes termination message."""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from rlhf_api.contract import GRACE_EXCEEDED
from rlhf_api.stage_file import StageFile
from rlhf_api.store import write_atomically
from rlhf_trainer.exits import DONE, FAILURE, GUARD, STOPPED, WRONG_INPUT, StageError

log = logging.getLogger(__name__)

LESS_MEMORY = (
    "Lower execution.microBatchTokens, set execution.gradientCheckpointing or a higher execution.zero, or raise the "
    "memory limit."
)

MAX_BYTES = 2048
"""Of the summary: what the operator reads of a pod's termination message."""


@dataclass(frozen=True)
class StageResult:
    """How a stage ended."""

    code: int
    reason: str
    message: str
    step: int = 0
    headline: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    raised: float | None = None
    """When the rank that is to blame raised, in seconds of the epoch; None: it was killed, or there is none. Of a
    gang's pods the earliest is to blame: the others raise because they lose a peer."""


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended.

    Attributes:
        exit: exit code; negative: the signal that killed it.
        report: its result file; None: it left none.
        killed_by_us: the launcher ended it because another rank had ended.
    """

    rank: int
    exit: int
    report: dict[str, Any] | None = None
    killed_by_us: bool = False


def of_error(error: StageError) -> StageResult:
    """The outcome of an error in the launcher itself."""
    return StageResult(error.code, error.reason, str(error))


def judge(ends: list[RankEnd], *, stop_requested: bool, grace_over: bool, grace: float) -> StageResult:
    """One outcome of all ranks' ends.

    The first match wins: wrong input or a guard on any rank; out of grace; a rank that was killed or failed on its own
    (a signal before an exception, because a rank that loses its peer raises too); stopped; done.

    Args:
        ends: of every rank of the pod, in the order in which they ended.
        stop_requested: the stage was asked to stop: a rank that SIGTERM ended had not begun, and is stopped as well.
        grace_over: ranks were killed because they did not stop in time.
        grace: seconds they had.
    """
    lead = min(ends, key=lambda end: end.rank)
    step, headline, result = _reported(lead, ends)

    def stage_result(code: int, reason: str, message: str) -> StageResult:
        return StageResult(code, reason, message, step, headline, result)

    for code in (WRONG_INPUT, GUARD):
        for end in ends:
            if end.exit == code and end.report is not None:
                return stage_result(code, str(end.report["reason"]), str(end.report["message"]))
    if grace_over:
        return stage_result(
            FAILURE,
            GRACE_EXCEEDED,
            f"asked to stop, no checkpoint within {grace:g} s: killed. The last checkpoint is used. Raise "
            "RLHF_GRACE_SECONDS (and the pod's terminationGracePeriodSeconds).",
        )
    stopped = {STOPPED, -signal.SIGTERM} if stop_requested else {STOPPED}
    failures = [end for end in ends if not end.killed_by_us and end.exit != DONE and end.exit not in stopped]
    if failures:
        root_cause = min(failures, key=_blame)
        return replace(stage_result(FAILURE, *_why(root_cause)), raised=_blame(root_cause)[1] or None)
    if any(end.exit in stopped for end in ends):
        report = next((end.report for end in ends if end.exit == STOPPED and end.report is not None), None)
        message = str(report["message"]) if report is not None else "stopped on request before its first step"
        return stage_result(STOPPED, "Stopped", message)
    unfinished = [end for end in ends if end.exit != DONE]
    return stage_result(FAILURE, *_why(unfinished[0])) if unfinished else stage_result(DONE, "Done", "done")


def _blame(end: RankEnd) -> tuple[int, float]:
    """Who failed first: a rank that was killed, then the earliest exception."""
    if end.exit < 0 or end.report is None:
        return 0, 0.0
    return 1, float(end.report.get("time", 0.0))


def _why(end: RankEnd) -> tuple[str, str]:
    if end.exit < 0:
        name = signal.Signals(-end.exit).name
        if name == "SIGKILL":
            return "Killed", (
                f"rank {end.rank} was killed by SIGKILL, most often because memory ran out (OOMKilled). {LESS_MEMORY}"
            )
        return "Crashed", f"rank {end.rank} was killed by {name}; its log has the last lines"
    if end.report is None:
        return (
            "Crashed",
            f"rank {end.rank} ended with exit code {end.exit} and left no message; its log has the last lines",
        )
    return str(end.report["reason"]), f"rank {end.rank}: {end.report['message']}"


def _reported(lead: RankEnd, ends: list[RankEnd]) -> tuple[int, dict[str, float], dict[str, Any]]:
    report = lead.report or next((end.report for end in ends if end.report is not None), None) or {}
    return int(report.get("step") or 0), dict(report.get("headline") or {}), dict(report.get("result") or {})


def summary(file: StageFile, stage_result: StageResult) -> bytes:
    """The termination summary: JSON of at most MAX_BYTES, the message cut first, then the headline left out."""
    full: dict[str, Any] = {
        "code": stage_result.code,
        "reason": stage_result.reason,
        "stage": file.stage,
        "type": file.type,
        "attempt": file.attempt,
        "step": stage_result.step,
        "message": stage_result.message,
        "headline": {name: float(f"{value:.6g}") for name, value in stage_result.headline.items()},
        **({"raised": stage_result.raised} if stage_result.raised else {}),
        **({"result": stage_result.result} if stage_result.result else {}),
    }
    for drop in ((), ("headline",), ("headline", "result")):
        fields = {name: value for name, value in full.items() if name not in drop}
        spare = MAX_BYTES - len(orjson.dumps({**fields, "message": ""}))
        if spare >= min(len(orjson.dumps(stage_result.message)), 200):
            return orjson.dumps({**fields, "message": _cut(stage_result.message, spare)})
    raise AssertionError("the summary's fixed fields alone are longer than a termination message")


def _cut(message: str, spare: int) -> str:
    """As much of a message's start as its JSON has room for."""
    if len(orjson.dumps(message)) - 2 <= spare:
        return message
    low, high = 0, len(message)
    while low < high:
        middle = (low + high + 1) // 2
        if len(orjson.dumps(message[:middle] + " ...")) - 2 <= spare:
            low = middle
        else:
            high = middle - 1
    return message[:low] + " ..."


def write_summary(file: StageFile, stage_result: StageResult, *, lead: bool = True) -> None:
    """Write the summary where the executor reads it; the gang's first pod, also to work/termination.json, which all share.

    Every pod tells: the one whose rank was killed may be any.
    """
    content = summary(file, stage_result)
    try:
        if file.directories.termination_message is not None:
            # A pod's termination message is a mounted file: it is written in place, it cannot be renamed over.
            Path(file.directories.termination_message).write_bytes(content)
        if lead:
            write_atomically(Path(file.directories.work) / "termination.json", content)
    except OSError as error:
        log.error("the summary could not be written (%s): %s", error, content.decode())
