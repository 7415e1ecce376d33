"""`stage.json`: the one file a stage process gets. Written by an executor, read by the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import Field

from rlhf_api.base import ApiModel
from rlhf_api.contract import GATE_FAILED
from rlhf_api.digest import digest_of
from rlhf_api.job import Execution, Input, RLHFJob
from rlhf_api.lifecycle import Records, StageRecord
from rlhf_api.plan import Plan, PlannedStage, Resolved
from rlhf_api.stages import PREPARE, REPORT, SINGLE_PROCESS_STAGES, STAGE_TYPES
from rlhf_api.template import Template

STAGE_FILE_VERSION: Final = "1"
MOST_MESSAGE: Final = 600
"""Characters of an outcome's message: of all stages together they fit into an annotation of a pod."""


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

    @property
    def text(self) -> str:
        """The file as it is written: without defaults."""
        return self.model_dump_json(exclude_defaults=True)


@dataclass(frozen=True)
class Paths:
    """Where an executor keeps what a stage reads and writes. All absolute."""

    storage: str
    work: str
    """Of the run: each stage has its folder below."""
    job: str
    """Folder of the job file."""
    termination_message: str | None = None


@dataclass(frozen=True)
class Processes:
    """How the processes of an attempt are laid out."""

    nodes: int
    ranks: int
    """A node."""
    threads: int
    """A rank; 0: the library's choice."""
    metrics_port: int = 0
    master: str | None = None
    """`host:port` of the rendezvous where there are several nodes."""


def build(
    job: RLHFJob,
    uid: str,
    plan: Plan,
    stage: PlannedStage,
    records: Records,
    resolved: Resolved | None,
    paths: Paths,
    processes: Processes,
    attempt: int,
) -> StageFile:
    """The file of a stage's attempt.

    Args:
        job: the job.
        uid: its UID.
        plan: its plan.
        stage: the stage.
        records: how all stages stand.
        resolved: what prepare found; None for prepare itself.
        paths: where it reads and writes.
        processes: how many there are.
        attempt: its number.
    """
    missing = outcomes(plan, records) if stage.type == REPORT else {}
    return StageFile(
        version=STAGE_FILE_VERSION,
        job=job.metadata.name,
        namespace=job.metadata.namespace or "default",
        uid=uid,
        stage=stage.name,
        type=stage.type,
        attempt=attempt,
        digest=product_digest(stage, missing),
        spec=_spec(stage),
        seed=stage.seed,
        execution=stage.execution,
        nodes=processes.nodes,
        ranksPerNode=processes.ranks,
        threads=processes.threads,
        inputs={} if resolved is None else _inputs(job, plan, stage, records, resolved, paths),
        outcomes=missing,
        directories=Directories(
            storage=paths.storage,
            work=f"{paths.work}/{stage.name}",
            job=paths.job,
            terminationMessage=paths.termination_message,
        ),
        metricsPort=processes.metrics_port,
        master=processes.master,
    )


def outcomes(plan: Plan, records: Records) -> dict[str, Outcome]:
    """Stages without a product, and why; empty when all went well.

    Of a stage that was stopped it says no more than that: with which exit code it ended is a matter of moments, and
    the report's digest covers what is said here.
    """
    missing: dict[str, Outcome] = {}
    for stage in plan.stages:
        record = records[stage.name]
        if stage.type in SINGLE_PROCESS_STAGES or record.complete:
            continue
        if record.state == "Failed":
            missing[stage.name] = Outcome(
                state="failed",
                exitCode=record.exit_code,
                reason=record.reason,
                message=record.message[:MOST_MESSAGE],
            )
        else:
            missing[stage.name] = Outcome(state="stopped" if record.attempts else "blocked")
    return missing


def planned_digest(plan: Plan, stage: PlannedStage, records: Records) -> str:
    """Digest of the product that the stage is to make, as its job stands."""
    return product_digest(stage, outcomes(plan, records) if stage.type == REPORT else {})


def planned_product(plan: Plan, stage: PlannedStage, records: Records) -> str | None:
    """Name of the product that the stage is to make; None for prepare, which makes none."""
    return None if stage.type == PREPARE else f"{stage.type}-{planned_digest(plan, stage, records)}"


def _spec(stage: PlannedStage) -> dict[str, Any]:
    """A stage's spec without what is the default: the trainer that the job began with may not know a younger field. Of
    the whole job also without runPolicy, which no trainer reads and which may grow while the job runs."""
    of_job = stage.type in SINGLE_PROCESS_STAGES
    kind: type[ApiModel] = RLHFJob if of_job else STAGE_TYPES[stage.type].spec
    spec = kind.model_validate_json(orjson.dumps(stage.spec)).model_dump(mode="json", exclude_defaults=True)
    if of_job:
        spec["spec"].pop("runPolicy", None)
    return spec


def _inputs(
    job: RLHFJob, plan: Plan, stage: PlannedStage, records: Records, resolved: Resolved, paths: Paths
) -> dict[str, StageInput]:
    entries = {entry.name: entry for entry in job.spec.inputs}
    keys = list(stage.takes)
    if stage.type == REPORT:  # it tells of the inputs too
        keys += [f"input:{name}" for name in entries]
    inputs: dict[str, StageInput] = {}
    for key in keys:
        kind, _, name = key.partition(":")
        if kind == "input":
            source = resolved.inputs[name]
            inputs[key] = StageInput(path=source.path, digest=source.digest, input=entries[name])
            continue
        maker = plan.stage(name)
        if maker.product is None or maker.digest is None:
            raise ValueError(f"stage {name} has no digest before prepare is done")
        if _has_product(records[name]):
            path = f"{paths.storage}/products/{maker.product}"
            inputs[key] = StageInput(path=path, digest=maker.digest, stageType=maker.type)
    return inputs


def _has_product(record: StageRecord) -> bool:
    """A gate that was not kept leaves its evaluation in place, for the report to show."""
    return record.complete or (record.state == "Failed" and record.reason == GATE_FAILED)


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
