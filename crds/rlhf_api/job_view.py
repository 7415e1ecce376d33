"""A job as far as its parts are valid: what the rules that cross stages are checked on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rlhf_api.job import Input, JobSpec, Stage
from rlhf_api.pods import Pod
from rlhf_api.run_policy import RunPolicy
from rlhf_api.stages import STAGE_TYPES


@dataclass(frozen=True)
class StageView:
    """A stage as far as it is known: its type and model are None where they are wrong."""

    index: int
    name: str | None
    type: str | None
    model: Stage | None


@dataclass(frozen=True)
class InputView:
    """An input as far as it is known."""

    index: int
    name: str | None
    model: Input | None


@dataclass(frozen=True)
class JobView:
    """The parts of a job that the rules look at."""

    inputs: tuple[InputView, ...]
    stages: tuple[StageView, ...]
    policy: RunPolicy | None
    pod: Pod | None


def view_of(spec: JobSpec) -> JobView:
    """The view of a valid job."""
    inputs = tuple(InputView(index, entry.name, entry) for index, entry in enumerate(spec.inputs))
    stages = tuple(StageView(index, stage.name, stage.type, stage) for index, stage in enumerate(spec.stages))
    return JobView(inputs, stages, spec.run_policy, spec.pod)


def partial_view_of(spec: dict[str, Any]) -> JobView:
    """The view of a job that is not valid: what is wrong is None."""

    def valid(model: Any, value: Any) -> Any:
        try:
            return model.model_validate(value)
        except ValidationError:
            return None

    inputs = tuple(
        InputView(index, _text(entry, "name"), valid(Input, entry)) for index, entry in enumerate(_list(spec, "inputs"))
    )
    stages = tuple(
        StageView(index, _text(entry, "name"), _type(entry), valid(Stage, entry))
        for index, entry in enumerate(_list(spec, "stages"))
    )
    policy, pod = valid(RunPolicy, spec.get("runPolicy", {})), valid(Pod, spec.get("pod", {}))
    return JobView(inputs, stages, policy, pod)


def _list(value: dict[str, Any], name: str) -> list[Any]:
    entries = value.get(name)
    return entries if isinstance(entries, list) else []


def _text(value: Any, name: str) -> str | None:
    text = value.get(name) if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def _type(value: Any) -> str | None:
    types = [name for name in STAGE_TYPES if isinstance(value, dict) and name in value]
    return types[0] if len(types) == 1 else None
