"""How often a model's answers are better than the baseline's, and how much longer they are. Pure."""

from __future__ import annotations

import numpy as np

from rlhf_trainer.evaluation.judged import Judged
from rlhf_trainer.statistics.intervals import Floats, wins
from rlhf_trainer.statistics.length_control import gaps

AT_EQUAL_LENGTH = "win_rate_lc"
"""The metric that `rlhf_trainer.statistics.length_control` makes of both."""


def win_shares(model: Judged, baseline: Judged, weights: dict[str, float]) -> dict[str, Floats]:
    """[P] share of pairs of answers that a model wins, by the weighted sum of the rewards and by each of several."""
    if not model.rewards:
        return {}
    total = sum(weights[name] * scores for name, scores in model.rewards.items())
    against = sum(weights[name] * scores for name, scores in baseline.rewards.items())
    shares = {"win_rate": wins(np.asarray(total), np.asarray(against))}
    if len(model.rewards) > 1:
        for name, scores in model.rewards.items():
            shares[f"win_rate.{name}"] = wins(scores, baseline.rewards[name])
    return shares


def longer_by(model: Judged, baseline: Judged) -> Floats:
    """[P] how much longer its answers are, in characters: what models of different tokenizers have in common."""
    lengths = [
        np.array([[len(answer) for answer in answers] for answers in side.texts], dtype=np.float64)
        for side in (model, baseline)
    ]
    return gaps(*lengths)
