"""How attempts and runs end: what was made is taken over, what failed is told and tried again."""

from __future__ import annotations

import time
from typing import Literal

from rlhf_api.contract import REUSED
from rlhf_api.lifecycle import AttemptResult, RetryBudget, decide, restores_budget, winding_up
from rlhf_api.plan import PlannedStage, plan
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import DamagedProduct, free_work, read_product, read_resolved, write_run
from rlhf_sdk.exits import Exit
from rlhf_sdk.local import files
from rlhf_sdk.local.attempts import result_of
from rlhf_sdk.local.run import Run
from rlhf_sdk.local.scheduler import exit_code


def finish_attempt(run: Run, stage: PlannedStage, code: int, stop: tuple[str, str] | None) -> None:
    """Take over what an attempt made, and record what follows from its end.

    Args:
        run: the stage's.
        stage: what ended.
        code: the launcher's exit code, 128 + n for signal n.
        stop: reason and message, where it had been asked to stop.
    """
    termination = files.termination(run.layout.work(stage.name))
    wrong = _receive(run, stage) if code == Exit.DONE else None
    result = result_of(code, termination, wrong=wrong, stop=stop)
    allowed = run.job.spec.run_policy.max_restarts
    state = run.state.stages[stage.name]
    ran = time.time() - (state.started or time.time())
    restarts = 0 if restores_budget(ran, termination.step, state.last_step) else state.restarts
    needed = stage.type == REPORT or not winding_up(run.plan, run.records)
    ended = {"exit_code": result.exit_code, "reason": result.reason, "message": result.message}
    ended["last_step"] = max(termination.step, state.last_step)
    match decide(result, RetryBudget(restarts, allowed, needed=needed)):
        case "complete":
            reused = result.reason == REUSED  # another run made it while this one waited
            clean = {"exit_code": code, "reason": "", "message": ""}
            run.change(stage.name, **{**clean, "state": "Reused" if reused else "Complete"})
            _clean(run, stage.name)
        case "suspend":
            run.change(stage.name, **{**ended, "state": "Suspended"})
        case "skip":
            run.change(stage.name, **{**ended, "state": "Skipped"})
        case "retry" | "retry uncounted":
            run.change(stage.name, **{**ended, "state": "Waiting", "restarts": restarts + 1})
            wait_for_restart(run, stage.name, allowed)
        case "fail" | "fail: disrupted too often":
            fail(run, stage.name, result, quoted=not termination.message)


def wait_for_restart(run: Run, name: str, allowed: int) -> None:
    """Say why a stage waits, and until when."""
    state = run.state.stages[name]
    seconds = run.options.wait(state.restarts)
    run.not_before[name] = time.monotonic() + seconds
    again = f"restart {state.restarts} of {allowed} from its last checkpoint in {seconds:.0f} s"
    run.view.say(f"{name}: {state.reason} (exit {state.exit_code}): {state.message}\n{name}: {again}", bad=True)


def fail(run: Run, name: str, result: AttemptResult, *, quoted: bool = False) -> None:
    """Record that a stage failed, and say why; `quoted`: with the end of its log."""
    run.change(name, state="Failed", exit_code=result.exit_code, reason=result.reason, message=result.message)
    code = "" if result.exit_code is None else f" (exit {result.exit_code})"
    lines = [f"{name}: failed: {result.reason}{code}: {result.message}"]
    log, tail = files.log_tail(run.layout.logs(name, run.state.stages[name].attempt))
    lines += [f"  | {line}" for line in tail] if quoted else []
    run.view.say("\n".join(lines + ([] if log is None else [f"  log: {log}"])), bad=True)


def _receive(run: Run, stage: PlannedStage) -> str | None:
    """Take over what a finished stage made; else what is wrong with it, in words."""
    if stage.type == PREPARE:
        return take_resolved(run)
    name = run.state.stages[stage.name].product or ""
    try:
        product = read_product(run.layout.storage, name)
    except DamagedProduct as error:
        return f"it ended well but its product is damaged: {error}"
    return None if product is not None else f"it ended well but made no product {name}"


def take_resolved(run: Run) -> str | None:
    """Plan with what prepare resolved; else what is wrong with it, in words."""
    try:
        run.resolved = read_resolved(run.layout.resolved)
        run.plan = plan(run.job, run.resolved)
    except (FileNotFoundError, ValueError, KeyError) as error:
        return f"it ended well but {run.layout.resolved} cannot be used: {error}"
    write_run(run.layout.storage, files.run_index(run.job, run.state, run.plan, run.resolved))
    run.resolving.release()  # from here on, gc sees in the index what this run uses
    run.view.plan(run.plan)
    return None


def _clean(run: Run, name: str) -> None:
    """A finished stage's checkpoints and remembered states are large and of no further use; the rest stays."""
    if run.job.spec.run_policy.keep != "everything":
        free_work(run.layout.work(name))


def finish_run(run: Run, end: Literal["Complete", "Failed", "Suspended"], *, interrupted: bool) -> Exit:
    """Record how the run ended; gives the exit code."""
    code = Exit.DONE
    if end == "Failed":
        code = exit_code(run.plan, run.state.stages)
    elif end == "Suspended":
        code = Exit.INTERRUPTED if interrupted else Exit.STOPPED
    changes = {"phase": end, "exit_code": int(code), "ended": time.time(), "pid": None}
    run.state = run.state.model_copy(update=changes)
    if run.resolved is not None:  # again: how it ended; and the report of a run that failed is another product
        write_run(run.layout.storage, files.run_index(run.job, run.state, run.plan, run.resolved))
    run.save()
    return code
