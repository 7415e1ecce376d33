"""Where a stage's models come from, and which of their weights are still those of where they came from."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_api.fields import Reference
from rlhf_api.job import RLHFJob
from rlhf_api.stages import Evaluate, Moderation, Ppo, Sft
from rlhf_api.stages.common import Optimizer
from rlhf_api.stages.preference import Preference


@dataclass(frozen=True)
class Origin:
    """A model as a reference gives it."""

    input: str
    """Name of the input it descends from."""
    trained: int | None
    """Top layers that may differ from that input's; None: all do. 0: it is the input."""
    copies: int = 1
    """Trunks it has: members of an ensemble."""


def origin(job: RLHFJob, reference: Reference) -> Origin | None:
    """Where a model comes from; None for a function, or a stage that makes no model."""
    if reference.input is not None:
        return Origin(reference.input, 0)
    stage = next((entry for entry in job.spec.stages if entry.name == reference.stage), None)
    if stage is None or isinstance(stage.spec, Evaluate) or not isinstance(stage.spec, Optimizer):
        return None
    spec = stage.spec
    before = origin(job, _start(spec))
    if before is None:
        return None
    moved = None if spec.lora is not None else spec.trainable_layers
    trained = None if moved is None or before.trained is None else max(moved, before.trained)
    copies = 1
    if isinstance(spec, Preference) and spec.ensemble is not None and spec.ensemble.trunk == "separate":
        copies = spec.members
    return Origin(before.input, trained, copies)


def _start(spec: Optimizer) -> Reference:
    if isinstance(spec, Ppo):
        return spec.policy
    if isinstance(spec, Sft | Preference | Moderation):
        return spec.model
    raise TypeError(f"{type(spec).__name__} trains no model")
