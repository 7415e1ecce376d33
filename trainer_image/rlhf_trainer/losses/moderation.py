"""Loss of a moderation model: binary cross entropy of labels that are known. Pure; logits are float32.

Sums are divided by the global count of known labels by the caller, so that micro-batches and ranks of any split give the
same loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def label_loss(logits: Tensor, labels: Tensor, positive_weights: Tensor) -> Tensor:
    """Sum over known labels of -(w y log sigmoid(x) + (1 - y) log sigmoid(-x)).

    Args:
        logits: [B, L] x.
        labels: [B, L] y: 1 true, 0 false, NaN not known, which adds nothing and has no gradient.
        positive_weights: [L] w, the weight of a true label beside a false one.

    Returns:
        Scalar float32. (Logits 2 and -1, labels 1 and NaN, weights 1: 0.1269280.)
    """
    logits = logits.float()
    is_known = ~torch.isnan(labels)
    target = torch.where(is_known, labels, torch.zeros_like(labels))
    losses = -(positive_weights * target * logsigmoid(logits) + (1.0 - target) * logsigmoid(-logits))
    return torch.where(is_known, losses, torch.zeros_like(losses)).sum()


def balanced_weights(labels: Tensor) -> Tensor:
    """Negatives over positives of each label, so that both sides weigh as much; 1 where a side is empty.

    Args:
        labels: [N, L] 1, 0 or NaN, of the training rows.

    Returns:
        [L] float32.
    """
    positives, negatives = (labels == 1).sum(0), (labels == 0).sum(0)
    both = (positives > 0) & (negatives > 0)
    return torch.where(both, negatives / positives.clamp(min=1), torch.ones(labels.shape[1]))
