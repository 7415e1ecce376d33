"""Runs a job on this machine: asks the scheduler what to do, does it, remembers, shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rlhf_api.contract import DEADLINE, GATE_FAILED, REUSED
from rlhf_api.job import RLHFJob
from rlhf_api.lifecycle import AttemptResult, Records, RetryBudget, Wish, decide, restores_budget, winding_up
from rlhf_api.plan import Plan, PlannedStage, Resolved, plan
from rlhf_api.stage_file import Paths, Processes, build, outcomes, planned_product
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import (
    DamagedProduct,
    find_verified,
    free_work,
    gc_lock,
    read_product,
    read_resolved,
    write_atomically,
    write_run,
)
from rlhf_sdk.exits import Exit
from rlhf_sdk.local import files, process, scheduler
from rlhf_sdk.local.attempts import result_of
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.locks import FileLock
from rlhf_sdk.local.progress import Poller
from rlhf_sdk.local.scheduler import Budget, Decision, Start, backoff, exit_code, ranks
from rlhf_sdk.local.signals import Signals, listening
from rlhf_sdk.local.state import RunState, load, resumed, save
from rlhf_sdk.local.view import View
from rlhf_sdk.text import plural

REFRESH = 0.25
"""Seconds between two looks of the view."""


@dataclass(frozen=True)
class Options:
    """How to run."""

    budget: Budget
    """Cores and memory."""
    command: Sequence[str] = process.TRAINER
    """What computes a stage; its last argument will be the stage file."""
    grace: float = 120.0
    """Seconds a stage has for its checkpoint once this runner is gone."""
    wait: Callable[[int], float] = backoff
    """Seconds before a restart, by the number of restarts."""
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """Environment of the stages."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    code: Exit
    state: RunState
    plan: Plan

    def product(self, stage: str) -> str | None:
        """Name of the stage's product, if it is in place."""
        state = self.state.stages.get(stage)
        return state.product if state is not None and state.complete else None


class Runner:
    """One run of a job. Killed at any instruction and made again, it converges to the same end."""

    _signals: Signals
    _alive: int
    _resolving: FileLock

    def __init__(self, job: RLHFJob, file: Path, layout: Layout, options: Options, view: View, lock: FileLock) -> None:
        """Take up what an earlier run left.

        Args:
            job: a valid job.
            file: where it came from; relative inputs and user functions are looked up beside it.
            layout: where the run lies.
            options: how to run.
            view: what is shown.
            lock: the run's, held.

        Raises:
            ValueError: the state an earlier run left cannot be read.
        """
        self._job = job
        self._folder = file.resolve().parent
        self._layout = layout
        self._options = options
        self._view = view
        self._lock = lock
        self._plan = plan(job)
        self._resolved: Resolved | None = None
        self._processes: dict[str, process.StageProcess] = {}
        self._not_before: dict[str, float] = {}
        self._stops: dict[str, tuple[str, str]] = {}
        self._counted: float | None = None
        self._answered = 0
        self._poller = Poller(lambda: {name: layout.work(name) for name in list(self._processes)})
        fresh = RunState(
            job=job.metadata.name,
            namespace=job.metadata.namespace or "default",
            uid=layout.uid,
            jobFile=str(file.resolve()),
            pid=os.getpid(),
            cores=options.budget.cores,
            started=time.time(),
        )
        self._state = resumed(load(layout.state), self._plan, fresh)

    def run(self) -> Result:
        """Run to the end, whatever it is. Main thread only: it listens to signals."""
        with ExitStack() as stack:
            self._signals = stack.enter_context(listening())
            self._alive = stack.enter_context(process.alive_pipe())
            self._resolving = stack.enter_context(FileLock(gc_lock(self._layout.storage), shared=True))
            self._save()
            self._view.start(self._plan, self._state)
            stack.callback(self._view.end)
            self._poller.start()
            stack.callback(self._poller.stop)
            stack.callback(self._end_all)
            while True:
                self._count_time()
                self._answer()
                self._collect()
                decision = self._decide()
                self._act(decision)
                if decision.actions.end is not None:
                    return Result(self._finish(decision.actions.end), self._state, self._plan)
                self._view.progress(self._state, self._poller.latest())
                if not decision.start:
                    wake = REFRESH if decision.wake is None else decision.wake - time.monotonic()
                    self._signals.wait(min(REFRESH, wake))

    def _decide(self) -> Decision:
        """What follows now; what only marks stages is done at once, until nothing more follows from it."""
        while True:
            decision = scheduler.decide(
                self._plan,
                self._state.stages,
                self._options.budget,
                now=time.monotonic(),
                wish=self._wish(),
                deadline=self._job.spec.active_deadline_seconds,
                not_before=self._not_before,
            )
            actions = decision.actions
            for name, (reason, message) in actions.skip.items():
                self._change(name, state="Skipped", reason=reason, message=message)
            for name, (reason, message) in actions.fail.items():
                self._fail(name, AttemptResult("Failed", reason, message))
            for name in actions.reuse:
                if not self._reuse_product(self._plan.stage(name)):
                    self._plan = without_hit(self._plan, name)
            if not (actions.skip or actions.fail or actions.reuse):
                return decision

    def _act(self, decision: Decision) -> None:
        for name, stop in decision.actions.stop.items():
            self._stops.setdefault(name, stop)
            self._stop(self._processes[name])
        for start in decision.start:
            self._start(start)

    def _wish(self) -> Wish:
        if self._signals.stop:
            return "suspend"
        deadline = self._job.spec.active_deadline_seconds
        if deadline is None or self._state.active_seconds < deadline:
            return "run"
        if not self._state.reason and not winding_up(self._plan, self._records):
            self._state = self._state.model_copy(update={"reason": DEADLINE})
            self._view.say(
                f"activeDeadlineSeconds: {deadline} s of running time have passed; the stages are stopped. "
                "A larger activeDeadlineSeconds lets the job go on.",
                bad=True,
            )
        return "fail"

    @property
    def _records(self) -> Records:
        return {name: stage.record for name, stage in self._state.stages.items()}

    def _count_time(self) -> None:
        now = time.monotonic()
        passed = 0.0 if self._counted is None else now - self._counted
        self._counted = now
        stages = {
            name: stage.model_copy(update={"seconds": stage.seconds + passed}) if stage.running else stage
            for name, stage in self._state.stages.items()
        }
        active = self._state.active_seconds + (passed if self._processes else 0.0)
        self._state = self._state.model_copy(update={"stages": stages, "active_seconds": active})

    # Starting

    def _start(self, start: Start) -> None:
        stage = self._plan.stage(start.name)
        if self._reuse_product(stage):
            return
        last = max(self._state.stages[stage.name].attempt, files.last_attempt(self._layout, stage.name))
        self._change(
            stage.name,
            state="Running",
            attempt=last + 1,
            threads=start.threads,
            started=time.time(),
            exit_code=None,
            reason="",
            message="",
            product=planned_product(self._plan, stage, self._records),
        )
        work = self._layout.work(stage.name)
        self._poller.forget(stage.name)
        self._stops.pop(stage.name, None)
        written = build(
            self._job,
            self._layout.uid,
            self._plan,
            stage,
            self._records,
            self._resolved,
            Paths(str(self._layout.storage), str(self._layout.root), str(self._folder)),
            Processes(nodes=1, ranks=ranks(stage), threads=start.threads),
            last + 1,
        )
        files.clear(work, written.digest)
        write_atomically(work / "stage.json", written.text.encode())
        self._processes[stage.name] = process.StageProcess(
            self._options.command,
            work / "stage.json",
            self._layout.logs(stage.name, last + 1) / "launcher.log",
            cwd=self._folder,
            env=process.environment(stage.type == PREPARE, self._options.env),
            alive=self._alive,
            lock=self._lock.fileno,
            grace=self._options.grace,
        )
        if ranks(stage) * start.threads > self._options.budget.cores:
            cores = plural(self._options.budget.cores, "core")
            self._view.say(f"{stage.name}: {ranks(stage)} ranks on {cores}: it runs alone, and slowly")

    def _reuse_product(self, stage: PlannedStage) -> bool:
        """Whether its product is in place, every byte of it verified: now, or by prepare just before."""
        if stage.product is None or (stage.type == REPORT and outcomes(self._plan, self._records)):
            return False
        try:
            product = (read_product if stage.hit else find_verified)(self._layout.storage, stage.product)
        except DamagedProduct as error:
            self._view.say(f"{stage.name}: product is damaged and rebuilt: {error}", bad=True)
            return False
        if product is None:
            return False
        clean = {"product": stage.product, "exit_code": None, "reason": "", "message": ""}
        failure = product.manifest.failure
        if failure is None:
            self._change(stage.name, **{**clean, "state": "Reused"})
        else:  # a gate that was not kept: computed again, it would fail again
            refused = {"state": "Failed", "exit_code": int(Exit.REFUSED), "reason": GATE_FAILED, "message": failure}
            self._change(stage.name, **{**clean, **refused})
            self._view.say(f"{stage.name}: failed: {GATE_FAILED}: {failure}", bad=True)
        return True

    # Stopping

    def _stop(self, running: process.StageProcess) -> None:
        if self._signals.kill:
            running.kill()
        elif not running.stopping:
            running.stop()

    def _answer(self) -> None:
        """Say that a signal was understood; never from its handler, which may interrupt a redraw."""
        if len(self._signals.received) > self._answered and self._answered < 2:
            self._answered = min(2, len(self._signals.received))
            if self._processes:
                self._view.say(
                    "stopping: stages save their checkpoints; once more kills them"
                    if self._answered == 1
                    else "killed: what was computed since the last checkpoints is lost"
                )

    def _end_all(self) -> None:
        """Nothing outlives the run, not even one that ends with an exception."""
        while any(running.poll() is None for running in self._processes.values()):
            self._answer()
            for running in self._processes.values():
                self._stop(running)
            self._signals.wait(REFRESH)

    # Ending

    def _collect(self) -> None:
        for name, running in list(self._processes.items()):
            code = running.poll()
            if code is not None:
                del self._processes[name]
                self._ended(self._plan.stage(name), code)

    def _ended(self, stage: PlannedStage, code: int) -> None:
        termination = files.termination(self._layout.work(stage.name))
        wrong = self._receive(stage) if code == Exit.DONE else None
        result = result_of(code, termination, wrong=wrong, stop=self._stops.pop(stage.name, None))
        allowed = self._job.spec.run_policy.max_restarts
        state = self._state.stages[stage.name]
        ran = time.time() - (state.started or time.time())
        restarts = 0 if restores_budget(ran, termination.step, state.last_step) else state.restarts
        needed = stage.type == REPORT or not winding_up(self._plan, self._records)
        ended = {"exit_code": result.exit_code, "reason": result.reason, "message": result.message}
        ended["last_step"] = max(termination.step, state.last_step)
        match decide(result, RetryBudget(restarts, allowed, wanted=needed)):
            case "complete":
                reused = result.reason == REUSED  # another run made it while this one waited
                clean = {"exit_code": code, "reason": "", "message": ""}
                self._change(stage.name, **{**clean, "state": "Reused" if reused else "Complete"})
                self._clean(stage.name)
            case "suspend":
                self._change(stage.name, **{**ended, "state": "Suspended"})
            case "skip":
                self._change(stage.name, **{**ended, "state": "Skipped"})
            case "retry" | "retry uncounted":
                self._change(stage.name, **{**ended, "state": "Waiting", "restarts": restarts + 1})
                self._wait(stage.name, allowed)
            case "fail" | "fail: disrupted too often":
                self._fail(stage.name, result, quoted=not termination.message)

    def _wait(self, name: str, allowed: int) -> None:
        """Before a restart."""
        state = self._state.stages[name]
        seconds = self._options.wait(state.restarts)
        self._not_before[name] = time.monotonic() + seconds
        again = f"restart {state.restarts} of {allowed} from its last checkpoint in {seconds:.0f} s"
        self._view.say(f"{name}: {state.reason} (exit {state.exit_code}): {state.message}\n{name}: {again}", bad=True)

    def _fail(self, name: str, result: AttemptResult, *, quoted: bool = False) -> None:
        """Record that a stage failed, and say why; `quoted`: with the end of its log."""
        self._change(name, state="Failed", exit_code=result.exit_code, reason=result.reason, message=result.message)
        code = "" if result.exit_code is None else f" (exit {result.exit_code})"
        lines = [f"{name}: failed: {result.reason}{code}: {result.message}"]
        log, tail = files.log_tail(self._layout.logs(name, self._state.stages[name].attempt))
        lines += [f"  | {line}" for line in tail] if quoted else []
        self._view.say("\n".join(lines + ([] if log is None else [f"  log: {log}"])), bad=True)

    def _receive(self, stage: PlannedStage) -> str | None:
        """Take over what a finished stage made; else what is wrong with it, in words."""
        if stage.type == PREPARE:
            return self._take_resolved()
        name = self._state.stages[stage.name].product or ""
        try:
            product = read_product(self._layout.storage, name)
        except DamagedProduct as error:
            return f"it ended well but its product is damaged: {error}"
        return None if product is not None else f"it ended well but made no product {name}"

    def _take_resolved(self) -> str | None:
        try:
            self._resolved = read_resolved(self._layout.resolved)
            self._plan = plan(self._job, self._resolved)
        except (FileNotFoundError, ValueError, KeyError) as error:
            return f"it ended well but {self._layout.resolved} cannot be used: {error}"
        write_run(self._layout.storage, files.run_index(self._job, self._state, self._plan, self._resolved))
        self._resolving.release()  # from here on, gc sees in the index what this run uses
        self._view.plan(self._plan)
        return None

    def _clean(self, name: str) -> None:
        """A finished stage's checkpoints and remembered states are large and of no further use; the rest stays."""
        if self._job.spec.run_policy.keep != "everything":
            free_work(self._layout.work(name))

    def _finish(self, end: Literal["Complete", "Failed", "Suspended"]) -> Exit:
        code = Exit.DONE
        if end == "Failed":
            code = exit_code(self._plan, self._state.stages)
        elif end == "Suspended":
            code = Exit.INTERRUPTED if self._signals.interrupted else Exit.STOPPED
        changes = {"phase": end, "exit_code": int(code), "ended": time.time(), "pid": None}
        self._state = self._state.model_copy(update=changes)
        if self._resolved is not None:  # again: how it ended; and the report of a run that failed is another product
            write_run(self._layout.storage, files.run_index(self._job, self._state, self._plan, self._resolved))
        self._save()
        return code

    def _change(self, name: str, **changes: object) -> None:
        before = self._state.stages[name].state
        self._state = self._state.with_stage(name, **changes)
        self._save()
        if self._state.stages[name].state != before:
            self._view.stage(name, self._state)

    def _save(self) -> None:
        save(self._layout.state, self._state)


def without_hit(plan: Plan, name: str) -> Plan:
    """The plan, where a product that prepare found has been damaged since."""
    stages = tuple(replace(stage, hit=False) if stage.name == name else stage for stage in plan.stages)
    return replace(plan, stages=stages)
