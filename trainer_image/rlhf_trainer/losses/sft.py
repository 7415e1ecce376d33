"""Cross-entropy on the assistant's tokens, the vocabulary's logits never whole. Pure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 256
"""Positions whose logits exist at once: 256 x 49,152 float32 are 48 MiB."""


def targets(input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which states predict a learned token, and which token.

    Args:
        input_ids: [B, T].
        mask: [B, T], non-zero on the tokens the loss is about. A row's first token is predicted by nothing.

    Returns:
        ([B, T - 1] bool: states to take of `hidden[:, :-1]`, [N] ids of the tokens after them).
    """
    chosen = mask[:, 1:] != 0
    return chosen, input_ids[:, 1:][chosen]


def nll_sum(hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], chunk: int = CHUNK) -> Tensor:
    """Sum of -log p(label), in float32.

    Args:
        hidden: [N, H] states before the output head, of the positions that count.
        labels: [N] ids.
        head: States to logits, [n, H] -> [n, V].
        chunk: Positions at a time; their logits are computed again for the gradient rather than kept.

    Returns:
        Scalar; 0 (with a gradient of 0) where N is 0.
    """
    if not len(labels):
        return hidden.sum().float() * 0.0
    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(labels), chunk):
        piece, wanted = hidden[start : start + chunk], labels[start : start + chunk]
        if torch.is_grad_enabled():
            total = total + checkpoint(_nll, piece, wanted, head, use_reentrant=False, preserve_rng_state=False)
        else:
            total = total + _nll(piece, wanted, head)
    return total


def _nll(hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")
