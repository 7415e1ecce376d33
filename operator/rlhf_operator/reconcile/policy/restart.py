"""Whether and when a stage that ended is tried again. Disruptions do not count against maxRestarts."""

from __future__ import annotations

from datetime import datetime

from rlhf_api import faults
from rlhf_api.lifecycle import restores_budget
from rlhf_api.status import StageStatus
from rlhf_operator.reconcile import times
from rlhf_operator.reconcile.observed.gang import AttemptPods
from rlhf_operator.reconcile.settings import Timings


def without_progress(stage: StageStatus) -> int:
    """Disruptions at the end of a stage's attempts since its last retry, in a row, in which no step was made."""
    count = 0
    step: int | None = None
    for attempt in reversed(stage.attempts):
        if attempt.number < (stage.counts_from or 0) or attempt.state != "Disrupted":
            break
        if step is not None and (attempt.last_step or 0) < step:
            break
        step = attempt.last_step or 0
        count += 1
    return count


def counted(stage: StageStatus, gang: AttemptPods, now: datetime) -> int:
    """Restarts that count, as the stage's last attempt ends: none any more, where it came further and ran for long."""
    *before, last = stage.attempts
    if gang.started_at is None or last.reason == faults.STUCK.reason:
        return stage.restarts  # how long it ran is not known, or it hung
    seconds = ((gang.ended_at or now) - gang.started_at).total_seconds()
    furthest = max((attempt.last_step or 0 for attempt in before), default=0)
    return 0 if restores_budget(seconds, last.last_step, furthest) else stage.restarts


def delay(stage: StageStatus, timings: Timings) -> float:
    """Seconds between a stage's last attempt and its next: 10 s, doubled up to 6 min; none after a stop."""
    if not stage.attempts or stage.attempts[-1].state == "Stopped":
        return 0.0
    last = stage.attempts[-1]
    before = stage.restarts if last.counted else without_progress(stage)
    return float(min(timings.backoff_limit, timings.backoff * 2 ** min(20, max(0, before - 1))))


def due(stage: StageStatus, timings: Timings) -> datetime | None:
    """When the next attempt may begin; None: at once."""
    wait = delay(stage, timings)
    if wait == 0 or stage.attempts[-1].end_time is None:
        return None
    return times.after(stage.attempts[-1].end_time, wait)
