"""Which stages to start and stop: pure. Given the plan, how stages stand, a core budget and the time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rlhf_api.plan import Plan, PlannedStage
from rlhf_api.stages import PREPARE
from rlhf_sdk.exits import Exit
from rlhf_sdk.local.state import StageState

Intent = Literal["run", "stop", "fail"]
"""`run`: go on; `stop`: the user said so; `fail`: the deadline has passed."""


@dataclass(frozen=True)
class Budget:
    """What all running stages may take together."""

    cores: int
    memory: int | None = None
    """Bytes; None: not minded."""
    needs: Mapping[str, int] = field(default_factory=dict)
    """Bytes of all ranks of a stage, where they are known."""
    gpu: bool = False
    """Whether stages compute on GPUs, which every rank takes from the first on: one stage at a time."""

    def fits(self, stage: str, others: Iterable[str]) -> bool:
        """Whether there is room for a stage beside others; memory that is not known counts as nothing."""
        if self.gpu:
            return not list(others)
        if self.memory is None:
            return True
        return sum(self.needs.get(name, 0) for name in (stage, *others)) <= self.memory


@dataclass(frozen=True)
class Start:
    """A stage to be started."""

    name: str
    threads: int
    """Threads a rank."""


@dataclass(frozen=True)
class Decision:
    """What to do now."""

    start: tuple[Start, ...] = ()
    stop: tuple[str, ...] = ()
    """Running stages that should be asked to stop."""
    blocked: tuple[str, ...] = ()
    """Stages that will not run."""
    end: Literal["done", "failed", "stopped"] | None = None
    """The run is over."""
    wake: float | None = None
    """When to decide again, if nothing happens before."""


def ranks(stage: PlannedStage) -> int:
    """Processes of a stage: on one machine all nodes' ranks run here, so that the result is the cluster's."""
    return (stage.nodes or 1) * (stage.ranks_per_node or 1)


def decide(
    plan: Plan,
    states: Mapping[str, StageState],
    budget: Budget,
    *,
    now: float = 0.0,
    intent: Intent = "run",
    not_before: Mapping[str, float] | None = None,
) -> Decision:
    """What to start and stop.

    Args:
        plan: the job's.
        states: by stage, all of the plan's.
        budget: the ranks of running stages times their threads stay within its cores, and their estimates within its
            memory, but for a single stage that alone is more than that.
        now: monotonic seconds.
        intent: what is wanted of the run.
        not_before: when a stage that waits for its restart may start.
    """
    waits = not_before or {}
    running = [stage for stage in plan.stages if states[stage.name].phase == "running"]
    if all(states[stage.name].complete for stage in plan.stages):
        return Decision(end="done")
    if intent == "stop":
        return Decision(stop=_names(running), end=None if running else "stopped")
    failing = intent == "fail" or any(states[stage.name].phase == "failed" for stage in plan.stages)
    if failing:
        return _wind_up(plan, states, budget, running, waits, now)
    able = [
        stage
        for stage in plan.stages
        if states[stage.name].phase in ("pending", "stopped")
        and all(states[name].complete for name in stage.needs if name in states)
    ]
    ready = [stage for stage in able if waits.get(stage.name, now) <= now]
    later = [waits[stage.name] for stage in able if waits.get(stage.name, now) > now]
    return Decision(start=share(ready, running, states, budget), wake=min(later, default=None))


def share(
    ready: list[PlannedStage], running: list[PlannedStage], states: Mapping[str, StageState], budget: Budget
) -> tuple[Start, ...]:
    """Divide the free cores among the ready stages, in the plan's order; who finds no core, or too little memory, waits.

    A stage that was stopped keeps its threads. A stage alone gets all the cores.
    """
    free = budget.cores - sum(ranks(stage) * max(1, states[stage.name].threads) for stage in running)
    beside = [stage.name for stage in running]
    chosen: list[PlannedStage] = []
    for stage in ready:
        left = free - sum(ranks(other) for other in chosen)
        if not beside or (ranks(stage) <= left and budget.fits(stage.name, beside)):
            chosen.append(stage)
            beside.append(stage.name)
    started: list[Start] = []
    for position, stage in enumerate(chosen):
        wide = ranks(stage)
        most = (free - sum(ranks(other) for other in chosen[position + 1 :])) // wide
        fair = min(most, free // (len(chosen) - position) // wide)
        before = states[stage.name].threads
        threads = before if before and (before <= most or len(beside) == 1) else max(1, fair)
        started.append(Start(stage.name, threads))
        free -= wide * threads
    return tuple(started)


def _wind_up(
    plan: Plan,
    states: Mapping[str, StageState],
    budget: Budget,
    running: list[PlannedStage],
    waits: Mapping[str, float],
    now: float,
) -> Decision:
    """Something failed: stop the others, then let the report say so."""
    report = plan.stages[-1]
    others = [stage for stage in running if stage.name != report.name]
    tellable = states[PREPARE].complete  # without what prepare found, there is nothing to tell of
    blocked = tuple(
        stage.name
        for stage in plan.stages
        if states[stage.name].phase == "pending" and not (tellable and stage.name == report.name)
    )
    phase = states[report.name].phase
    if others or phase == "running":
        return Decision(stop=_names(others), blocked=blocked)
    if phase in ("pending", "stopped") and tellable:
        if waits.get(report.name, now) > now:
            return Decision(blocked=blocked, wake=waits[report.name])
        return Decision(start=share([report], running, states, budget), blocked=blocked)
    return Decision(blocked=blocked, end="failed")


def exit_code(plan: Plan, states: Mapping[str, StageState]) -> Exit:
    """What a failed run ends with: the code of its first failed stage, as the plan orders them."""
    for stage in plan.stages:
        state = states[stage.name]
        if state.phase == "failed":
            return Exit(state.exit_code) if state.exit_code in (Exit.INVALID, Exit.REFUSED) else Exit.FAILED
    return Exit.FAILED


def backoff(restarts: int) -> float:
    """Seconds to wait before a restart: short, since nothing else waits for this machine."""
    return float(min(30, 2 ** max(0, restarts - 1)))


def _names(stages: list[PlannedStage]) -> tuple[str, ...]:
    return tuple(stage.name for stage in stages)
