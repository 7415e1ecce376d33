"""What a job uses each input and function for, found by walking its stages. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from rlhf_api.fields import (
    DataRef,
    DocumentsRef,
    FileRef,
    Reference,
    RulesRef,
    Scorer,
    TaskFileRef,
    TrunkRef,
)
from rlhf_api.job import RLHFJob, Stage
from rlhf_api.stages.common import Batches, Rows
from rlhf_api.stages.rows import needed
from rlhf_trainer.data.checks import Reading
from rlhf_trainer.inspection.readers import readers, root

Model = Literal["causal", "trunk", "scorer"]


@dataclass(frozen=True)
class DataUse:
    """Rows of an input that a stage reads."""

    input: str
    where: str
    """`stage cost, costModel.data[0]`."""
    rows: Rows
    ref: DataRef
    holdout: float = 0.0
    """Share of them that the stage sets aside."""
    readers: tuple[tuple[str, Reading], ...] = ()
    """Inputs whose models, or what is trained from them, read the rows, and what of them."""


@dataclass(frozen=True)
class ModelUse:
    """An input that a stage loads as a model."""

    input: str
    where: str
    kind: Model
    labels: str | None = None
    """What a judge is asked, whose replies are read by their labels."""


@dataclass(frozen=True)
class FunctionUse:
    """A user's function that a stage calls."""

    name: str
    where: str


@dataclass(frozen=True)
class PolicyUse:
    """An input that is a policy file of rule-based rewards."""

    input: str
    where: str


@dataclass(frozen=True)
class AuditUse:
    """An input that is an audit sample which people filled in."""

    input: str
    where: str


@dataclass(frozen=True)
class SuiteUse:
    """An input that a task of lm-eval is built from: its documents, or its file."""

    input: str
    where: str


AnyUse = SuiteUse | DataUse | ModelUse | FunctionUse | PolicyUse | AuditUse


def uses(job: RLHFJob) -> list[AnyUse]:
    """Every use of an input or function, in the order of stages and fields."""
    stages = {stage.name: stage.spec for stage in job.spec.stages}
    of_fields = (
        _use(stage, where, reference, stages) for stage in job.spec.stages for where, reference in of_stage(stage)
    )
    audits = (
        AuditUse(audit.input, f"stage {stage.name}, report.audits[{index}]")
        for stage in job.spec.stages
        for index, audit in enumerate(stage.report.audits if stage.report is not None else [])
    )
    return [*(use for use in of_fields if use is not None), *audits]


def of_stage(stage: Stage) -> Iterator[tuple[str, Reference]]:
    """Every reference of a stage, and where it stands: `stage cost, costModel.data[0]`."""
    for path, reference in _references(stage.spec, ""):
        yield f"stage {stage.name}, {stage.type}.{path}", reference


def _use(stage: Stage, where: str, reference: Reference, stages: dict[str, Any]) -> AnyUse | None:
    if isinstance(reference, Scorer) and reference.function is not None:
        return FunctionUse(reference.function, where)
    if reference.input is None or isinstance(reference, RulesRef):
        return None
    if isinstance(reference, TaskFileRef | DocumentsRef):
        return SuiteUse(reference.input, where)
    if isinstance(reference, FileRef):
        return PolicyUse(reference.input, where)
    field = re.sub(r"\[\d+\]", "", where.partition(f"{stage.type}.")[2])
    if isinstance(reference, Scorer):
        return ModelUse(reference.input, where, "scorer")
    if isinstance(reference, DataRef):
        holdout = stage.spec.holdout if isinstance(stage.spec, Batches) and field == "data" else 0.0
        reading = ((root(reader.reference, stages), reader.reading) for reader in readers(stage.spec, field))
        names = tuple(dict.fromkeys((name, what) for name, what in reading if name is not None))
        return DataUse(reference.input, where, needed(stage.type, field), reference, holdout, names)
    asks = next((judge.asks for judge in getattr(stage.spec, "judges", []) if judge.model is reference), None)
    return ModelUse(reference.input, where, "trunk" if isinstance(reference, TrunkRef) else "causal", asks)


def _references(value: Any, path: str) -> Iterator[tuple[str, Reference]]:
    """Every reference below a value with its path in camelCase: `ptx.data[0]`."""
    if isinstance(value, Reference):
        yield path, value
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            below = field.alias or name
            yield from _references(getattr(value, name), f"{path}.{below}" if path else below)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, f"{path}[{index}]")
