"""The judges of a spec by their names, before any is loaded: `prepare` asks, too, and imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_api.fields import Scorer
from rlhf_api.stages.evaluate import Evaluate

Kind = Literal["reward", "cost", "refusal"]


@dataclass(frozen=True)
class Named:
    """A judge of the spec."""

    scorer: Scorer
    kind: Kind

    @property
    def name(self) -> str:
        """Its label: unique among judges of its kind."""
        return self.scorer.label

    @property
    def metric(self) -> str:
        """`reward.NAME`, `cost.NAME` or `refusal.NAME`: unique among all."""
        return f"{self.kind}.{self.name}"


def judges_of(spec: Evaluate) -> list[Named]:
    """The judges of an evaluation: rewards, costs, then that of refusals."""
    named = [Named(judge, "reward") for judge in spec.rewards] + [Named(judge, "cost") for judge in spec.costs]
    return named if spec.refusal is None else [*named, Named(spec.refusal, "refusal")]
