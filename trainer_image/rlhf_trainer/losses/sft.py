"""Cross-entropy on the assistant's tokens, the vocabulary's logits never whole. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf_trainer.models.vocabulary import MaskedHead, mask_logits

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
        head: States to logits, [n, H] -> [n, V]. A linear layer whose weight is there gets its gradient in the same
            pass as the loss (softmax less one-hot, chunk by chunk); for any other the logits are computed again.
        chunk: Positions at a time.

    Returns:
        Scalar; 0 (with a gradient of 0) where N is 0.
    """
    if not len(labels):
        return hidden.sum().float() * 0.0
    if torch.is_grad_enabled() and isinstance(head, nn.Linear) and head.bias is None and head.weight.dim() == 2:
        masked = head.masked if isinstance(head, MaskedHead) else ()
        result: Tensor = _LinearNll.apply(hidden, head.weight, labels, chunk, masked)
        return result
    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(labels), chunk):
        piece, piece_labels = hidden[start : start + chunk], labels[start : start + chunk]
        if torch.is_grad_enabled():
            total = total + checkpoint(_nll, piece, piece_labels, head, use_reentrant=False, preserve_rng_state=False)
        else:
            total = total + _nll(piece, piece_labels, head)
    return total


@torch.no_grad()
def nll_by_row(hidden: Tensor, labels: Tensor, rows: Tensor, count: int, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of -log p(label) of each row, in float64, without gradients.

    Args:
        hidden: [N, H] states of the positions that count.
        labels: [N] ids.
        rows: [N] the row of each position.
        count: Rows, R.
        head: States to logits.

    Returns:
        [R].
    """
    sums = torch.zeros(count, dtype=torch.float64, device=hidden.device)
    for start in range(0, len(labels), CHUNK):
        piece = slice(start, start + CHUNK)
        nll = nn.functional.cross_entropy(head(hidden[piece]).float(), labels[piece], reduction="none")
        sums.index_add_(0, rows[piece], nll.double())
    return sums


def _nll(hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")


class _LinearNll(torch.autograd.Function):
    """Loss and gradient of a linear head at once: three products of a chunk instead of four, and one chunk's memory."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, masked: Sequence[int]) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        by_state = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(labels), chunk):
            piece, piece_labels = hidden[start : start + chunk], labels[start : start + chunk, None]
            logits = mask_logits((piece @ weight.T).float(), masked)
            normaliser = logits.logsumexp(1, keepdim=True)
            total += (normaliser - logits.gather(1, piece_labels)).sum()
            slope = logits.sub_(normaliser).exp_()
            slope.scatter_add_(1, piece_labels, slope.new_full(piece_labels.shape, -1.0))
            slope = slope.to(hidden.dtype)
            if by_state is not None:
                by_state[start : start + chunk] = slope @ weight
            if by_weight is not None:
                by_weight += slope.T @ piece
        ctx.save_for_backward(by_state, None if by_weight is None else by_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        by_state, by_weight = ctx.saved_tensors
        slope = slopes[0]
        return (
            None if by_state is None else by_state * slope.to(by_state.dtype),
            None if by_weight is None else by_weight * slope.to(by_weight.dtype),
            None,
            None,
            None,
        )
