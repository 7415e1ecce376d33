"""What the runner hands to the trainer and reads back: stage.json, termination.json, products."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.job import RLHFJob
from rlhf_api.plan import Plan, PlannedStage, Resolved
from rlhf_api.stage_file import Directories, Outcome, StageFile, StageInput, product_digest
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import DamagedProduct, Run, find_verified
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.scheduler import ranks
from rlhf_sdk.local.state import RunState, StageState

TAIL = 4096


@dataclass(frozen=True)
class Termination:
    """What index 0 said at its end."""

    reason: str = ""
    message: str = ""


def outcomes(plan: Plan, states: Mapping[str, StageState]) -> dict[str, Outcome]:
    """Stages without a product, and why; empty when all went well."""
    found: dict[str, Outcome] = {}
    for stage in plan.stages:
        state = states[stage.name]
        if stage.type in (PREPARE, REPORT) or state.complete:
            continue
        kind = state.phase if state.phase in ("failed", "stopped") else "blocked"
        found[stage.name] = Outcome.model_validate(
            {"state": kind, "exitCode": state.exit_code, "reason": state.reason, "message": state.message}
        )
    return found


def stage_file(
    job: RLHFJob,
    plan: Plan,
    stage: PlannedStage,
    layout: Layout,
    folder: Path,
    states: Mapping[str, StageState],
    resolved: Resolved | None,
) -> StageFile:
    """The stage's file.

    Args:
        job: the job.
        plan: its plan.
        stage: the stage to start; its state says which attempt this is, and its threads.
        layout: where the run lies.
        folder: that of the job file.
        states: how all stages stand.
        resolved: what prepare found; None for prepare itself.
    """
    state = states[stage.name]
    missing = outcomes(plan, states) if stage.type == REPORT else {}
    return StageFile(
        version="1",
        job=job.metadata.name,
        namespace=job.metadata.namespace or "default",
        uid=layout.uid,
        stage=stage.name,
        type=stage.type,
        attempt=state.attempt,
        digest=product_digest(stage, missing),
        spec=stage.spec,
        seed=stage.seed,
        execution=stage.execution,
        nodes=1,
        ranksPerNode=ranks(stage),
        threads=state.threads,
        inputs={} if resolved is None else _inputs(job, plan, stage, layout, states, resolved),
        outcomes=missing,
        directories=Directories(storage=str(layout.storage), work=str(layout.work(stage.name)), job=str(folder)),
    )


def _inputs(
    job: RLHFJob,
    plan: Plan,
    stage: PlannedStage,
    layout: Layout,
    states: Mapping[str, StageState],
    resolved: Resolved,
) -> dict[str, StageInput]:
    entries = {entry.name: entry for entry in job.spec.inputs}
    found: dict[str, StageInput] = {}
    keys = list(stage.takes)
    if stage.type == REPORT:  # it tells of the inputs too
        keys += [f"input:{name}" for name in entries]
    for key in keys:
        kind, _, name = key.partition(":")
        if kind == "input":
            there = resolved.inputs[name]
            found[key] = StageInput(path=there.path, digest=there.digest, input=entries[name])
            continue
        maker = plan.stage(name)
        if maker.product is None or maker.digest is None:
            raise ValueError(f"stage {name} has no digest before prepare is done")
        if states[name].complete or _left(layout, maker.product):
            path = layout.product(maker.product)
            found[key] = StageInput(path=str(path), digest=maker.digest, stageType=maker.type)
    return found


def _left(layout: Layout, product: str) -> bool:
    """Whether a stage that is not complete has a product the report can tell of: a gate failed, or an earlier run's."""
    try:
        return find_verified(layout.storage, product) is not None
    except DamagedProduct:
        return False


def last_attempt(layout: Layout, stage: str) -> int:
    """The highest attempt that left a trace, should the runner's own memory have been lost."""
    numbers = [int(path.name[1:]) for path in (layout.work(stage) / "logs").glob("a*") if path.name[1:].isdigit()]
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # no fence was ever raised
        numbers.append(int(json.loads((layout.work(stage) / "fence.json").read_bytes())["attempt"]))
    return max(numbers, default=0)


def clear(work: Path, digest: str) -> None:
    """Make a work directory ready for an attempt: what an earlier one said goes, and what it computed goes too when
    that was for another digest. Logs stay.
    """
    for name in ("endpoint.json", "termination.json"):
        (work / name).unlink(missing_ok=True)
    try:
        before = json.loads((work / "stage.json").read_bytes())["digest"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    if before == digest:
        return
    for name in ("checkpoints", "events"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in ("metrics.jsonl", "timings.jsonl"):
        (work / name).unlink(missing_ok=True)


def run_index(job: RLHFJob, state: RunState, plan: Plan, resolved: Resolved) -> Run:
    """What the run uses, made or about to be: named here, it is never collected as garbage."""
    products = {stage.name: stage.product for stage in plan.stages if stage.product is not None}
    for name, stage in state.stages.items():
        if stage.complete and stage.product is not None:
            products[name] = stage.product
    return Run(
        job=state.job,
        namespace=state.namespace,
        uid=state.uid,
        started=state.stages[PREPARE].started or 0.0,
        phase=state.phase,
        jobFile=state.job_file,
        inputs={name: found.digest for name, found in resolved.inputs.items()},
        products=products,
        spec=job.spec.model_dump(mode="json", exclude_none=True),
    )


def termination(work: Path) -> Termination:
    """What the trainer wrote at its end; empty when it wrote nothing (killed, or never up)."""
    try:
        raw = json.loads((work / "termination.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return Termination()
    if not isinstance(raw, dict):
        return Termination()
    return Termination(str(raw.get("reason") or ""), str(raw.get("message") or ""))


def log_tail(folder: Path, lines: int = 12) -> tuple[Path | None, list[str]]:
    """The log of this attempt that says most about its end, and its last lines."""
    logs = sorted(folder.glob("*.log"), key=lambda path: (path.name == "launcher.log", path.name))
    for path in logs:
        if path.stat().st_size:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL))
                text = file.read().decode(errors="replace")
            return path, text.rstrip().splitlines()[-lines:]
    return (logs[0] if logs else None), []
