"""A step of PPO in numbers: its metrics, from what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlhf_trainer.ppo.judges import Scores, Values
from rlhf_trainer.ppo.multiplier import Multiplier
from rlhf_trainer.ppo.rollout import Rollout
from rlhf_trainer.ppo.update import Share, Sums, shares


def rollout_metrics(rollout: Rollout, scores: Scores, reward: Values) -> dict[str, float]:
    """Answers and their raw scores; `reward` is [N], weighed and added up."""
    answers = len(rollout.answers)
    found: dict[str, float] = {}
    found["reward"], found["reward_std"] = shares(reward)
    for name, columns in (("reward", scores.rewards), ("cost", scores.costs)):
        for label, values in columns.items():
            found[f"{name}.{label}"], found[f"{name}_std.{label}"] = shares(values)
    for label, values in scores.disagreement.items():
        found[f"disagreement.{label}"] = float(values.mean())
    if scores.gold is not None:
        found["gold"] = float(scores.gold.mean())
    found["length"] = rollout.tokens / answers
    found["missing_eos"] = 1 - sum(rollout.finished) / answers
    found["unique_answers"] = len({tuple(ids) for ids in rollout.answers}) / answers
    found["tokens"] = float(rollout.tokens)
    return found


def multiplier_metrics(multipliers: Sequence[Multiplier]) -> dict[str, float]:
    """Each multiplier, and the mean cost that moves it."""
    found = {}
    for multiplier in multipliers:
        found[f"lambda.{multiplier.name}"] = multiplier.value
        found[f"cost_window.{multiplier.name}"] = multiplier.mean
    return found


def update_metrics(sums: Sums, share: Share, costs: Sequence[str], ptx: tuple[float, float] | None) -> dict[str, float]:
    """One optimizer step.

    Args:
        sums: of all ranks; the first stream of values is the reward's.
        share: what the sums are of.
        costs: labels of the other streams.
        ptx: its coefficient and its loss.
    """
    explained = sums.explained()
    found = {
        "policy_loss": sums.policy_loss,
        "value_loss": sums.value_losses[0],
        "explained_variance": explained[0],
        "kl": sums.kl / share.answers,
        "entropy": sums.entropy / share.tokens,
        "clip_fraction": sums.clipped / share.tokens,
        "advantage": sums.advantage / share.tokens,
    }
    for label, loss, part in zip(costs, sums.value_losses[1:], explained[1:], strict=True):
        found[f"cost_value_loss.{label}"] = loss
        found[f"cost_explained_variance.{label}"] = part
    found["loss"] = sums.policy_loss
    if ptx is not None:
        coefficient, found["ptx_loss"] = ptx
        found["loss"] += coefficient * found["ptx_loss"]
    return found


def mean_metrics(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the optimizer steps of a rollout; what only the first has belongs to the rollout."""
    return {name: float(np.mean([one[name] for one in found if name in one])) for name in found[0]}
