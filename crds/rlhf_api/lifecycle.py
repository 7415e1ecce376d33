"""How a job goes on: which stages start, stop or are left out, and what the end of an attempt means. Pure.

The operator and the local runner ask here, so that a job goes the same way on a cluster and on a laptop.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from rlhf_api.contract import (
    BLOCKED,
    BUSY,
    COMPLETE,
    DEADLINE,
    DISRUPTED_TOO_OFTEN,
    SIBLING_FAILED,
    STARTABLE,
    STOPPED_ON_REQUEST,
    SUSPENDED,
    UNEXPLAINED,
    StageState,
)
from rlhf_api.plan import Plan, PlannedStage
from rlhf_api.stages import PREPARE, REPORT

Wish = Literal["run", "suspend", "fail"]
"""`run`: go on; `suspend`: stop with checkpoints; `fail`: the deadline has passed."""


@dataclass(frozen=True)
class StageRecord:
    """How a stage stands, as far as the lifecycle and the report need to know."""

    state: StageState
    attempts: int = 0
    """Attempts begun."""
    restarts: int = 0
    """Attempts that counted against maxRestarts."""
    exit_code: int | None = None
    """Of the attempt that made it fail."""
    reason: str = ""
    """One word why it failed."""
    message: str = ""
    """In the words of whoever ended it, without the names of pods and nodes: a report of the same end is the same."""

    @property
    def complete(self) -> bool:
        """Its product is in place."""
        return self.state in COMPLETE


Records = Mapping[str, StageRecord]
"""Of every stage of the plan, by name."""


@dataclass(frozen=True)
class Actions:
    """What to do about a job now. After `skip`, `fail` or `reuse` it is asked again: more may follow from them."""

    stop: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Stages whose attempt is to end: reason and message."""
    skip: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Stages that will not run: reason and message."""
    fail: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Stages that fail without an attempt: reason and message."""
    reuse: tuple[str, ...] = ()
    """Stages whose product prepare found: there is nothing to compute."""
    start: tuple[str, ...] = ()
    """Stages that may start, in the plan's order: all that they take is there."""
    end: Literal["Complete", "Failed", "Suspended"] | None = None
    """How the job ends, or rests."""


class HasState(Protocol):
    """A stage, as whoever keeps it has it."""

    @property
    def state(self) -> StageState:
        """What it does now."""


def failed_stage(plan: Plan, stages: Mapping[str, HasState]) -> PlannedStage | None:
    """The first stage that failed, in the plan's order; the report last."""
    return next((stage for stage in plan.stages if stages[stage.name].state == "Failed"), None)


def winding_up(plan: Plan, stages: Mapping[str, HasState]) -> bool:
    """Whether a stage other than the report failed: the others are stopped, then the report runs."""
    return any(stages[stage.name].state == "Failed" and stage.type != REPORT for stage in plan.stages)


def next_actions(plan: Plan, records: Records, wish: Wish, deadline: float | None = None) -> Actions:
    """What to do about a job.

    Args:
        plan: the job's.
        records: how its stages stand.
        wish: what is wanted of it.
        deadline: its activeDeadlineSeconds, for the message.
    """
    if all(record.complete for record in records.values()):
        return Actions(end="Complete")
    busy = [stage for stage in plan.stages if records[stage.name].state in BUSY]
    startable = [stage for stage in plan.stages if records[stage.name].state in STARTABLE]
    late = DEADLINE, f"activeDeadlineSeconds: {deadline} s of active time have passed"
    failed = failed_stage(plan, records)
    if failed is not None and failed.type != REPORT:
        return _wind_up(plan, records, failed, busy, startable, wish)
    stops = {"run": None, "suspend": (SUSPENDED, "stopped on request"), "fail": late}
    reason = stops[wish]
    stop = {} if reason is None else {stage.name: reason for stage in busy}
    reuse = tuple(stage.name for stage in startable if stage.hit and not records[stage.name].attempts)
    if reuse:
        return Actions(stop=stop, reuse=reuse)
    if wish == "suspend":
        return Actions(stop=stop, end=None if busy else "Suspended")
    if failed is not None:  # the report, after everything else went well
        return Actions(end="Failed")
    ready = [stage.name for stage in startable if all(records[name].complete for name in stage.needs)]
    if wish == "fail":
        return Actions(stop=stop, fail={} if busy else dict.fromkeys(ready[:1], late))
    return Actions(start=tuple(ready))


def _wind_up(
    plan: Plan,
    records: Records,
    failed: PlannedStage,
    busy: list[PlannedStage],
    startable: list[PlannedStage],
    wish: Wish,
) -> Actions:
    """A stage failed: the others are stopped or left out; then the report says so, if prepare found what it tells of."""
    suspended = wish == "suspend"
    report = plan.stages[-1]
    stop = {stage.name: (SIBLING_FAILED, f"stopped, because {failed.name} failed") for stage in busy if stage != report}
    if suspended and report in busy:
        stop[report.name] = SUSPENDED, "stopped on request"
    tells = report in startable and (records[PREPARE].complete or suspended)
    skip = {
        stage.name: (
            STOPPED_ON_REQUEST if records[stage.name].attempts else BLOCKED,
            f"not run, because {failed.name} failed",
        )
        for stage in startable
        if stage != report or not tells
    }
    if busy:
        return Actions(stop=stop, skip=skip)
    if suspended:
        return Actions(skip=skip, end="Suspended" if tells else "Failed")
    return Actions(skip=skip, start=(report.name,)) if tells else Actions(skip=skip, end="Failed")


@dataclass(frozen=True)
class AttemptResult:
    """How an attempt ended."""

    state: Literal["Complete", "Failed", "Disrupted", "Stopped"]
    """`Failed`: of itself; `Disrupted`: by the platform; `Stopped`: on request."""
    reason: str = ""
    """One word."""
    message: str = ""
    """In words."""
    exit_code: int | None = None
    """The trainer's."""
    final: bool = False
    """Another attempt cannot help."""


@dataclass(frozen=True)
class RetryBudget:
    """What a stage may still try."""

    restarts: int
    """Attempts that counted so far."""
    max_restarts: int
    """Attempts that may count."""
    disruptions: int = 0
    """Disruptions in a row in which no step was made, this one among them."""
    max_disruptions: int | None = None
    """After so many the stage fails; None: no limit."""
    needed: bool = True
    """Whether the job still needs the stage: not once another has failed."""


STEADY_SECONDS = 3600.0
"""An attempt that ran so long and came further than all before it shows that restarts help: they are counted anew. Crashes
in quicker succession cost more than they bring, whatever they add."""


def restores_budget(seconds: float, step: int | None, furthest: int | None) -> bool:
    """Whether an attempt that failed gives the stage its restarts back: one crash in days ends no long run.

    Args:
        seconds: how long it ran.
        step: the last step it came to; None: not known.
        furthest: the last step of all attempts before it; None: there are none, or none came to a step.
    """
    return seconds >= STEADY_SECONDS and (step or 0) > (furthest or 0)


Verdict = Literal["complete", "retry", "retry uncounted", "suspend", "skip", "fail", "fail: disrupted too often"]
Condition = Literal["always", "final", "unwanted", "restarts used up", "disrupted too often"]

DECISIONS: tuple[tuple[str, Condition, Verdict], ...] = (
    ("Complete", "always", "complete"),
    ("Stopped", "unwanted", "skip"),
    ("Stopped", "always", "suspend"),
    ("Disrupted", "unwanted", "skip"),
    ("Disrupted", "disrupted too often", "fail: disrupted too often"),
    ("Disrupted", "always", "retry uncounted"),
    ("Failed", "final", "fail"),
    ("Failed", "unwanted", "fail"),
    ("Failed", "restarts used up", "fail"),
    ("Failed", "always", "retry"),
)
"""What follows the end of an attempt: how it ended, a condition, the verdict. The first row that holds decides."""


def decide(result: AttemptResult, budget: RetryBudget) -> Verdict:
    """What follows the end of an attempt: `DECISIONS`, read from the top."""
    holds: dict[Condition, bool] = {
        "always": True,
        "final": result.final,
        "unwanted": not budget.needed,
        "restarts used up": budget.restarts >= budget.max_restarts,
        "disrupted too often": budget.max_disruptions is not None and budget.disruptions >= budget.max_disruptions,
    }
    return next(verdict for state, condition, verdict in DECISIONS if state == result.state and holds[condition])


def disrupted_too_often(result: AttemptResult, budget: RetryBudget) -> AttemptResult:
    """The end of a stage whose attempts the platform ended over and over."""
    message = f"{budget.max_disruptions} disruptions in a row without a step; the last: {result.message}"
    return AttemptResult("Failed", DISRUPTED_TOO_OFTEN, message, result.exit_code, final=True)


def signal_name(code: int) -> str | None:
    """`SIGKILL` for 137; None when the code is not a signal's."""
    try:
        return signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        return None


def reason_of(code: int) -> str:
    """One word for an end that the trainer did not explain."""
    return signal_name(code) or UNEXPLAINED


def describe_exit(code: int) -> str:
    """An end that the trainer did not explain, in words."""
    name = signal_name(code)
    if name == "SIGKILL":
        return "killed by the system (SIGKILL), most often for want of memory; smaller batches need less"
    how = f"killed by {name}" if name else f"ended with exit code {code}"
    return f"{how}, and left no message; see its log"
