"""The plan: a job's stages, what each takes, and - once resolved - the digest of what each makes. Pure.

A product's digest covers the stage's type and recipe version, what its effective spec says beyond the defaults, its
seed, the digests of all it takes and the source of user functions. Defaults are left out so that a later version may
add a field without making every product anew; a changed default is a new recipe version (held by a test). What does not change the result is not in a type's spec but beside it
(`execution`, `nodes`, `pod`, ...), so that a product is found again whatever it was computed on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from rlhf_api.base import ApiModel
from rlhf_api.digest import digest_of
from rlhf_api.effective import effective
from rlhf_api.fields import Reference, references
from rlhf_api.job import Execution, Input, RLHFJob, Stage
from rlhf_api.stages import PREPARE, REPORT, STAGE_TYPES, Report

NOT_CONTENT = {"name", "source", "licence"}
"""Fields of an input that do not change what its rows are."""


@dataclass(frozen=True)
class ResolvedInput:
    """What `prepare` found."""

    digest: str
    """Digest of the content, 40 hex digits."""
    path: str
    """Where it lies now."""


@dataclass(frozen=True)
class Resolved:
    """What `prepare` reports; `rlhf_api.termination_codec` makes it fit a termination message."""

    inputs: dict[str, ResolvedInput]
    """By the input's name."""
    functions: dict[str, str] = field(default_factory=dict)
    """Digest of the source of each `module:function`, 40 hex digits."""
    hits: tuple[str, ...] = ()
    """Stages whose product exists and was verified."""
    recipes: dict[str, int] = field(default_factory=dict)
    """Recipe version of a stage type in the trainer that `prepare` ran in, and all stages of the job will; types that
    are not named here have the version of this package."""

    def recipe(self, kind: str) -> int:
        """Recipe version of a stage type."""
        return self.recipes.get(kind, STAGE_TYPES[kind].recipe)


@dataclass(frozen=True)
class PlannedStage:
    """One stage, ready to be turned into pods or processes."""

    name: str
    type: str
    needs: tuple[str, ...]
    """Stages that must be complete first."""
    takes: tuple[str, ...]
    """`Reference.key` of all it takes, functions left out, each once."""
    spec: dict[str, Any]
    """Effective spec, camelCase, all defaults written out; the whole job for prepare and report."""
    execution: Execution
    """How it computes."""
    seed: int
    """Effective seed."""
    profile: str | None
    """Name of the profile; None: the executor's default."""
    nodes: int | None
    """Pods; None: the profile's."""
    ranks_per_node: int | None
    """Processes a pod; None: the profile's."""
    digest: str | None = None
    """Digest of its product, 64 hex digits, once resolved; None for prepare."""
    hit: bool = False
    """Its product exists: nothing to compute."""

    @property
    def product(self) -> str | None:
        """Folder of its product below `products/`."""
        return None if self.digest is None else f"{self.type}-{self.digest}"


@dataclass(frozen=True)
class Plan:
    """Stages in an order in which each comes after all it needs: prepare first, report last."""

    job: str
    stages: tuple[PlannedStage, ...]

    def stage(self, name: str) -> PlannedStage:
        """The stage of that name.

        Raises:
            KeyError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


def plan(job: RLHFJob, resolved: Resolved | None = None) -> Plan:
    """Plan a valid job: the structure alone, or with digests and hits.

    Raises:
        KeyError: `resolved` lacks an input or a function of the job.
        ValueError: a stage is repeated; `rlhf_api.load` writes repeats out.
    """
    if any(stage.repeat is not None for stage in job.spec.stages):
        raise ValueError("found a repeated stage; expected a job as rlhf_api.load gives it")
    written = {stage.name: stage for stage in job.spec.stages}
    digests: dict[str, str] = {}
    if resolved is not None:
        for entry in job.spec.inputs:
            digests[f"input:{entry.name}"] = _input_digest(entry, resolved.inputs[entry.name])
        digests.update({f"function:{name}": digest for name, digest in resolved.functions.items()})
    planned = [_prepare(job)]
    for stage in job.spec.stages:
        if stage.type == REPORT:
            continue
        spec = effective(stage, written)
        planned_stage = _planned(job, stage, spec)
        if resolved is not None:
            content = _content(spec, digests)
            digest = digest_of(
                {"type": stage.type, "recipe": resolved.recipe(stage.type), "seed": planned_stage.seed, "spec": content}
            )
            digests[f"stage:{stage.name}"] = digest
            planned_stage = replace(planned_stage, digest=digest, hit=stage.name in resolved.hits)
        planned.append(planned_stage)
    planned.append(_report(job, tuple(planned[1:]), resolved))
    return Plan(job.metadata.name, tuple(planned))


def _planned(job: RLHFJob, stage: Stage, spec: ApiModel) -> PlannedStage:
    keys = tuple(
        dict.fromkeys(reference.key for reference in references(spec) if not reference.key.startswith("function:"))
    )
    needs = tuple(key.partition(":")[2] for key in keys if key.startswith("stage:"))
    seed = getattr(spec, "seed", None)
    return PlannedStage(
        name=stage.name,
        type=stage.type,
        needs=(PREPARE, *needs),
        takes=keys,
        spec=spec.model_dump(mode="json"),
        execution=stage.execution,
        seed=job.spec.seed if seed is None else seed,
        profile=stage.profile or job.spec.profile,
        nodes=stage.nodes or job.spec.nodes,
        ranks_per_node=stage.ranks_per_node or job.spec.ranks_per_node,
    )


def _whole(job: RLHFJob) -> dict[str, Any]:
    return job.model_dump(mode="json", exclude={"status"}, exclude_none=True)


def _prepare(job: RLHFJob) -> PlannedStage:
    takes = tuple(f"input:{entry.name}" for entry in job.spec.inputs)
    return PlannedStage(PREPARE, PREPARE, (), takes, _whole(job), Execution(), job.spec.seed, "cpu", 1, 1)


def _report(job: RLHFJob, others: tuple[PlannedStage, ...], resolved: Resolved | None) -> PlannedStage:
    written = next((stage for stage in job.spec.stages if stage.type == REPORT), None)
    name = written.name if written is not None else REPORT
    spec = written.report if written is not None and written.report is not None else Report()
    takes = tuple(f"stage:{stage.name}" for stage in others)
    digest = None
    if resolved is not None:
        audits = [resolved.inputs[audit.input].digest for audit in spec.audits]
        inputs = {entry.name: entry.model_dump(mode="json", exclude_defaults=True) for entry in job.spec.inputs}
        digest = digest_of(
            {
                "type": REPORT,
                "recipe": resolved.recipe(REPORT),
                "job": job.metadata.name,
                "spec": spec.model_dump(mode="json", exclude_defaults=True),
                "inputs": [inputs[name] for name in sorted(inputs)],  # it prints their sources and licences
                "stages": [[stage.name, stage.digest] for stage in others],
                **({"audits": audits} if audits else {}),
            }
        )
    needs = (PREPARE, *(stage.name for stage in others))
    execution = written.execution if written is not None else Execution()
    return PlannedStage(name, REPORT, needs, takes, _whole(job), execution, job.spec.seed, "cpu", 1, 1, digest)


def _input_digest(entry: Input, resolved: ResolvedInput) -> str:
    meaning = entry.model_dump(mode="json", exclude=NOT_CONTENT, exclude_defaults=True)
    return digest_of({"content": resolved.digest, **meaning})


def _content(value: Any, digests: dict[str, str]) -> Any:
    """A spec as JSON without defaults and seed, every reference replaced by the digest of what it points at."""
    if isinstance(value, Reference):
        label = {"label": value.label} if value.labelled else {}
        return {"digest": digests[value.key], **label, **_told(value, {"input", "stage", "function", "name"}, digests)}
    if isinstance(value, BaseModel):
        return _told(value, {"seed"}, digests)
    if isinstance(value, list):
        return [_content(item, digests) for item in value]
    return value


def _told(value: BaseModel, without: set[str], digests: dict[str, str]) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    fields = ((name, field, getattr(value, name)) for name, field in type(value).model_fields.items())
    return {
        name: _content(item, digests)
        for name, field, item in fields
        if name not in without and (field.is_required() or item != field.get_default(call_default_factory=True))
    }
