"""A number over the members of a group: runs that differ in their seed, all measured on the same prompts.

Members and prompts are two crossed samples: other seeds would give another mean, and other prompts would. The interval
holds for both. Its margin is the root of the summed squares of two margins: that of the members (Student's t over their
values) and that of the prompts (the interval of the members' average, prompt by prompt). Margins that add so are known
as MOVER (Howe 1974; Zou and Donner 2008). What a member does on a prompt alone counts in both, which errs to the wide
side. A bootstrap of members is no choice: of three members it has ten distinct resamples, and covers far too seldom.

The t of few members is large (12.7 of two, 4.3 of three, 2.8 of five at 95 %) and supposes that what a seed does is
roughly normal. How often the intervals cover the truth: benchmarks/results/coverage.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlhf_trainer.statistics.intervals import NOTHING, UNBOUNDED, Estimate, Floats, by_prompt, student_quantile


@dataclass(frozen=True)
class OverMembers:
    """A number of a group."""

    values: tuple[float | None, ...]
    """Of each member, in the group's order; None: not measured."""
    se: float | None
    """Standard error of their mean, over members alone; None of fewer than two."""
    estimate: Estimate
    """Their mean, with the interval over members and prompts; `n` counts prompts."""

    def as_json(self) -> dict[str, Any]:
        """`{value, low, high, n, method, se, values}`."""
        return {**self.estimate.as_json(), "se": self.se, "values": list(self.values)}


def over_members(
    values: Sequence[float | None],
    average: Estimate,
    confidence: float,
    within: tuple[float, float] = UNBOUNDED,
) -> OverMembers:
    """Mean over members.

    Args:
        values: Of each member.
        average: Of the members' average on each prompt, with its interval over prompts. A number that has none (how
            varied all answers are) has none over members either.
        confidence: Coverage.
        within: What the number can be.
    """
    measured = [value for value in values if value is not None]
    if len(measured) < len(values) or not measured:
        return OverMembers(tuple(values), None, replace(NOTHING, n=average.n))
    mean, se, margin = _spread(measured, confidence)
    return OverMembers(tuple(values), se, _combined(mean, [margin], average, within))


def difference(ours: OverMembers, theirs: OverMembers, average: Estimate, confidence: float) -> OverMembers:
    """Difference of two groups' means: their members are taken to be independent, so that pairs of the same seed, which
    are rather alike, err to the wide side.

    Args:
        ours: One group.
        theirs: The group it is compared with.
        average: Of the difference of the averages on each prompt.
        confidence: Coverage.
    """
    sides = [[value for value in side.values if value is not None] for side in (ours, theirs)]
    if any(
        len(measured) < len(side.values) or not measured for measured, side in zip(sides, (ours, theirs), strict=True)
    ):
        return OverMembers((), None, replace(NOTHING, n=average.n))
    (mean, se, margin), (their_mean, their_se, their_margin) = (_spread(side, confidence) for side in sides)
    error = None if se is None or their_se is None else math.hypot(se, their_se)
    return OverMembers((), error, _combined(mean - their_mean, [margin, their_margin], average, UNBOUNDED))


def averages(members: Sequence[Floats]) -> Floats:
    """[N] mean over members of each prompt's mean over its answers; NaN where no member has one.

    Args:
        members: Of each, [N] or [N, S].
    """
    return by_prompt(np.stack([by_prompt(values) for values in members], axis=1))


def _spread(values: Sequence[float], confidence: float) -> tuple[float, float | None, float | None]:
    """Mean, standard error and margin over members."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    se = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, se, student_quantile(len(values) - 1, 0.5 + confidence / 2) * se


def _combined(mean: float, margins: Sequence[float | None], average: Estimate, within: tuple[float, float]) -> Estimate:
    """A mean with the margins of its members and of its prompts."""
    known = [margin for margin in margins if margin is not None]
    if len(known) < len(margins) or average.value is None or average.low is None or average.high is None:
        return Estimate(mean, None, None, average.n, "none")
    low = mean - math.hypot(average.value - average.low, *known)
    high = mean + math.hypot(average.high - average.value, *known)
    return Estimate(mean, min(mean, max(within[0], low)), max(mean, min(within[1], high)), average.n, "members")
