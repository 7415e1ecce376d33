"""A step of PPO in numbers: its metrics, from what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_trainer.ppo.judges import RolloutScores, Values
from rlhf_trainer.ppo.multiplier import Multiplier
from rlhf_trainer.ppo.rollout import Rollout
from rlhf_trainer.ppo.update import LossScale, Sums


def rollout_metrics(rollout: Rollout, scores: RolloutScores, reward: Values) -> dict[str, float]:
    """Answers and their raw scores; `reward` is [N], weighed and added up."""
    answers = len(rollout.answers)
    metrics: dict[str, float] = {}
    metrics["reward"], metrics["reward_std"] = mean_and_deviation(reward)
    for name, columns in (("reward", scores.rewards), ("cost", scores.costs)):
        for label, values in columns.items():
            metrics[f"{name}.{label}"], metrics[f"{name}_std.{label}"] = mean_and_deviation(values)
    for label, values in scores.disagreement.items():
        metrics[f"disagreement.{label}"] = float(values.mean())
    if scores.gold is not None:
        metrics["gold"] = float(scores.gold.mean())
    metrics["length"] = rollout.tokens / answers
    metrics["missing_eos"] = 1 - sum(rollout.finished) / answers
    metrics["unique_answers"] = len({tuple(ids) for ids in rollout.answers}) / answers
    metrics["tokens"] = float(rollout.tokens)
    return metrics


def multiplier_metrics(multipliers: Sequence[Multiplier]) -> dict[str, float]:
    """Each multiplier, and the mean cost that moves it."""
    metrics = {}
    for multiplier in multipliers:
        metrics[f"lambda.{multiplier.name}"] = multiplier.value
        metrics[f"cost_window.{multiplier.name}"] = multiplier.mean
    return metrics


def update_metrics(
    sums: Sums, scale: LossScale, costs: Sequence[str], ptx: tuple[float, float] | None
) -> dict[str, float]:
    """One optimizer step.

    Args:
        sums: of all ranks; the first stream of values is the reward's.
        scale: what the sums are of.
        costs: labels of the other streams.
        ptx: its coefficient and its loss.
    """
    explained = sums.explained()
    metrics = {
        "policy_loss": sums.policy_loss,
        "value_loss": sums.value_losses[0],
        "explained_variance": explained[0],
        "kl": sums.kl / scale.answers,
        "entropy": sums.entropy / scale.tokens,
        "clip_fraction": sums.clipped / scale.tokens,
        "advantage": sums.advantage / scale.tokens,
    }
    for label, loss, part in zip(costs, sums.value_losses[1:], explained[1:], strict=True):
        metrics[f"cost_value_loss.{label}"] = loss
        metrics[f"cost_explained_variance.{label}"] = part
    metrics["loss"] = sums.policy_loss
    if ptx is not None:
        coefficient, metrics["ptx_loss"] = ptx
        metrics["loss"] += coefficient * metrics["ptx_loss"]
    return metrics


def mean_metrics(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps of a rollout; what only the first has belongs to the rollout."""
    return {name: float(np.mean([step[name] for step in steps if name in step])) for name in steps[0]}


def mean_and_deviation(numbers: Values) -> tuple[float, float]:
    """(mean, standard deviation) of a rollout's scores."""
    return float(np.mean(numbers)), float(np.std(numbers))
