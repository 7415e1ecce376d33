"""What a job's stages need in memory, as far as this machine can know, and what it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_api.job import RLHFJob
from rlhf_api.memory import InputFacts, Missing, estimate, read_local_facts
from rlhf_api.plan import plan
from rlhf_api.stages import SINGLE_PROCESS_STAGES
from rlhf_sdk.local.scheduler import ranks
from rlhf_sdk.text import plural, size


@dataclass(frozen=True)
class Need:
    """Memory of one stage."""

    stage: str
    ranks: int
    bytes: int
    """A rank's."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Bytes by what they are for."""

    @property
    def total(self) -> int:
        """Of all its ranks."""
        return self.ranks * self.bytes


@dataclass(frozen=True)
class Needs:
    """Memory of a job's stages."""

    stages: tuple[Need, ...]
    unknown: tuple[str, ...]
    """Inputs whose model cannot be looked at from here, each with its reason."""


def needs(job: RLHFJob, folder: Path) -> Needs:
    """Estimate every stage whose models can be looked at.

    Args:
        job: a valid job.
        folder: where relative sources are looked up.
    """
    facts = read_local_facts(job, folder)
    sources = {entry.name: entry.source for entry in job.spec.inputs}
    stages: list[Need] = []
    unknown: dict[str, None] = {}
    for stage in plan(job).stages:
        if stage.type in SINGLE_PROCESS_STAGES:
            continue
        try:
            usage = estimate(job, stage.name, facts.models, ranks=ranks(stage), lengths=facts.lengths)
        except Missing as missing:
            name = str(missing.args[0])
            unknown[f"{name}: {_why_unknown(name, sources.get(name), facts)}"] = None
            continue
        if usage is not None:
            stages.append(Need(stage.name, ranks(stage), usage.bytes, usage.parts))
    return Needs(tuple(stages), tuple(unknown))


def _why_unknown(name: str, source: str | None, facts: InputFacts) -> str:
    if source is None:
        return "it makes no model"
    if name in facts.problems:
        return f"{source}: {facts.problems[name]} (memory is estimated for models built as Llama is)"
    return f"{source} cannot be looked at from here"


def machine_memory() -> int:
    """Bytes this machine has, or its control group may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def too_large(need: Need, machine: int) -> str | None:
    """Why a stage cannot fit, in words; None: it does."""
    if need.total <= machine:
        return None
    largest = max(need.parts, key=lambda name: need.parts[name], default="")
    what = f"{plural(need.ranks, 'rank')} of {size(need.bytes)}" if need.ranks > 1 else size(need.bytes)
    return (
        f"{need.stage}: needs {what}, this machine has {size(machine)}: it cannot fit here. Most of it is {largest}; "
        "smaller batches or lengths, fewer trainableLayers, lora, dtype bfloat16 or ZeRO over more nodes need less"
    )
