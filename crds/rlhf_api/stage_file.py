"""`stage.json`: the one file a stage process gets. Written by an executor, read by the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from rlhf_api.digest import digest_of
from rlhf_api.fields import ApiModel
from rlhf_api.job import Execution, Input
from rlhf_api.plan import PlannedStage
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.template import Template

STAGE_FILE_VERSION = "1"


class StageInput(ApiModel):
    """Where something the stage takes lies, and what it is."""

    path: str
    """Absolute path of the file or folder."""
    digest: str
    """Digest of its content: of an input, as `prepare` resolved it; of a product, its own."""
    input: Input | None = None
    """The input's entry of the job (format, columns, heldout, maxBadRows), for data."""
    stage_type: str | None = None
    """The type of the stage that made it."""

    @property
    def template(self) -> Template | None:
        """What the job fixes of an input's chat template; a product's has it in it."""
        return None if self.input is None else self.input.template


class Outcome(ApiModel):
    """What became of a stage that has no product: for the report, which runs last whatever happened."""

    state: Literal["failed", "stopped", "blocked"]
    """`failed`: it ended so; `stopped`: with a checkpoint, because another failed; `blocked`: it never started."""
    exit_code: int | None = None
    """Of its last attempt."""
    reason: str = ""
    """One word: InputError, GateFailed, DeadlineExceeded, ..."""
    message: str = ""
    """The trainer's own words."""


class Directories(ApiModel):
    """Where a stage writes. All absolute."""

    storage: str
    """Root of `work/`, `products/`, `inputs/`, `runs/` and `locks/`."""
    work: str
    """work/<job uid>/<stage>: checkpoints, metrics.jsonl, timings.jsonl, logs, events."""
    job: str
    """Folder of the job file: where relative paths and user functions are looked up (local runner only)."""
    termination_message: str | None = None
    """Where index 0 writes its summary of at most 2 KiB; by default work/termination.json."""


class StageFile(ApiModel):
    """Everything a stage process is told."""

    version: Literal["1"]
    """Of this format; another is refused in words."""
    job: str
    """Name of the job."""
    namespace: str = "default"
    """Its namespace."""
    uid: str
    """Its UID; locally made of the job's name and run directory."""
    stage: str
    """Name of the stage."""
    type: str
    """Its type, or `prepare`."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """Number of the attempt."""
    digest: str
    """Digest of its product to be: `<type>-<hex>` names the folder."""
    spec: dict[str, Any]
    """The effective spec of its type; the whole job for `prepare` and `report`. A default may be left out: a trainer
    reads files of a younger operator whose spec has fields that it does not know."""
    seed: int
    """Effective seed."""
    execution: Execution
    """How it computes."""
    nodes: int = 1
    """Pods of the gang."""
    ranks_per_node: int = 1
    """Processes a pod."""
    threads: int = 0
    """Threads a process; 0: the library's choice."""
    inputs: dict[str, StageInput] = {}
    """By `Reference.key`: `input:NAME`, `stage:NAME`."""
    outcomes: dict[str, Outcome] = {}
    """For `report`: stages without a product, by name. Then its digest covers them, so that it is not taken for the
    report of a run that went well."""
    directories: Directories
    """Where it writes."""
    metrics_port: int = 0
    """Port of /metrics and /progress; 0: any free one, written to work/endpoint.json."""
    master: str | None = None
    """`host:port` of the rendezvous when nodes > 1; else chosen."""


def product_digest(stage: PlannedStage, missing: Mapping[str, Outcome]) -> str:
    """Digest of the product a stage is to make; the report of a run that failed has one of its own.

    Raises:
        ValueError: nothing is resolved yet.
    """
    if stage.type == PREPARE:
        return digest_of({"type": PREPARE, "job": stage.spec})
    if stage.digest is None:
        raise ValueError(f"stage {stage.name} has no digest before prepare is done")
    if stage.type == REPORT and missing:
        why = {name: outcome.model_dump(mode="json") for name, outcome in missing.items()}
        return digest_of({"report": stage.digest, "outcomes": why})
    return stage.digest
