"""The stage types: one file a family, one entry a type in `STAGE_TYPES`.

A further type is a spec class in a file of its own, an entry here, a field of `rlhf_api.job.Stage`, and its
computation in `rlhf_trainer.stages`. docs/stage-types.md lists the other places that know types by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_api.base import ApiModel
from rlhf_api.stages.evaluate import Evaluate
from rlhf_api.stages.ppo import Ppo
from rlhf_api.stages.preference import CostModel, RewardModel
from rlhf_api.stages.report import Report
from rlhf_api.stages.rules import Rules
from rlhf_api.stages.sft import Sft
from rlhf_api.stages.simulate import Simulate

__all__ = [
    "PREPARE",
    "REPORT",
    "STAGE_TYPES",
    "CostModel",
    "Evaluate",
    "Ppo",
    "Product",
    "Report",
    "RewardModel",
    "Rules",
    "Sft",
    "Simulate",
    "StageType",
]

Product = Literal["policy", "reward", "cost", "rules", "evaluation", "report", "data"]


@dataclass(frozen=True)
class StageType:
    """What plan and executors need to know of a stage type."""

    spec: type[ApiModel]
    product: Product
    """What it makes: decides which references may point at it."""
    recipe: int
    """Raised whenever the same spec and inputs would give another result; part of the product's digest."""
    trains: bool
    """Whether it needs the job's profile (GPUs); the others use the `cpu` profile."""


STAGE_TYPES: dict[str, StageType] = {
    "sft": StageType(Sft, "policy", 4, True),
    "rewardModel": StageType(RewardModel, "reward", 3, True),
    "costModel": StageType(CostModel, "cost", 3, True),
    "simulate": StageType(Simulate, "data", 5, True),
    "rules": StageType(Rules, "rules", 5, True),
    "ppo": StageType(Ppo, "policy", 5, True),
    "evaluate": StageType(Evaluate, "evaluation", 5, True),
    "report": StageType(Report, "report", 2, False),
}
PREPARE = "prepare"
"""Reserved: runs first in every job; no one writes it."""
REPORT = "report"
"""Runs last in every job, whether written or not."""
