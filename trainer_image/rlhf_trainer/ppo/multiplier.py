"""Lagrange multipliers: one a cost, each with its limit and window."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_api.stages.ppo import Lagrange
from rlhf_trainer.exits import GuardTripped

Floats = npt.NDArray[np.float64]


class Multiplier:
    """lambda of one cost: log lambda += clip(rate (J - limit), +-maxStep), within [min, max].

    J is the mean raw score (no KL, no clip) of the answers of the last `window` rollouts, over all ranks.
    """

    def __init__(self, name: str, limit: float, spec: Lagrange) -> None:
        self.name = name
        self.limit = limit
        self._spec = spec
        self._log = self._bounded(math.log(spec.initial))
        self._window: deque[tuple[float, int]] = deque(maxlen=spec.window)
        self._out_of_reach = 0

    @property
    def value(self) -> float:
        """lambda."""
        return math.exp(self._log)

    @property
    def mean(self) -> float:
        """J, in units of the cost; the limit before the first rollout."""
        count = sum(n for _, n in self._window)
        return sum(total for total, _ in self._window) / count if count else self.limit

    def observe(self, costs: Floats) -> None:
        """After scoring, before advantages: takes a rollout's raw costs in and moves lambda (rule `window`).

        Args:
            costs: [N], of all ranks.
        """
        self._window.append((float(costs.sum()), len(costs)))
        if self._spec.rule == "window":
            self._move(self._spec.rate * (self.mean - self.limit))
        at_bound = self._log >= math.log(self._spec.max) - 1e-12
        self._out_of_reach = self._out_of_reach + 1 if at_bound and self.mean > self.limit else 0

    def optimizer_step(self) -> bool:
        """Safe RLHF's own rule, before every optimizer step: log lambda += rate (J - d) lambda, which is SGD on their
        `log_lambda`. The advantages of that step are combined by the new value.

        Returns:
            Whether this rule moves lambda.
        """
        if self._spec.rule == "safe-rlhf":
            self._log = self._bounded(self._log + self._spec.rate * (self.mean - self.limit) * self.value)
        return self._spec.rule == "safe-rlhf"

    def out_of_reach(self) -> bool:
        """lambda has stood at its upper bound, J above the limit, for `patience` rollouts."""
        return self._out_of_reach >= self._spec.patience

    def _move(self, step: float) -> None:
        self._log = self._bounded(self._log + max(-self._spec.max_step, min(self._spec.max_step, step)))

    def _bounded(self, log: float) -> float:
        return max(math.log(self._spec.min), min(math.log(self._spec.max), log))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"log": self._log, "window": [list(entry) for entry in self._window], "outOfReach": self._out_of_reach}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self._log = float(state["log"])
        self._window.clear()
        self._window.extend((float(total), int(count)) for total, count in state["window"])
        self._out_of_reach = int(state["outOfReach"])


def check_feasible(multipliers: Sequence[Multiplier], reward: Floats, costs: Sequence[Floats]) -> None:
    """Ends a run whose constraint cannot be met.

    Args:
        multipliers: one a cost.
        reward: [N], weighted raw reward of this rollout, over all ranks.
        costs: [N] each, raw.

    Raises:
        GuardTripped: reason `Infeasible`; says Cov(c, r + c), which tells whether a larger or a smaller lambda would lower the cost.
    """
    for index, multiplier in enumerate(multipliers):
        if multiplier.out_of_reach():
            raise GuardTripped(_infeasible(index, multipliers, reward, costs), reason="Infeasible")


def response_covariance(
    index: int, multipliers: Sequence[Multiplier], reward: Floats, costs: Sequence[Floats]
) -> float:
    """Cov(c, r + c) over a rollout, because dE[c]/dlambda = -Cov(c, r + c) / (beta (1 + lambda)^2) at the optimum.

    With several costs r + c_i + sum_j lambda_j (c_i - c_j) takes the place of r + c (the same derivative).
    """
    cost = costs[index]
    against = reward + cost
    for cost_j, multiplier in zip(costs, multipliers, strict=True):
        against = against + multiplier.value * (cost - cost_j)
    return float(np.mean((cost - cost.mean()) * (against - against.mean())))


def _infeasible(index: int, multipliers: Sequence[Multiplier], reward: Floats, costs: Sequence[Floats]) -> str:
    multiplier = multipliers[index]
    covariance = response_covariance(index, multipliers, reward, costs)
    if covariance > 1e-6:
        why = "a larger multiplier would lower the cost: raise lagrange.max, or lagrange.patience"
    elif covariance < -1e-6:
        why = (
            "a smaller multiplier would lower the cost and may meet the limit, because the reward falls with it more than the cost itself "
            "rises: lower lagrange.max, raise the weight of the rewards, or check the signs of both"
        )
    else:
        why = (
            "no multiplier would change the cost: the answers do not vary in it; raise rollout.temperature, lower "
            "kl.coefficient, or loosen the limit"
        )
    return (
        f"costs[{index}] ({multiplier.name}): lambda has stood at its upper bound {multiplier.value:g} with mean cost "
        f"{multiplier.mean:.4g} above the limit {multiplier.limit:g} for lagrange.patience rollouts; "
        f"Cov(c, r + c) = {covariance:.4g}, so {why}"
    )
