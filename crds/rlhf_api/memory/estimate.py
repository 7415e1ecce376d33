"""The terms of a rank's memory, each stated where it is computed.

The estimate is of the peak: the larger of loading (every model whole, before what they have in common is shared) and
training. Lengths are the longest that the spec allows, or that the data has where that is known. It is meant to say
"this cannot fit" before a GPU is asked for; the demo's stages measure within 25 % of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhf_api.job import RLHFJob
from rlhf_api.memory import answering, fitting, ppo
from rlhf_api.memory.facts import ModelFacts
from rlhf_api.memory.terms import Device, Lengths, Moment, Terms
from rlhf_api.stages import Evaluate, Moderation, Ppo, Rules, Sft, Simulate
from rlhf_api.stages.preference import Preference

RUNTIME: dict[Device, int] = {"cpu": 860 << 20, "cuda": 1200 << 20}
"""A rank before it holds a model: the libraries' code on a CPU (measured), the driver's context on a GPU."""


@dataclass(frozen=True)
class Estimate:
    """Bytes a rank needs at its peak."""

    bytes: int
    """The sum of the parts."""
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes by what they are for, those of the peak's moment, largest first."""


def estimate(
    job: RLHFJob,
    stage: str,
    facts: Mapping[str, ModelFacts],
    *,
    ranks: int = 1,
    device: Device = "cpu",
    lengths: Lengths | None = None,
) -> Estimate | None:
    """What a rank of a stage needs.

    Args:
        job: A valid job.
        stage: Name of one of its stages.
        facts: Of every model among the job's inputs, by the input's name.
        ranks: Ranks of the stage: ZeRO shards over them.
        device: Where it runs: host memory on `cpu`, device memory on `cuda`.
        lengths: See Lengths; without them rows are taken to be as long as the spec allows.

    Returns:
        None for a stage that holds no model.

    Raises:
        KeyError: there is no such stage.
        Missing: facts of a model that the stage takes.
    """
    written = next((entry for entry in job.spec.stages if entry.name == stage), None)
    if written is None:
        raise KeyError(stage)
    moments = _moments(Terms(job, written, facts, ranks, device, lengths or {}))
    if not moments:
        return None
    parts = max(moments, key=lambda moment: sum(moment.values()))
    parts = {"runtime": RUNTIME[device], **parts}
    ordered = dict(sorted(((name, size) for name, size in parts.items() if size), key=lambda item: -item[1]))
    return Estimate(sum(ordered.values()), ordered)


def _moments(terms: Terms) -> list[Moment]:
    """Bytes by part at each moment that may be the peak."""
    spec = terms.spec
    if isinstance(spec, Sft | Preference | Moderation):
        return fitting.moments(terms, spec)
    if isinstance(spec, Ppo):
        return ppo.moments(terms, spec)
    if isinstance(spec, Evaluate):
        return answering.of_evaluation(terms, spec)
    if isinstance(spec, Simulate):
        return answering.of_simulation(terms, spec)
    if isinstance(spec, Rules):
        return answering.of_rules(terms, spec)
    return []
