"""Which of the stages that may start do start, and with how many threads: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlhf_api.lifecycle import Actions, Wish, next_actions
from rlhf_api.plan import Plan, PlannedStage
from rlhf_sdk.exits import Exit
from rlhf_sdk.local.state import LocalStage


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

    actions: Actions
    """What the lifecycle says; of `start`, what follows starts now."""
    start: tuple[Start, ...] = ()
    wake: float | None = None
    """When to decide again, if nothing happens before."""


def ranks(stage: PlannedStage) -> int:
    """Processes of a stage: on one machine all nodes' ranks run here, so that the result is the cluster's."""
    return (stage.nodes or 1) * (stage.ranks_per_node or 1)


def decide(
    plan: Plan,
    states: Mapping[str, LocalStage],
    budget: Budget,
    *,
    now: float = 0.0,
    wish: Wish = "run",
    deadline: float | None = None,
    not_before: Mapping[str, float] | None = None,
) -> Decision:
    """What to start and stop.

    Args:
        plan: the job's.
        states: by stage, all of the plan's.
        budget: the ranks of running stages times their threads stay within its cores, and their estimates within its
            memory, but for a single stage that alone is more than that.
        now: monotonic seconds.
        wish: what is wanted of the run.
        deadline: the job's, for the message.
        not_before: when a stage that waits for its restart may start.
    """
    waits = not_before or {}
    actions = next_actions(plan, {name: stage.record for name, stage in states.items()}, wish, deadline)
    ready = [plan.stage(name) for name in actions.start if waits.get(name, now) <= now]
    later = [waits[name] for name in actions.start if waits.get(name, now) > now]
    running = [stage for stage in plan.stages if states[stage.name].running]
    return Decision(actions, share(ready, running, states, budget), min(later, default=None))


def share(
    ready: list[PlannedStage], running: list[PlannedStage], states: Mapping[str, LocalStage], budget: Budget
) -> tuple[Start, ...]:
    """Divide the free cores among the ready stages, in the plan's order; who finds no core, or too little memory, waits.

    A stage that was stopped keeps its threads. A stage alone gets all the cores.
    """
    free = budget.cores - sum(ranks(stage) * max(1, states[stage.name].threads) for stage in running)
    beside = [stage.name for stage in running]
    chosen: list[PlannedStage] = []
    for stage in ready:
        unclaimed = free - sum(ranks(picked) for picked in chosen)
        if not beside or (ranks(stage) <= unclaimed and budget.fits(stage.name, beside)):
            chosen.append(stage)
            beside.append(stage.name)
    started: list[Start] = []
    for position, stage in enumerate(chosen):
        wide = ranks(stage)
        most = (free - sum(ranks(picked) for picked in chosen[position + 1 :])) // wide
        fair = min(most, free // (len(chosen) - position) // wide)
        before = states[stage.name].threads
        threads = before if before and (before <= most or len(beside) == 1) else max(1, fair)
        started.append(Start(stage.name, threads))
        free -= wide * threads
    return tuple(started)


def exit_code(plan: Plan, states: Mapping[str, LocalStage]) -> Exit:
    """What a failed run ends with: the code of its first failed stage, as the plan orders them."""
    for stage in plan.stages:
        state = states[stage.name]
        if state.state == "Failed":
            return Exit(state.exit_code) if state.exit_code in (Exit.INVALID, Exit.REFUSED) else Exit.FAILED
    return Exit.FAILED


def backoff(restarts: int) -> float:
    """Seconds to wait before a restart: short, since nothing else waits for this machine."""
    return float(min(30, 2 ** max(0, restarts - 1)))
