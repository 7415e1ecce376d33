"""`stage.json` of an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from rlhf_api.fields import ApiModel
from rlhf_api.job import RLHFJob
from rlhf_api.plan import Plan, PlannedStage, Resolved
from rlhf_api.stage_file import Directories, Outcome, StageFile, StageInput, product_digest
from rlhf_api.stages import PREPARE, REPORT, STAGE_TYPES
from rlhf_api.status import StageStatus
from rlhf_operator.reconcile import reasons
from rlhf_operator.reconcile.profiles import Shape

STORAGE = "/rlhf/storage"
JOB_FOLDER = "/rlhf/job"
"""Where a job that brings functions of its own mounts them."""
TERMINATION = "/dev/termination-log"
RENDEZVOUS = 29500
DONE = ("Complete", "Reused")


def outcomes(plan: Plan, states: Mapping[str, StageStatus]) -> dict[str, Outcome]:
    """Stages without a product, and why; empty when all went well."""
    found = {}
    for stage in plan.stages:
        state = states[stage.name]
        if stage.type in (PREPARE, REPORT) or state.state in DONE:
            continue
        last = state.attempts[-1] if state.attempts else None
        kind = "failed" if state.state == "Failed" else "stopped" if last is not None else "blocked"
        found[stage.name] = Outcome.model_validate(
            {
                "state": kind,
                "exitCode": None if last is None else last.exit_code,
                "reason": state.reason or "" if kind == "failed" else "",
                "message": state.message or "" if kind == "failed" else "",
            }
        )
    return found


def digest(plan: Plan, stage: PlannedStage, states: Mapping[str, StageStatus]) -> str:
    """Digest of what the stage is to make."""
    return product_digest(stage, outcomes(plan, states) if stage.type == REPORT else {})


def stage_file(
    job: RLHFJob,
    uid: str,
    plan: Plan,
    stage: PlannedStage,
    states: Mapping[str, StageStatus],
    resolved: Resolved | None,
    *,
    attempt: int,
    shape: Shape,
    nodes: int,
    name: str,
    port: int,
) -> StageFile:
    """The stage's file.

    Args:
        job: the job.
        uid: its UID.
        plan: its plan.
        stage: the stage.
        states: how all stages stand.
        resolved: what prepare found; None for prepare itself.
        attempt: number of the attempt.
        shape: what its pods are made of.
        nodes: how many there are: of a Job that exists, the Job says it.
        name: the attempt's Job and Service.
        port: of /metrics.
    """
    return StageFile(
        version="1",
        job=job.metadata.name,
        namespace=job.metadata.namespace or "default",
        uid=uid,
        stage=stage.name,
        type=stage.type,
        attempt=attempt,
        digest=digest(plan, stage, states),
        spec=_told(stage),
        seed=stage.seed,
        execution=stage.execution,
        nodes=nodes,
        ranksPerNode=shape.ranks,
        threads=shape.threads,
        inputs={} if resolved is None else _inputs(job, plan, stage, states, resolved),
        outcomes=outcomes(plan, states) if stage.type == REPORT else {},
        directories=Directories(
            storage=STORAGE, work=f"{STORAGE}/work/{uid}/{stage.name}", job=JOB_FOLDER, terminationMessage=TERMINATION
        ),
        metricsPort=port,
        master=f"{name}-0.{name}:{RENDEZVOUS}" if nodes > 1 else None,
    )


def _told(stage: PlannedStage) -> dict[str, Any]:
    """A stage's spec without what is the default: the trainer that the job began with may not know a younger field."""
    kind: type[ApiModel] = RLHFJob if stage.type in (PREPARE, REPORT) else STAGE_TYPES[stage.type].spec
    return kind.model_validate_json(orjson.dumps(stage.spec)).model_dump(mode="json", exclude_defaults=True)


def _inputs(
    job: RLHFJob, plan: Plan, stage: PlannedStage, states: Mapping[str, StageStatus], resolved: Resolved
) -> dict[str, StageInput]:
    entries = {entry.name: entry for entry in job.spec.inputs}
    keys = list(stage.takes)
    if stage.type == REPORT:  # it tells of the inputs too
        keys += [f"input:{name}" for name in entries]
    found: dict[str, StageInput] = {}
    for key in keys:
        kind, _, name = key.partition(":")
        if kind == "input":
            there = resolved.inputs[name]
            found[key] = StageInput(path=there.path, digest=there.digest, input=entries[name])
        elif _has_product(states[name]):
            maker = plan.stage(name)
            path = f"{STORAGE}/products/{maker.product}"
            found[key] = StageInput(path=path, digest=maker.digest or "", stageType=maker.type)
    return found


def _has_product(state: StageStatus) -> bool:
    """A gate that was not kept leaves its evaluation in place, for the report to show."""
    return state.state in DONE or (state.state == "Failed" and state.reason == reasons.GATE_FAILED)
