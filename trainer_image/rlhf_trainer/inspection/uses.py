"""What a job uses each input and function for, found by walking its stages. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from rlhf_api.fields import DataRef, ModelRef, Reference, Scorer
from rlhf_api.job import RLHFJob, Stage
from rlhf_api.stages.common import Batches
from rlhf_trainer.data.formats import Use as Rows

Model = Literal["causal", "trunk", "scorer"]

ROWS: dict[tuple[str, str], Rows] = {
    ("sft", "data"): "conversations",
    ("rewardModel", "data"): "pairs",
    ("costModel", "data"): "safety pairs",
    ("ppo", "ptx.data"): "conversations",
}
"""What a field's rows must give, by stage type and field; prompts elsewhere. A further type adds its own."""
TRUNKS = {("rewardModel", "model"), ("costModel", "model"), ("ppo", "critics.model")}
"""Where a model with another head than a language model's will do."""


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


@dataclass(frozen=True)
class ModelUse:
    """An input that a stage loads as a model."""

    input: str
    where: str
    kind: Model


@dataclass(frozen=True)
class FunctionUse:
    """A user's function that a stage calls."""

    name: str
    where: str


AnyUse = DataUse | ModelUse | FunctionUse


def uses(job: RLHFJob) -> list[AnyUse]:
    """Every use of an input or function, in the order of stages and fields."""
    return [use for stage in job.spec.stages for use in _of_stage(stage)]


def _of_stage(stage: Stage) -> Iterator[AnyUse]:
    for path, reference in _references(stage.spec, ""):
        where = f"stage {stage.name}, {stage.type}.{path}"
        field = ".".join(part.partition("[")[0] for part in path.split("."))
        if isinstance(reference, Scorer) and reference.function is not None:
            yield FunctionUse(reference.function, where)
        elif reference.input is None:
            continue
        elif isinstance(reference, Scorer):
            yield ModelUse(reference.input, where, "scorer")
        elif isinstance(reference, ModelRef):
            yield ModelUse(reference.input, where, "trunk" if (stage.type, field) in TRUNKS else "causal")
        elif isinstance(reference, DataRef):
            holdout = stage.spec.holdout if isinstance(stage.spec, Batches) else 0.0
            yield DataUse(reference.input, where, ROWS.get((stage.type, field), "prompts"), reference, holdout)


def _references(value: Any, path: str) -> Iterator[tuple[str, Reference]]:
    """Every reference below a value with its path in camelCase: `ptx.data[0]`."""
    if isinstance(value, Reference):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            below = field.alias or name
            yield from _references(getattr(value, name), f"{path}.{below}" if path else below)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, f"{path}[{index}]")
