"""Bounds on what a run's metrics may do. They see numbers that are equal on all ranks, so all ranks agree."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from rlhf_api.stages.ppo import Guard, Guards
from rlhf_trainer.exits import GuardTripped

logger = logging.getLogger(__name__)


class Watch:
    """Watches KL, length, entropy, the gap to the gold score, and NaN.

    The first rollout's length, reward and gold score are the baselines; they, the streaks and the counts of warnings
    belong to the checkpoint.
    """

    def __init__(self, spec: Guards) -> None:
        self._bounds: dict[str, Guard] = {
            name: bound
            for name, bound in (
                ("kl", spec.kl),
                ("length", spec.length),
                ("entropy", spec.entropy),
                ("goldGap", spec.gold_gap),
            )
            if bound is not None
        }
        self._streak = dict.fromkeys(self._bounds, 0)
        self.warnings = dict.fromkeys(self._bounds, 0)
        self._first: dict[str, float] = {}

    def derived(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics relative to the first rollout's: `length_ratio`, and `gold_gap` where there is a gold score.

        Args:
            metrics: `length` (tokens an answer), `reward`, and `gold` where there is one.
        """
        for name in ("length", "reward", "gold"):
            if name in metrics:
                self._first.setdefault(name, metrics[name])
        relative = {"length_ratio": metrics["length"] / self._first["length"]}
        if "gold" in metrics:
            rise = metrics["reward"] - self._first["reward"]
            relative["gold_gap"] = rise - (metrics["gold"] - self._first["gold"])
        return relative

    def check(self, metrics: Mapping[str, float]) -> None:
        """Once a step, after the rollout and before the optimizer moves a weight.

        Raises:
            GuardTripped: reason `NaN`, `KL`, `Length`, `Entropy` or `GoldGap`.
        """
        check_finite(metrics)
        values = {
            "kl": metrics.get("kl"),
            "length": metrics.get("length_ratio"),
            "entropy": metrics.get("entropy"),
            "goldGap": metrics.get("gold_gap"),
        }
        for name, bound in self._bounds.items():
            value = values[name]
            if value is not None:
                self._one(name, bound, value)

    def _one(self, name: str, bound: Guard, value: float) -> None:
        above = bound.max is not None and value > bound.max
        below = bound.min is not None and value < bound.min
        self._streak[name] = self._streak[name] + 1 if above or below else 0
        if self._streak[name] < bound.patience:
            return
        limit = f"above max {bound.max:g}" if above else f"below min {bound.min:g}"
        message = f"guards.{name}: {value:.4g} is {limit} for {self._streak[name]} steps in a row ({_MEANS[name]})"
        if bound.action == "stop":
            raise GuardTripped(f"{message}; {_MEND[name]}", reason=_REASONS[name])
        if self.warnings[name] == 0:
            logger.warning("%s", message)
        self.warnings[name] += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"streak": dict(self._streak), "warnings": dict(self.warnings), "first": dict(self._first)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`."""
        self._streak.update(state["streak"])
        self.warnings.update(state["warnings"])
        self._first = dict(state["first"])


def check_finite(metrics: Mapping[str, float]) -> None:
    """Stops before a NaN or an infinity reaches the weights.

    Raises:
        GuardTripped: reason `NaN`, naming the metrics.
    """
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if bad:
        listed = ", ".join(f"{name} = {metrics[name]}" for name in bad)
        raise GuardTripped(
            f"{listed}: not a finite number; the last checkpoint is from before it. "
            "Lower learningRate or critics.learningRate, or check what the rewards and costs return",
            reason="NaN",
        )


_REASONS = {"kl": "KL", "length": "Length", "entropy": "Entropy", "goldGap": "GoldGap"}
_MEANS = {
    "kl": "mean KL an answer, nats",
    "length": "mean tokens an answer over the first rollout's",
    "entropy": "mean entropy a token, nats",
    "goldGap": "rise of the reward minus rise of the gold score",
}
_MEND = {
    "kl": "raise kl.coefficient or lower learningRate",
    "length": "the reward may pay for length alone: add a length penalty as a reward of negative weight",
    "entropy": "raise kl.coefficient or lower learningRate",
    "goldGap": "the policy exploits the reward: stop earlier, raise kl.coefficient, or use an ensemble",
}
