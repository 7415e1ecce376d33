"""The stage types: one file a family, one entry a type in `STAGE_TYPES`.

A further type is a spec class in a file of its own, an entry here, a field of `rlhf_api.job.Stage`, and its
computation in `rlhf_trainer.stages`. docs/stage-types.md lists the other files that may name a type; a test holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rlhf_api.base import ApiModel
from rlhf_api.stages.common import Rows
from rlhf_api.stages.evaluate import Evaluate
from rlhf_api.stages.moderation import Moderation
from rlhf_api.stages.ppo import Ppo
from rlhf_api.stages.preference import CostModel, RewardModel
from rlhf_api.stages.report import Report
from rlhf_api.stages.rules import Rules
from rlhf_api.stages.sft import Sft
from rlhf_api.stages.simulate import Simulate

__all__ = [
    "PREPARE",
    "REPORT",
    "SINGLE_PROCESS_STAGES",
    "STAGE_TYPES",
    "CostModel",
    "Evaluate",
    "Moderation",
    "Ppo",
    "Product",
    "Report",
    "RewardModel",
    "Rules",
    "Sft",
    "Simulate",
    "StageType",
]

Product = Literal["policy", "reward", "cost", "moderation", "rules", "evaluation", "report", "data"]


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
    label: str
    """What people call it, in reports."""
    rows: Mapping[str, Rows] = field(default_factory=dict)
    """What the rows of its fields must give, by field (`ptx.data`); prompts elsewhere."""

    @property
    def scores(self) -> bool:
        """Whether it makes a model that scores answers."""
        return self.product in ("reward", "cost")


STAGE_TYPES: dict[str, StageType] = {
    "sft": StageType(Sft, "policy", 4, True, "supervised fine-tuning", {"data": "conversations"}),
    "rewardModel": StageType(RewardModel, "reward", 3, True, "reward model", {"data": "pairs", "test": "pairs"}),
    "costModel": StageType(CostModel, "cost", 3, True, "cost model", {"data": "safety pairs", "test": "safety pairs"}),
    "moderation": StageType(Moderation, "moderation", 1, True, "moderation model", {"data": "labelled answers"}),
    "simulate": StageType(Simulate, "data", 5, True, "simulated data"),
    "rules": StageType(
        Rules, "rules", 5, True, "rule-based rewards", {"completions": "completions", "gold": "completions"}
    ),
    "ppo": StageType(Ppo, "policy", 5, True, "PPO", {"ptx.data": "conversations"}),
    "evaluate": StageType(Evaluate, "evaluation", 6, True, "evaluation", {"dialogues": "dialogues"}),
    "report": StageType(Report, "report", 2, False, "report"),
}
PREPARE = "prepare"
"""Reserved: runs first in every job; no one writes it."""
REPORT = "report"
"""Runs last in every job, whether written or not."""
SINGLE_PROCESS_STAGES = frozenset({PREPARE, REPORT})
"""Types that run as one process, without a device and without torch: they are of the job, not of a product."""
