"""What `prepare` resolved, small enough for a pod's termination message (2 KiB, the rest of the summary included).

Lossless: digests of inputs and functions have 160 bits (`rlhf_api.digest.short_digest`), of which 32 inputs and 32
functions, the most a job may have, take 1,708 characters of base64; names and paths follow from the job.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NotRequired, TypedDict

from rlhf_api.digest import SHORT_DIGEST
from rlhf_api.fields import Scorer, references
from rlhf_api.job import RLHFJob
from rlhf_api.plan import Resolved, ResolvedInput
from rlhf_api.stages import REPORT

MAX_BYTES = 1800
"""The most the compact form may take, as JSON."""


class Told(TypedDict):
    """The compact form, a JSON object."""

    inputs: str
    """Digests in the job's order, base64 of the bytes behind one another; each lies at <storage>/inputs/<digest>."""
    functions: str
    """Digests by sorted name, likewise."""
    hits: str
    """Bit i, in hex: the product of the job's stage i exists and was verified."""
    recipes: NotRequired[str]
    """Recipe versions of the job's stage types by sorted name, with points between; older trainers told none."""


def function_names(job: RLHFJob) -> list[str]:
    """Every `module:function` of a job, sorted, each once."""
    functions = (
        reference.function
        for stage in job.spec.stages
        for reference in references(stage.spec)
        if isinstance(reference, Scorer)
    )
    return sorted({name for name in functions if name is not None})


def stage_types(job: RLHFJob) -> list[str]:
    """Every stage type whose products a job makes, sorted, each once."""
    return sorted({REPORT, *(stage.type for stage in job.spec.stages)})


def compact(job: RLHFJob, resolved: Resolved) -> Told:
    """What was resolved of a job, in at most MAX_BYTES.

    Raises:
        KeyError: `resolved` lacks an input or a function.
        ValueError: a digest is not of 40 hex digits.
    """
    places = {stage.name: index for index, stage in enumerate(job.spec.stages)}
    return {
        "inputs": _packed(resolved.inputs[entry.name].digest for entry in job.spec.inputs),
        "functions": _packed(resolved.functions[name] for name in function_names(job)),
        "hits": f"{sum(1 << places[name] for name in set(resolved.hits)):x}",
        "recipes": ".".join(str(resolved.recipe(kind)) for kind in stage_types(job)),
    }


def expand(job: RLHFJob, summary: Told, storage: str) -> Resolved:
    """The inverse of `compact`; `storage` is where the storage lies for whoever reads it.

    Raises:
        ValueError: it was told of another job.
    """
    inputs, functions, hits = _unpacked(summary["inputs"]), _unpacked(summary["functions"]), int(summary["hits"], 16)
    names = function_names(job)
    if (len(inputs), len(functions)) != (len(job.spec.inputs), len(names)):
        actual, expected = (
            f"{len(inputs)} inputs and {len(functions)} functions",
            f"{len(job.spec.inputs)} and {len(names)}",
        )
        raise ValueError(f"prepare told of {actual}; the job {job.metadata.name} has {expected}")
    versions = [int(version) for version in summary["recipes"].split(".")] if "recipes" in summary else []
    if versions and len(versions) != len(stage_types(job)):
        raise ValueError(f"prepare told of {len(versions)} stage types; the job has {len(stage_types(job))}")
    return Resolved(
        inputs={
            entry.name: ResolvedInput(digest, f"{storage}/inputs/{digest}")
            for entry, digest in zip(job.spec.inputs, inputs, strict=True)
        },
        functions=dict(zip(names, functions, strict=True)),
        hits=tuple(stage.name for index, stage in enumerate(job.spec.stages) if hits >> index & 1),
        recipes=dict(zip(stage_types(job), versions, strict=True)) if versions else {},
    )


def _packed(digests: Iterable[str]) -> str:
    raw = [bytes.fromhex(digest) for digest in digests]
    wrong = next((digest for digest in raw if len(digest) * 2 != SHORT_DIGEST), None)
    if wrong is not None:
        raise ValueError(f"found the digest {wrong.hex()}; expected {SHORT_DIGEST} hex digits")
    return base64.b64encode(b"".join(raw)).decode()


def _unpacked(text: str) -> list[str]:
    raw, size = base64.b64decode(text), SHORT_DIGEST // 2
    return [raw[start : start + size].hex() for start in range(0, len(raw), size)]
