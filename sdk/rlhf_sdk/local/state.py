"""What a run remembers between instructions: `work/<uid>/state.json`, written whole or not at all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError, model_validator

from rlhf_api.base import ApiModel
from rlhf_api.contract import BUSY, COMPLETE, StageState
from rlhf_api.lifecycle import StageRecord
from rlhf_api.plan import Plan
from rlhf_api.store import write_atomically

OF_0_1: dict[str, StageState] = {
    "pending": "Waiting",
    "running": "Running",
    "done": "Complete",
    "reused": "Reused",
    "failed": "Failed",
    "stopped": "Suspended",
    "blocked": "Skipped",
}
"""What earlier versions called the states of a stage; four of them are those of a run, too."""


def current_word(value: Any) -> Any:
    """A state as this version calls it, for what an earlier version wrote."""
    return OF_0_1.get(value, value) if isinstance(value, str) else value


Phase = Annotated[Literal["Running", "Complete", "Failed", "Suspended"], BeforeValidator(current_word)]


class LocalStage(ApiModel):
    """One stage."""

    state: StageState = "Waiting"
    """As on a cluster; never Queued or Pending."""
    attempt: int = 0
    """Attempts begun; they only grow."""
    restarts: int = 0
    """Attempts that failed and were begun anew in this run."""
    last_step: int = 0
    """The last step that an attempt came to."""
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

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_version(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "phase" not in value:
            return value
        rest = {name: field for name, field in value.items() if name != "phase"}
        return {**rest, "state": current_word(value["phase"])}

    @property
    def complete(self) -> bool:
        """Its product is in place."""
        return self.state in COMPLETE

    @property
    def running(self) -> bool:
        """An attempt of it runs."""
        return self.state in BUSY

    @property
    def record(self) -> StageRecord:
        """What the lifecycle needs to know of it."""
        return StageRecord(self.state, self.attempt, self.restarts, self.exit_code, self.reason, self.message)


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
    phase: Phase = "Running"
    """How the run stands, in the words of a job's status.phase."""
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
    stages: dict[str, LocalStage] = {}  # noqa: RUF012 - pydantic copies defaults
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
    stages: dict[str, LocalStage] = {}
    for stage in plan.stages:
        old = before.stages.get(stage.name) if before is not None else None
        if old is None:
            stages[stage.name] = LocalStage()
        else:
            going = old.state not in COMPLETE and before is not None
            stages[stage.name] = LocalStage(
                attempt=old.attempt,
                threads=old.threads if going and before is not None and before.cores == fresh.cores else 0,
                seconds=old.seconds if going else 0.0,
                product=old.product,
            )
    fields: dict[str, object] = {"stages": stages}
    if before is not None and before.phase in ("Running", "Suspended"):
        fields |= {"started": before.started, "active_seconds": before.active_seconds}
    return fresh.model_copy(update=fields)
