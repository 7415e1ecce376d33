"""From scores to advantages. B answers, T tokens, mask 1 on response tokens; PAD values may be anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, beta: float, clip: float) -> Tensor:
    """r_t = clip(-beta k_t + [t last] R, +-clip). A cost stream takes -beta: c_t = clip(+beta k_t + [t last] C, +-clip).

    Args:
        scores: [B], one an answer.
        kl: [B, T], k_t = log pi(a_t) - log pi_ref(a_t), nats.
        mask: [B, T].
        beta: coefficient of the penalty; negated for costs.
        clip: bound of a token's reward.

    Returns:
        [B, T], 0 outside the mask.
    """
    inside = mask > 0
    last = (torch.arange(mask.shape[1], device=mask.device) == inside.sum(-1, keepdim=True) - 1) & inside
    rewards = -beta * kl + torch.where(last, scores[:, None], 0.0)
    return torch.where(inside, rewards.clamp(-clip, clip), 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, decay: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16) on response tokens; no value after the last one.

    Args:
        rewards: [B, T] of `token_rewards`.
        values: [B, T]; V_t is the value before token t.
        mask: [B, T], ones first.
        gamma: discount a token.
        decay: lambda of GAE.

    Returns:
        Advantages A and returns G = A + V, [B, T] each, 0 outside the mask.
    """
    inside = mask > 0
    values = torch.where(inside, values, 0.0).detach()
    rewards = torch.where(inside, rewards, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    errors = rewards + gamma * following - values
    running = torch.zeros_like(errors[:, 0])
    advantages = torch.zeros_like(errors)
    for t in reversed(range(errors.shape[1])):
        running = errors[:, t] + gamma * decay * running
        advantages[:, t] = running
    advantages = torch.where(inside, advantages, 0.0)
    return advantages, advantages + values


def combine(reward: Tensor, costs: Sequence[Tensor], multipliers: Sequence[float]) -> Tensor:
    """A = (A_r - sum_i lambda_i A_ci) / (1 + sum_i lambda_i) (Safe RLHF, arXiv 2310.12773, eq. 31 for one cost)."""
    total = reward
    for advantage, multiplier in zip(costs, multipliers, strict=True):
        total = total - multiplier * advantage
    return total / (1 + sum(multipliers))


def whiten(advantages: Tensor, mask: Tensor, *, mean: float, variance: float) -> Tensor:
    """Shift and scale to mean 0, deviation 1, with the moments of the whole rollout over all ranks."""
    return torch.where(mask > 0, (advantages - mean) / (variance + 1e-8) ** 0.5, 0.0)
