"""Losses of reward and cost models on pairs of answers. Pure; scores are float32, nothing is averaged here.

Sums are divided by the global count of pairs by the caller, so that micro-batches of any split give the same loss.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid


def reward_loss(better: Tensor, worse: Tensor, regularization: float, certainty: Tensor | None = None) -> Tensor:
    """Bradley-Terry loss of each pair: -log sigmoid(s_w - s_l) + mu (s_w^2 + s_l^2) / 2.

    Args:
        better: [..., B] scores of the better answers.
        worse: [..., B] scores of the worse answers.
        regularization: mu; its term is the mean of the squared scores of both answers.
        certainty: [B] probability that `better` is the better one; None: certain. Soft labels weigh both orders.

    Returns:
        [..., B] float32. (2 against 0.5 with mu 0: 0.2014133.)
    """
    better, worse = better.float(), worse.float()
    margin = better - worse
    loss = -logsigmoid(margin)
    if certainty is not None:
        loss = certainty * loss - (1.0 - certainty) * logsigmoid(-margin)
    return loss + regularization * (better.square() + worse.square()) / 2


def cost_loss(
    harmful: Tensor, safer: Tensor, harmful_sign: Tensor, safer_sign: Tensor, regularization: float
) -> Tensor:
    """Loss of each pair of a cost model (Safe RLHF, arXiv 2310.12773, eq. 7).

    -log sigmoid(c_h - c_g) - log sigmoid(z_h c_h) - log sigmoid(z_g c_g) + mu (c_h^2 + c_g^2) / 2.

    Args:
        harmful: [..., B] costs of the more harmful answers.
        safer: [..., B] costs of the others.
        harmful_sign: [B] z_h: +1 where the more harmful answer is harmful, -1 where even it is safe.
        safer_sign: [B] z_g: the same of the other answer.
        regularization: mu.

    Returns:
        [..., B] float32; c > 0 comes to mean harmful.
    """
    harmful, safer = harmful.float(), safer.float()
    loss = -logsigmoid(harmful - safer) - logsigmoid(harmful_sign * harmful) - logsigmoid(safer_sign * safer)
    return loss + regularization * (harmful.square() + safer.square()) / 2


def poisson_weights(rows: int, members: int, seed: int) -> NDArray[np.float32]:
    """Row weights of an ensemble's members: independent Poisson(1), the bootstrap in one pass over the data.

    (Oza and Russell 2001: the weight of a row in a bootstrap sample of n rows tends to Poisson(1).) Drawn by inversion
    of Philox's raw numbers, whose stream numpy keeps stable over versions.

    Returns:
        [members, rows] float32; all 1 for a single member, which has nothing to differ from.
    """
    if members == 1:
        return np.ones((1, rows), dtype=np.float32)
    steps = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(20)])
    drawn = [np.random.Philox(key=[seed, member + 1]).random_raw(rows) / 2.0**64 for member in range(members)]
    return np.searchsorted(steps, np.stack(drawn), side="right").astype(np.float32)


def weighted_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Sum over pairs of the mean over members of weight x loss: [members, B], [members, B] -> scalar."""
    return (losses * weights).mean(0).sum() if losses.numel() else torch.zeros((), device=losses.device)
