"""Runs a job on this machine: asks the scheduler what to do, does it, remembers, shows."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_api.contract import DEADLINE, GATE_FAILED
from rlhf_api.job import RLHFJob
from rlhf_api.lifecycle import AttemptResult, Wish, winding_up
from rlhf_api.plan import Plan, PlannedStage
from rlhf_api.stage_file import Paths, Processes, build, outcomes, planned_product
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import DamagedProduct, find_verified, gc_lock, read_product, write_atomically
from rlhf_sdk.exits import Exit
from rlhf_sdk.local import files, finish, process, scheduler
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.locks import FileLock
from rlhf_sdk.local.progress import Poller
from rlhf_sdk.local.run import Options, Run
from rlhf_sdk.local.scheduler import Decision, Start, ranks
from rlhf_sdk.local.signals import Signals, listening
from rlhf_sdk.local.state import RunState
from rlhf_sdk.local.view import View
from rlhf_sdk.local.watch import REFRESH, RunningStages
from rlhf_sdk.text import plural


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
    _running: RunningStages

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
        self._run = Run(job, file, layout, options, view)
        self._lock = lock
        self._poller = Poller(lambda: {name: layout.work(name) for name in self._running.names})

    def run(self) -> Result:
        """Run to the end, whatever it is. Main thread only: it listens to signals."""
        with ExitStack() as stack:
            self._signals = stack.enter_context(listening())
            self._alive = stack.enter_context(process.alive_pipe())
            self._running = RunningStages(self._signals, self._run.view)
            self._run.resolving = stack.enter_context(FileLock(gc_lock(self._run.layout.storage), shared=True))
            self._run.save()
            self._run.view.start(self._run.plan, self._run.state)
            stack.callback(self._run.view.end)
            self._poller.start()
            stack.callback(self._poller.stop)
            stack.callback(self._running.end_all)
            while True:
                self._run.count_time(active=bool(self._running))
                self._running.answer()
                self._collect()
                decision = self._decide()
                self._act(decision)
                if decision.actions.end is not None:
                    code = finish.finish_run(self._run, decision.actions.end, interrupted=self._signals.interrupted)
                    return Result(code, self._run.state, self._run.plan)
                self._run.view.progress(self._run.state, self._poller.latest())
                if not decision.start:
                    wake = REFRESH if decision.wake is None else decision.wake - time.monotonic()
                    self._signals.wait(min(REFRESH, wake))

    def _decide(self) -> Decision:
        """What follows now; what only marks stages is done at once, until nothing more follows from it."""
        run = self._run
        while True:
            decision = scheduler.decide(
                run.plan,
                run.state.stages,
                run.options.budget,
                now=time.monotonic(),
                wish=self._wish(),
                deadline=run.job.spec.active_deadline_seconds,
                not_before=run.not_before,
            )
            actions = decision.actions
            for name, (reason, message) in actions.skip.items():
                run.change(name, state="Skipped", reason=reason, message=message)
            for name, (reason, message) in actions.fail.items():
                finish.fail(run, name, AttemptResult("Failed", reason, message))
            for name in actions.reuse:
                if not self._reuse_product(run.plan.stage(name)):
                    run.plan = without_hit(run.plan, name)
            if not (actions.skip or actions.fail or actions.reuse):
                return decision

    def _act(self, decision: Decision) -> None:
        for name, stop in decision.actions.stop.items():
            self._running.stop(name, stop)
        for start in decision.start:
            self._start(start)

    def _wish(self) -> Wish:
        run = self._run
        if self._signals.stop:
            return "suspend"
        deadline = run.job.spec.active_deadline_seconds
        if deadline is None or run.state.active_seconds < deadline:
            return "run"
        if not run.state.reason and not winding_up(run.plan, run.records):
            run.state = run.state.model_copy(update={"reason": DEADLINE})
            run.view.say(
                f"activeDeadlineSeconds: {deadline} s of running time have passed; the stages are stopped. "
                "A larger activeDeadlineSeconds lets the job go on.",
                bad=True,
            )
        return "fail"

    def _start(self, start: Start) -> None:
        run = self._run
        stage = run.plan.stage(start.name)
        if self._reuse_product(stage):
            return
        last = max(run.state.stages[stage.name].attempt, files.last_attempt(run.layout, stage.name))
        run.change(
            stage.name,
            state="Running",
            attempt=last + 1,
            threads=start.threads,
            started=time.time(),
            exit_code=None,
            reason="",
            message="",
            product=planned_product(run.plan, stage, run.records),
        )
        work = run.layout.work(stage.name)
        self._poller.forget(stage.name)
        written = build(
            run.job,
            run.layout.uid,
            run.plan,
            stage,
            run.records,
            run.resolved,
            Paths(str(run.layout.storage), str(run.layout.root), str(run.folder)),
            Processes(nodes=1, ranks=ranks(stage), threads=start.threads),
            last + 1,
        )
        files.clear(work, written.digest)
        write_atomically(work / "stage.json", written.text.encode())
        running = process.StageProcess(
            run.options.command,
            work / "stage.json",
            run.layout.logs(stage.name, last + 1) / "launcher.log",
            cwd=run.folder,
            env=process.environment(stage.type == PREPARE, run.options.env),
            alive=self._alive,
            lock=self._lock.fileno,
            grace=run.options.grace,
        )
        self._running.add(stage.name, running)
        if ranks(stage) * start.threads > run.options.budget.cores:
            cores = plural(run.options.budget.cores, "core")
            run.view.say(f"{stage.name}: {ranks(stage)} ranks on {cores}: it runs alone, and slowly")

    def _reuse_product(self, stage: PlannedStage) -> bool:
        """Whether its product is in place, every byte of it verified: now, or by prepare just before."""
        run = self._run
        if stage.product is None or (stage.type == REPORT and outcomes(run.plan, run.records)):
            return False
        try:
            product = (read_product if stage.hit else find_verified)(run.layout.storage, stage.product)
        except DamagedProduct as error:
            run.view.say(f"{stage.name}: product is damaged and rebuilt: {error}", bad=True)
            return False
        if product is None:
            return False
        clean = {"product": stage.product, "exit_code": None, "reason": "", "message": ""}
        failure = product.manifest.failure
        if failure is None:
            run.change(stage.name, **{**clean, "state": "Reused"})
        else:  # a gate that was not kept: computed again, it would fail again
            refused = {"state": "Failed", "exit_code": int(Exit.REFUSED), "reason": GATE_FAILED, "message": failure}
            run.change(stage.name, **{**clean, **refused})
            run.view.say(f"{stage.name}: failed: {GATE_FAILED}: {failure}", bad=True)
        return True

    def _collect(self) -> None:
        for name, code, stop in self._running.ended():
            finish.finish_attempt(self._run, self._run.plan.stage(name), code, stop)


def without_hit(plan: Plan, name: str) -> Plan:
    """The plan, where a product that prepare found has been damaged since."""
    stages = tuple(replace(stage, hit=False) if stage.name == name else stage for stage in plan.stages)
    return replace(plan, stages=stages)
