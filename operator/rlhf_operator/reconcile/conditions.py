"""The conditions, as kstatus reads them, and the job in a few words for `kubectl get`.

A job is Ready once its first gang runs and while it goes well, as a batch Job is Current once it started; Reconciling
until then; Stalled when a person must act; Complete or Failed at its end.
"""

from __future__ import annotations

from typing import Literal

from rlhf_api.contract import COMPLETE
from rlhf_api.status import Condition, JobStatus, StageStatus
from rlhf_operator.reconcile import naming, reasons, times
from rlhf_operator.reconcile.outcome import Raw
from rlhf_operator.reconcile.run import ReconcileContext
from rlhf_operator.reconcile.stored import profile_of

Truth = Literal["True", "False", "Unknown"]
Phase = Literal["Pending", "Preparing", "Running", "Suspended", "Complete", "Failed", "Invalid"]
WAITING = ("Queued", "Pending")
"""States of a stage that has begun and does not run: who holds it up is told of the job, too."""


def judge(run: ReconcileContext) -> None:
    """Write conditions, phase, stage and progress from how the stages stand."""
    phase = _phase(run)
    started = run.status.phase in ("Preparing", "Running") or any(
        attempt.state != "Pending" for stage in run.stages.values() for attempt in stage.attempts
    )
    verdicts = {
        "Ready": _ready(run, phase, started=started),
        "Reconciling": _reconciling(phase, started=started),
        "Stalled": _stalled(run, phase),
        "Complete": _end(phase == "Complete", reasons.COMPLETE, "every stage is complete, the report is written"),
        "Failed": _end(phase == "Failed", *_failure(run)),
        "Suspended": _suspended(run, phase),
    }
    status = run.status
    generation = run.raw["metadata"].get("generation")
    written = {condition.type: condition for condition in status.conditions}
    conditions = [
        _condition(written.get(kind), kind, *verdict, now=times.write(run.now), generation=generation)
        for kind, verdict in verdicts.items()
    ]
    changes = {
        "phase": phase,
        "conditions": conditions,
        "observed_generation": generation,
        "stage": _stage(run),
        "progress": _progress(run),
        "stages": list(run.stages.values()),
    }
    run.status = status.model_copy(update=changes)


def invalid(status: JobStatus, reason: str, message: str, *, now: str, generation: int | None) -> JobStatus:
    """The status of a job that cannot be run as it is written; no child is made."""
    text = naming.cut(message, 4096)
    verdicts: dict[str, tuple[bool, str, str]] = {
        "Ready": (False, reason, text),
        "Reconciling": (False, reason, ""),
        "Stalled": (True, reason, text),
        "Complete": (False, reasons.NOT_FINISHED, ""),
        "Failed": (False, reasons.NOT_FINISHED, ""),
        "Suspended": (False, reasons.NOT_SUSPENDED, ""),
    }
    written = {condition.type: condition for condition in status.conditions}
    conditions = [
        _condition(written.get(kind), kind, *verdict, now=now, generation=generation)
        for kind, verdict in verdicts.items()
    ]
    return status.model_copy(update={"phase": "Invalid", "conditions": conditions, "observed_generation": generation})


def troubled(status: Raw, reason: str, message: str, *, now: str) -> Raw:
    """A status, read raw, that says besides why nothing can be done about the job: Stalled, and not Ready."""
    conditions = [condition for condition in status.get("conditions") or () if isinstance(condition, dict)]
    changed = {}
    for kind, holds in (("Ready", "False"), ("Stalled", "True")):
        before = next((condition for condition in conditions if condition.get("type") == kind), {})
        since = before.get("lastTransitionTime") if before.get("status") == holds else None
        changed[kind] = {
            **before,
            "type": kind,
            "status": holds,
            "reason": reason,
            "message": naming.cut(message, 4096),
            "lastTransitionTime": since or now,
        }
    others = [changed.pop(str(condition.get("type")), condition) for condition in conditions]
    return {**status, "conditions": [*others, *changed.values()]}


def _condition(
    before: Condition | None, kind: str, holds: bool, reason: str, message: str, *, now: str, generation: int | None
) -> Condition:
    status: Truth = "True" if holds else "False"
    same = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        lastTransitionTime=before.last_transition_time if same and before is not None else now,
        observedGeneration=generation,
    )


def _phase(run: ReconcileContext) -> Phase:
    """The one word; `Complete` and `Failed` are for good, until a retry."""
    if all(stage.state in COMPLETE for stage in run.stages.values()):
        return "Complete"
    settled = all(stage.state in (*COMPLETE, "Failed", "Skipped") for stage in run.stages.values())
    if run.failed is not None and settled:
        return "Failed"
    busy = any(True for _ in run.open())
    if run.job.spec.suspend and not busy:
        return "Suspended"
    if not run.prepared:
        running = any(attempt.state == "Running" for _, attempt in run.open())
        return "Preparing" if running else "Pending"
    return "Running"


def _failure(run: ReconcileContext) -> tuple[str, str]:
    failed = run.failed
    if failed is None:
        return reasons.FAILED, ""
    return failed.reason or reasons.STAGE_FAILED, naming.cut(f"{failed.name}: {failed.message or ''}", 4096)


def _end(holds: bool, reason: str, message: str) -> tuple[bool, str, str]:
    return (True, reason, message) if holds else (False, reasons.NOT_FINISHED, "")


def _ready(run: ReconcileContext, phase: Phase, *, started: bool) -> tuple[bool, str, str]:
    if phase == "Complete":
        return True, reasons.COMPLETE, "every stage is complete"
    if phase == "Failed":
        return False, *_failure(run)
    if run.stalled is not None:
        return False, run.stalled[0], naming.cut(run.stalled[1], 4096)
    if phase == "Suspended":
        return False, reasons.SUSPENDED, "spec.suspend is true"
    if run.winding_up:
        return False, *_failure(run)
    left_out = [words for name, text in run.status.profiles.items() for words in profile_of(name, text)[1]]
    notes = [f"a newer operator pinned what this one leaves out: {'; '.join(left_out)}"] if left_out else []
    notes += [
        f"{stage.name}: {stage.message}" for stage in run.stages.values() if stage.state in WAITING and stage.message
    ]
    return started, reasons.RUNNING if started else reasons.ACCEPTED, naming.cut("; ".join(notes), 4096)


def _reconciling(phase: Phase, *, started: bool) -> tuple[bool, str, str]:
    if phase in ("Complete", "Failed"):
        return False, reasons.COMPLETE if phase == "Complete" else reasons.FAILED, ""
    if phase == "Suspended":
        return False, reasons.SUSPENDED, ""
    return not started, reasons.RUNNING if started else reasons.ACCEPTED, ""


def _stalled(run: ReconcileContext, phase: Phase) -> tuple[bool, str, str]:
    if phase == "Failed":
        return True, *_failure(run)
    if run.stalled is not None and phase != "Complete":
        return True, run.stalled[0], naming.cut(run.stalled[1], 4096)
    return False, reasons.NOT_STALLED, ""


def _suspended(run: ReconcileContext, phase: Phase) -> tuple[bool, str, str]:
    if phase in ("Complete", "Failed") or not run.job.spec.suspend:
        return False, reasons.NOT_SUSPENDED, ""
    if phase == "Suspended":
        return True, reasons.SUSPENDED, "spec.suspend is true; nothing runs"
    return False, reasons.SUSPENDING, "running stages save their checkpoints"


def _stage(run: ReconcileContext) -> str | None:
    """Stages that run now, or the last one that did."""
    now = [planned.name for planned, _ in run.open()]
    if now:
        return ",".join(now)[:1024]
    failed = run.failed
    if failed is not None:
        return failed.name
    tried = [stage.name for stage in run.stages.values() if stage.attempts or stage.state in COMPLETE]
    return tried[-1] if tried else None


def _progress(run: ReconcileContext) -> str | None:
    """Steps of the stages that run; of the whole, stages done."""
    steps = [text for planned, _ in run.open() if (text := _steps(run.stages[planned.name])) is not None]
    done = sum(1 for stage in run.stages.values() if stage.state in COMPLETE)
    summary = f"{done}/{len(run.stages)} stages"
    return (f"{summary}, {', '.join(steps)}" if steps else summary)[:128]


def _steps(stage: StageStatus) -> str | None:
    progress = stage.progress
    if progress is None or progress.total == 0:
        return None
    remaining = "" if progress.eta_seconds is None else f" {_time(progress.eta_seconds)} left"
    return f"{progress.step}/{progress.total}{remaining}"


def _time(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m" if minutes else f"{int(seconds)}s"
