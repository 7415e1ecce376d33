"""PPO's losses. B answers, T tokens of the longest one, mask 1 on response tokens (EOS included, PAD never).

What lies outside the mask may be anything, NaN included: it changes neither a value nor a gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Normalization = Literal["tokens", "sequences", "constant"]


def token_weights(mask: Tensor, normalization: Normalization, *, tokens: int, answers: int, longest: int) -> Tensor:
    """What each token's loss is multiplied by, so that sums over all micro-batches and ranks are the loss.

    Args:
        mask: [B, T] of this micro-batch.
        normalization: `tokens`: 1 / tokens; `sequences`: 1 / (answers x the answer's own tokens);
            `constant`: 1 / (answers x longest).
        tokens: response tokens of the whole optimizer step, over all micro-batches and ranks.
        answers: its answers.
        longest: tokens an answer may have.

    Returns:
        [B, T], 0 outside the mask.
    """
    mask = mask.float()
    if normalization == "tokens":
        return mask / max(tokens, 1)
    if normalization == "sequences":
        return mask / (max(answers, 1) * mask.sum(-1, keepdim=True).clamp(min=1))
    return mask / (max(answers, 1) * longest)


def policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, weights: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), negated: what is minimised.

    Args:
        log_probs: [B, T] of the policy, nats; carries the gradient.
        old_log_probs: [B, T] of the policy that sampled.
        advantages: [B, T].
        weights: [B, T] of `token_weights`.
        clip: the ratio counts within 1 +- clip.

    Returns:
        Scalar: sum of weight x loss.
    """
    inside = weights > 0
    ratio = torch.exp(_inside(log_probs - old_log_probs, inside))
    advantages = _inside(advantages, inside)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(gain * weights).sum()


def clip_fraction(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Sum over the mask of [|ratio - 1| > clip]: how many tokens lie beyond the clip range."""
    ratio = torch.exp(_inside((log_probs - old_log_probs).detach(), mask > 0))
    return ((ratio - 1).abs() > clip).float().sum()


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, clip: float) -> Tensor:
    """0.5 max((V - G)^2, (clip(V, V_old +- clip) - G)^2).

    Args:
        values: [B, T] of the critic; carries the gradient.
        old_values: [B, T] when the answers were sampled.
        returns: [B, T], G.
        weights: [B, T] of `token_weights`.
        clip: how far a value may move from V_old before it stops to count as an improvement.

    Returns:
        Scalar: sum of weight x loss.
    """
    inside = weights > 0
    values, old_values, returns = (_inside(x, inside) for x in (values, old_values, returns))
    near = old_values + (values - old_values).clamp(-clip, clip)
    return (0.5 * torch.maximum((values - returns).square(), (near - returns).square()) * weights).sum()


def explained_variance_sums(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """The sums from which 1 - Var(G - V) / Var(G) follows, to be added over micro-batches and ranks.

    Returns:
        [5]: n, sum G, sum G^2, sum (G - V), sum (G - V)^2, in float64.
    """
    inside = mask > 0
    g = _inside(returns, inside).double()
    error = _inside(returns - values, inside).double()
    count = inside.double().sum()
    return torch.stack([count, g.sum(), g.square().sum(), error.sum(), error.square().sum()]).detach()


def explained_variance(sums: Tensor) -> float:
    """1 - Var(G - V) / Var(G) of `explained_variance_sums`; 0 where G does not vary."""
    n, g, g2, e, e2 = sums.tolist()
    if n < 1:
        return 0.0
    variance = g2 / n - (g / n) ** 2
    unexplained = e2 / n - (e / n) ** 2
    return 1 - unexplained / variance if variance > 1e-12 else 0.0


def _inside(x: Tensor, inside: Tensor) -> Tensor:
    return torch.where(inside, x, torch.zeros((), dtype=x.dtype, device=x.device))
