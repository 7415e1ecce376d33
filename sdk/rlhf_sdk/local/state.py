"""What a run remembers between instructions: `work/<uid>/state.json`, written whole or not at all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rlhf_api.fields import ApiModel
from rlhf_api.plan import Plan
from rlhf_api.store import write_atomically

Phase = Literal["pending", "running", "done", "reused", "failed", "stopped", "blocked"]
COMPLETE: frozenset[Phase] = frozenset({"done", "reused"})
"""Phases of a stage whose product is in place."""


class StageState(ApiModel):
    """One stage."""

    phase: Phase = "pending"
    """`done`: computed by this run; `reused`: the product was there; `stopped`: with a checkpoint, on request;
    `blocked`: never started, because another failed."""
    attempt: int = 0
    """Attempts begun; they only grow."""
    restarts: int = 0
    """Attempts that failed and were begun anew in this run."""
    threads: int = 0
    """Threads a rank of the first attempt: resumed with as many, since another number rounds differently."""
    exit_code: int | None = None
    """Of the last attempt."""
    reason: str = ""
    """One word, if it failed."""
    message: str = ""
    """In words."""
    started: float | None = None
    """When the last attempt began, seconds since 1970."""
    seconds: float = 0.0
    """Running time over all attempts."""
    product: str | None = None
    """`<type>-<digest>`, once known."""

    @property
    def complete(self) -> bool:
        """Its product is in place."""
        return self.phase in COMPLETE


class RunState(ApiModel):
    """The whole run."""

    version: Literal["1"] = "1"
    """Of this format."""
    job: str
    """Name of the job."""
    namespace: str = "default"
    """Its namespace."""
    uid: str
    """Its UID."""
    job_file: str
    """Where the job file lies."""
    phase: Literal["running", "done", "failed", "stopped"] = "running"
    """How the run stands."""
    exit_code: int | None = None
    """What `rlhf run` ended with."""
    reason: str = ""
    """Why it failed, in a word."""
    pid: int | None = None
    """Process of the runner."""
    cores: int = 1
    """Core budget."""
    started: float = 0.0
    """When it was first run, seconds since 1970."""
    ended: float | None = None
    """When it ended."""
    saved: float = 0.0
    """When this was written."""
    active_seconds: float = 0.0
    """Time that counts against `activeDeadlineSeconds`."""
    stages: dict[str, StageState] = {}  # noqa: RUF012 - pydantic copies defaults
    """By name, in the plan's order."""

    def with_stage(self, name: str, **changes: object) -> RunState:
        """A copy in which the stage has changed."""
        stage = self.stages[name].model_copy(update=changes)
        return self.model_copy(update={"stages": {**self.stages, name: stage}})


def load(path: Path) -> RunState | None:
    """What an earlier run left; None: nothing.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return RunState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ValueError(
            f"{path}: not a state this version can read ({str(error).splitlines()[0]}). "
            "Remove the file to begin again: products are found again by their digests."
        ) from error


def save(path: Path, state: RunState) -> None:
    """Remember."""
    write_atomically(path, state.model_copy(update={"saved": time.time()}).model_dump_json(indent=1).encode())


def resumed(before: RunState | None, plan: Plan, fresh: RunState) -> RunState:
    """The state a run starts from: the plan's stages, with what still holds of an earlier run's.

    Nothing is taken for finished: a product is looked for and verified each time. Attempts go on counting, so that
    logs are never overwritten; restarts begin anew, since someone asked for another try.
    """
    stages: dict[str, StageState] = {}
    for stage in plan.stages:
        old = before.stages.get(stage.name) if before is not None else None
        if old is None:
            stages[stage.name] = StageState()
        else:
            going = old.phase not in COMPLETE and before is not None
            stages[stage.name] = StageState(
                attempt=old.attempt,
                threads=old.threads if going and before is not None and before.cores == fresh.cores else 0,
                seconds=old.seconds if going else 0.0,
                product=old.product,
            )
    kept: dict[str, object] = {"stages": stages}
    if before is not None and before.phase in ("running", "stopped"):
        kept |= {"started": before.started, "active_seconds": before.active_seconds}
    return fresh.model_copy(update=kept)
