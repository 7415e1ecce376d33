"""What the runner hands to the trainer and reads back: stage.json, termination.json, products."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.job import RLHFJob
from rlhf_api.plan import Plan, Resolved
from rlhf_api.stages import PREPARE
from rlhf_api.store import Run
from rlhf_sdk.local.layout import Layout
from rlhf_sdk.local.state import RunState

TAIL = 4096


@dataclass(frozen=True)
class Termination:
    """What index 0 said at its end."""

    reason: str = ""
    message: str = ""
    step: int = 0


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
        inputs={name: entry.digest for name, entry in resolved.inputs.items()},
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
    step = raw.get("step")
    return Termination(
        str(raw.get("reason") or ""), str(raw.get("message") or ""), step if isinstance(step, int) else 0
    )


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
