"""`rewardModel` and `costModel`: scores learned from pairs of answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rlhf_api.base import ApiModel, Cel
from rlhf_api.errors import Finding
from rlhf_api.fields import MAX_ITEMS, DataRef, DataRefs, NonNegative, TrunkRef
from rlhf_api.stages.common import Batches, Optimizer


class Ensemble(ApiModel):
    """How the scores of several members become one."""

    trunk: Literal["shared", "separate"] = "shared"
    """One trunk with a head a member, or a whole model a member."""
    combine: Literal["mean", "conservative", "deviation"] = "conservative"
    """`conservative`: min of rewards, max of costs. `deviation`: mean - k std of rewards, mean + k std of costs."""
    k: NonNegative = 1.0
    """Standard deviations of `deviation`."""


class Preference(Optimizer, Batches):
    """What reward and cost models share."""

    cel = (
        *Optimizer.cel,
        Cel(
            "!has(self.ensemble) || {members} > 1", "ensemble with members 1: there is nothing to combine", ".ensemble"
        ),
    )

    model: TrunkRef
    """The model whose trunk is trained; the head is new unless the model has one."""
    data: DataRefs
    """Pairs of answers to the same prompt."""
    test: Annotated[list[DataRef], Field(max_length=MAX_ITEMS)] = []
    """Further pairs, judged at the end and never trained on; what a model learned from simulated pairs is worth on
    people's, say."""
    regularization: NonNegative = 1e-3
    """mu of mu * mean(score^2); keeps scores near 0."""
    members: Annotated[int, Field(ge=1, le=16)] = 1
    """Members of the ensemble; separate heads and seeds, Poisson(1) row weights."""
    ensemble: Ensemble | None = None
    """How members are combined."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if self.ensemble is not None and self.members == 1:
            yield Finding(("ensemble",), "found ensemble with members 1: there is nothing to combine", "raise members")


class RewardModel(Preference):
    """L = -log sigmoid(s_better - s_worse) + mu mean(s^2)."""

    standardize: bool = True
    """Shift and scale a member's score to mean 0, deviation 1 on the held-out answers when several are combined."""


class CostModel(Preference):
    """L = -log sigmoid(c_h - c_g) - log sigmoid(z_h c_h) - log sigmoid(z_g c_g) + mu mean(c^2); c > 0 means harmful."""
