"""The coefficient of the KL penalty: constant, or adaptive (arXiv 1909.08593, section 2.2)."""

from __future__ import annotations

import math

from rlhf_api.stages.ppo import Kl

LARGEST_ERROR = 1.0


class KlCoefficient:
    """beta, reward a nat.

    Adaptive: log beta += clip(KL / target - 1, +-1) x answers / horizon. The paper clips at 0.2; here `horizon` keeps
    its plain meaning: at an error of 100 %, beta moves by a factor of e in so many answers.
    """

    def __init__(self, spec: Kl) -> None:
        self._spec = spec
        self.value = spec.coefficient

    def update(self, kl: float, answers: int) -> None:
        """Moves beta after a rollout.

        Args:
            kl: mean over answers of the sum over tokens of k_t, nats.
            answers: of the rollout, over all ranks.
        """
        if self._spec.target is None:
            return
        error = max(-LARGEST_ERROR, min(LARGEST_ERROR, kl / self._spec.target - 1))
        self.value *= math.exp(error * answers / self._spec.horizon)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"value": self.value}

    def load_state(self, state: dict[str, float]) -> None:
        """Continues from `state()`."""
        self.value = state["value"]
