"""Runs a job on this machine: asks the scheduler what to do, does it, remembers, shows."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_api.job import RLHFJob
from rlhf_api.plan import Plan, PlannedStage, Resolved, plan
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import (
    DamagedProduct,
    Run,
    find_verified,
    read_product,
    read_resolved,
    write_atomically,
    write_run,
)
from rlhf_sdk.exits import Exit
from rlhf_sdk.local import files, process
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.locks import FileLock
from rlhf_sdk.local.progress import Poller
from rlhf_sdk.local.scheduler import Intent, Start, backoff, decide, exit_code, ranks
from rlhf_sdk.local.state import RunState, load, resumed, save
from rlhf_sdk.local.views import View, short

REFRESH = 0.25
"""Seconds between two looks of the view."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Options:
    """How to run."""

    cores: int
    """Core budget."""
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

    def __init__(self, job: RLHFJob, file: Path, layout: Layout, options: Options, view: View) -> None:
        """Prepare to run.

        Args:
            job: a valid job.
            file: where it came from; relative inputs and user functions are looked up beside it.
            layout: where the run lies.
            options: how to run.
            view: what is shown.
        """
        self._job = job
        self._folder = file.resolve().parent
        self._layout = layout
        self._options = options
        self._view = view
        self._plan = plan(job)
        self._resolved: Resolved | None = None
        self._processes: dict[str, process.StageProcess] = {}
        self._not_before: dict[str, float] = {}
        self._asked: list[int] = []
        self._killed = False
        self._ticked = 0.0
        namespace = job.metadata.namespace or "default"
        fresh = RunState(
            job=job.metadata.name,
            namespace=namespace,
            uid=layout.uid,
            jobFile=str(file.resolve()),
            pid=os.getpid(),
            cores=options.cores,
            started=time.time(),
        )
        self._state = resumed(load(layout.state), self._plan, fresh)

    def run(self, lock: FileLock) -> Result:
        """Run to the end, whatever it is.

        Args:
            lock: the run's, held.
        """
        self._lock = lock
        self._save()
        poller = Poller(self._running_work)
        with self._signals() as woken, self._pipe(), FileLock(self._gc_lock, shared=True) as self._resolving:
            self._view.begin(self._plan, self._state)
            poller.start()
            self._poller = poller
            try:
                code = self._loop(woken)
            finally:
                self._end_all(woken)
                poller.stop()
                self._view.end()
        return Result(code, self._state, self._plan)

    # -- the loop

    def _loop(self, woken: Callable[[float], None]) -> Exit:
        while True:
            self._count_time()
            self._collect()
            decision = decide(
                self._plan,
                self._state.stages,
                self._options.cores,
                now=time.monotonic(),
                intent=self._intent(),
                not_before=self._not_before,
            )
            for name in decision.blocked:
                self._change(name, phase="blocked")
            for name in decision.stop:
                self._stop(name)
            for start in decision.start:
                self._start(start)
            if decision.end is not None:
                return self._finish(decision.end)
            self._view.progress(self._state, self._poller.latest())
            if not decision.start:
                wait = REFRESH if decision.wake is None else min(REFRESH, decision.wake - time.monotonic())
                woken(max(0.0, wait))

    def _intent(self) -> Intent:
        if self._asked:
            return "stop"
        deadline = self._job.spec.active_deadline_seconds
        if deadline is not None and self._state.active_seconds >= deadline:
            if not self._state.reason:
                self._state = self._state.model_copy(update={"reason": "DeadlineExceeded"})
                self._view.say(
                    f"activeDeadlineSeconds: {deadline} s of running time have passed; the stages are stopped. "
                    "A larger activeDeadlineSeconds lets the job go on.",
                    bad=True,
                )
            return "fail"
        return "run"

    def _count_time(self) -> None:
        now = time.monotonic()
        passed = now - self._ticked if self._ticked else 0.0
        self._ticked = now
        stages = {
            name: stage.model_copy(update={"seconds": stage.seconds + passed}) if stage.phase == "running" else stage
            for name, stage in self._state.stages.items()
        }
        busy = passed if self._processes else 0.0
        changes = {"stages": stages, "active_seconds": self._state.active_seconds + busy}
        self._state = self._state.model_copy(update=changes)

    # -- starting

    def _start(self, start: Start) -> None:
        stage = self._plan.stage(start.name)
        if stage.type != PREPARE and self._reuse(stage):
            return
        state = self._state.stages[stage.name]
        missing = files.outcomes(self._plan, self._state.stages) if stage.type == REPORT else {}
        product = None if stage.type == PREPARE else f"{stage.type}-{files.digest_for(stage, missing)}"
        self._change(
            stage.name,
            phase="running",
            attempt=max(state.attempt, files.last_attempt(self._layout, stage.name)) + 1,
            threads=start.threads,
            started=time.time(),
            exit_code=None,
            reason="",
            message="",
            product=product,
        )
        work = self._layout.work(stage.name)
        for old in ("endpoint.json", "termination.json"):
            (work / old).unlink(missing_ok=True)
        self._poller.forget(stage.name)
        written = files.stage_file(
            self._job, self._plan, stage, self._layout, self._folder, self._state.stages, self._resolved
        )
        path = work / "stage.json"
        write_atomically(path, written.model_dump_json(indent=1, exclude_none=True).encode())
        attempt = self._state.stages[stage.name].attempt
        self._processes[stage.name] = process.StageProcess(
            self._options.command,
            path,
            self._layout.logs(stage.name, attempt) / "launcher.log",
            cwd=self._folder,
            env=process.environment(stage.type == PREPARE, self._options.env),
            alive=self._alive,
            lock=self._lock.fileno,
            grace=self._options.grace,
        )
        if ranks(stage) * start.threads > self._options.cores:
            self._view.say(
                f"{stage.name}: {ranks(stage)} ranks on {self._options.cores} cores; it runs alone, and slowly"
            )

    def _reuse(self, stage: PlannedStage) -> bool:
        """Whether its product is in place; every byte of it is verified first, unless prepare has just done so."""
        if stage.product is None or (stage.type == REPORT and files.outcomes(self._plan, self._state.stages)):
            return False
        try:
            found = (read_product if stage.hit else find_verified)(self._layout.storage, stage.product)
        except DamagedProduct as error:
            self._view.say(f"{stage.name}: product not reused, made anew: {error}", bad=True)
            return False
        if found is None:
            return False
        if found.manifest.failure is not None:  # a gate that was not kept: it would fail again at no cost
            self._change(
                stage.name,
                phase="failed",
                product=stage.product,
                exit_code=int(Exit.REFUSED),
                reason="GateFailed",
                message=found.manifest.failure,
            )
            self._view.say(f"{stage.name}: failed: GateFailed: {found.manifest.failure}", bad=True)
            return True
        self._change(stage.name, phase="reused", product=stage.product, reason="", message="", exit_code=None)
        return True

    # -- stopping

    def _stop(self, name: str) -> None:
        running = self._processes.get(name)
        if running is None:
            return
        if len(self._asked) > 1:
            if not self._killed:
                self._killed = True
                self._view.say("stopped at once: what was computed since the last checkpoints is lost", bad=True)
            running.kill()
        elif not running.stopping:
            running.stop()

    def _end_all(self, woken: Callable[[float], None]) -> None:
        """Nothing outlives the run, not even one that ends with an exception."""
        for running in self._processes.values():
            running.stop()
        while any(running.poll() is None for running in self._processes.values()):
            if len(self._asked) > 1:
                for running in self._processes.values():
                    running.kill()
            woken(REFRESH)

    # -- ending

    def _collect(self) -> None:
        for name, running in list(self._processes.items()):
            code = running.poll()
            if code is not None:
                del self._processes[name]
                self._ended(self._plan.stage(name), code, asked=running.stopping)

    def _ended(self, stage: PlannedStage, code: int, *, asked: bool) -> None:
        said = files.termination(self._layout.work(stage.name))
        if code == Exit.DONE:
            wrong = self._receive(stage)
            if wrong is None:
                self._change(stage.name, phase="reused" if said.reason == "Reused" else "done", exit_code=0)
                self._clean(stage.name)
                return
            said = files.Termination("NoProduct", wrong)
            code = Exit.FAILED
        elif asked and code not in (Exit.INVALID, Exit.REFUSED):
            self._change(stage.name, phase="stopped", exit_code=code, reason="Stopped", message="")
            return
        reason = said.reason or process.signal_name(code) or "Failure"
        message = said.message or _unsaid(code)
        state = self._state.stages[stage.name]
        allowed = self._job.spec.run_policy.max_restarts
        if code not in (Exit.INVALID, Exit.REFUSED) and state.restarts < allowed and not self._winding_up():
            seconds = self._options.wait(state.restarts + 1)
            self._not_before[stage.name] = time.monotonic() + seconds
            self._change(
                stage.name, phase="pending", restarts=state.restarts + 1, exit_code=code, reason=reason, message=message
            )
            self._view.say(
                f"{stage.name}: {reason} (exit {code}): {message}\n"
                f"{stage.name}: restart {state.restarts + 1} of {allowed} from its last checkpoint in {seconds:.0f} s",
                bad=True,
            )
            return
        self._change(stage.name, phase="failed", exit_code=code, reason=reason, message=message)
        self._explain(stage, code, reason, message, told=bool(said.message))

    def _winding_up(self) -> bool:
        """Whether another failure is ending the run: then only the report is restarted."""
        return self._intent() != "run" or any(stage.phase == "failed" for stage in self._state.stages.values())

    def _receive(self, stage: PlannedStage) -> str | None:
        """Take over what a finished stage made; else what is wrong with it, in words."""
        if stage.type == PREPARE:
            return self._take_resolved()
        name = self._state.stages[stage.name].product or ""
        try:
            found = read_product(self._layout.storage, name)
        except DamagedProduct as error:
            return f"it ended well but its product is damaged: {error}"
        return None if found is not None else f"it ended well but made no product {name}"

    def _take_resolved(self) -> str | None:
        try:
            self._resolved = read_resolved(self._layout.resolved)
            self._plan = plan(self._job, self._resolved)
        except (FileNotFoundError, ValueError, KeyError) as error:
            return f"it ended well but {self._layout.resolved} cannot be used: {error}"
        run = Run(
            job=self._job.metadata.name,
            namespace=self._state.namespace,
            uid=self._layout.uid,
            jobFile=self._state.job_file,
            inputs={name: found.digest for name, found in self._resolved.inputs.items()},
            products={stage.name: stage.product for stage in self._plan.stages if stage.product is not None},
            spec=self._job.spec.model_dump(mode="json", exclude_none=True),
        )
        write_run(self._layout.storage, run)
        self._resolving.release()  # from here on, gc sees in the index what this run uses
        self._view.plan(self._plan)
        return None

    def _explain(self, stage: PlannedStage, code: int, reason: str, message: str, *, told: bool) -> None:
        lines = [f"{stage.name}: failed: {reason} (exit {code}): {message}"]
        log, tail = files.log_tail(self._layout.logs(stage.name, self._state.stages[stage.name].attempt))
        if not told:
            lines += [f"  | {line}" for line in tail]
        if log is not None:
            lines.append(f"  log: {log}")
        self._view.say("\n".join(lines), bad=True)

    def _clean(self, name: str) -> None:
        """A finished stage's checkpoints are of no further use; metrics and logs are small and stay."""
        if self._job.spec.run_policy.keep != "everything":
            shutil.rmtree(self._layout.work(name) / "checkpoints", ignore_errors=True)

    def _finish(self, end: str) -> Exit:
        code = Exit.DONE
        if end == "failed":
            deadline = self._state.reason == "DeadlineExceeded"
            code = Exit.FAILED if deadline else exit_code(self._plan, self._state.stages)
        elif end == "stopped":
            code = Exit.INTERRUPTED if signal.SIGINT in self._asked else Exit.STOPPED
        changes = {"phase": end, "exit_code": int(code), "ended": time.time(), "pid": None}
        self._state = self._state.model_copy(update=changes)
        self._index_report()
        self._save()
        return code

    def _index_report(self) -> None:
        """Name the report of a failed run in the index, so that it is kept as the other products are."""
        report = self._state.stages[self._plan.stages[-1].name]
        if self._resolved is None or not report.complete or report.product is None:
            return
        products = {stage.name: stage.product for stage in self._plan.stages if stage.product is not None}
        if products.get(self._plan.stages[-1].name) == report.product:
            return
        run = Run(
            job=self._job.metadata.name,
            namespace=self._state.namespace,
            uid=self._layout.uid,
            jobFile=self._state.job_file,
            inputs={name: found.digest for name, found in self._resolved.inputs.items()},
            products={**products, self._plan.stages[-1].name: report.product},
            spec=self._job.spec.model_dump(mode="json", exclude_none=True),
        )
        write_run(self._layout.storage, run)

    # -- small things

    @property
    def _gc_lock(self) -> Path:
        return gc_lock(self._layout.storage)

    def _running_work(self) -> dict[str, Path]:
        return {name: self._layout.work(name) for name in list(self._processes)}

    def _change(self, name: str, **changes: object) -> None:
        before = self._state.stages[name].phase
        self._state = self._state.with_stage(name, **changes)
        self._save()
        if self._state.stages[name].phase != before:
            self._view.stage(name, self._state)

    def _save(self) -> None:
        save(self._layout.state, self._state)

    @contextmanager
    def _pipe(self) -> Iterator[None]:
        """The pipe whose closing tells the guards that this runner is gone."""
        self._alive, held = os.pipe()
        try:
            yield
        finally:
            os.close(self._alive)
            os.close(held)

    @contextmanager
    def _signals(self) -> Iterator[Callable[[float], None]]:
        """Notes what the user asks for; yields a way to wait for signals (a child's end is one) with a time limit."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)

        def note(number: int, _: object) -> None:
            self._asked.append(number)
            text = "stopping: stages save their checkpoints; once more kills them" if len(self._asked) == 1 else ""
            if text:
                self._view.say(text)

        def wait(seconds: float) -> None:
            if select.select([read], [], [], seconds)[0]:
                os.read(read, 4096)

        before = {number: signal.signal(number, note) for number in SIGNALS}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield wait
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(read)
            os.close(write)


def gc_lock(storage: Path) -> Path:
    """Held shared while a run looks up what it will use, alone by garbage collection."""
    return storage / "locks" / "gc"


def _unsaid(code: int) -> str:
    """Words for an end that the trainer could not explain itself."""
    name = process.signal_name(code)
    if name == "SIGKILL":
        return "killed by the system, most often for want of memory; smaller batches or fewer stages at once need less"
    return f"killed by {name}" if name else "ended without a word; see the log"


__all__ = ["Options", "Result", "Runner", "gc_lock", "short"]
