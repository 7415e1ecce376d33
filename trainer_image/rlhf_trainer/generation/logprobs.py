"""Log-probabilities and entropies of answers: on response tokens only, in chunks, never a [B, T, V] tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**24
"""Logits of one chunk (64 MiB in float32)."""

Head = Callable[[Tensor], Tensor]
"""From hidden states [N, H] to logits [N, V]."""


@dataclass(frozen=True)
class Layout:
    """Prompts and answers of one forward, padded right: B rows, L tokens, answers of at most T."""

    input_ids: Tensor
    """[B, L]; what lies beyond a row's end is any valid id, masked everywhere."""
    attention_mask: Tensor
    """[B, L], 1 on tokens."""
    position_ids: Tensor
    """[1, L]: 0, 1, 2, ..., also on padding, so that decoders need no mask: what is causal never looks to the right."""
    mask: Tensor
    """[B, T] float, 1 on response tokens."""
    predictors: Tensor
    """[N, 2] row and column of the state that predicts each response token, in the order of `mask`'s ones."""
    targets: Tensor
    """[N] response tokens."""

    def gather(self, hidden: Tensor) -> Tensor:
        """[N, H]: the states [B, L, H] that predict response tokens (also where a critic's value sits)."""
        return hidden[self.predictors[:, 0], self.predictors[:, 1]]

    def scatter(self, values: Tensor) -> Tensor:
        """[B, T] of [N], 0 beyond the mask; keeps gradients."""
        padded = values.new_zeros(self.mask.shape)
        padded[self.mask > 0] = values
        return padded


def lay_out(prompts: Sequence[list[int]], answers: Sequence[list[int]], fill: int, device: torch.device) -> Layout:
    """Rows of prompt + answer, padded right.

    Args:
        prompts: token ids each, at least one.
        answers: token ids each, at least one (EOS alone, if empty).
        fill: a valid id for padding.
        device: where the tensors go.
    """
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    width = max(len(a) for a in answers)
    ids, mask, where, targets, inside = [], [], [], [], []
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        size = len(prompt) + len(answer)
        ids.append([*prompt, *answer, *[fill] * (longest - size)])
        mask.append([1] * size + [0] * (longest - size))
        where += [(row, len(prompt) - 1 + t) for t in range(len(answer))]
        targets += answer
        inside.append([1.0] * len(answer) + [0.0] * (width - len(answer)))
    attention = torch.tensor(mask, device=device)
    return Layout(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=attention,
        position_ids=torch.arange(longest, device=device)[None],
        mask=torch.tensor(inside, device=device),
        predictors=torch.tensor(where, device=device),
        targets=torch.tensor(targets, device=device),
    )


def log_probs(hidden: Tensor, head: Head, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it came from.

    Logits are made in chunks, in float32 from the product on, and made again for the gradient.

    Args:
        hidden: [N, H] states that predict the targets; may carry gradients.
        head: gives logits.
        targets: [N].
        temperature: logits are divided by it, as in sampling.

    Returns:
        [N] log-probabilities in nats, float32, with gradient; [N] entropies in nats, float32, without.
    """
    size = max(1, CHUNK_LOGITS // _vocabulary(head, hidden))
    chosen, entropies = [], []
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        if torch.is_grad_enabled() and (hidden.requires_grad or _trained(head)):
            chunk = checkpoint(
                _chunk, hidden[part], head, targets[part], temperature, use_reentrant=False, preserve_rng_state=False
            )
        else:
            chunk = _chunk(hidden[part], head, targets[part], temperature)
        chosen.append(chunk[0])
        entropies.append(chunk[1])
    return torch.cat(chosen), torch.cat(entropies)


def _chunk(hidden: Tensor, head: Head, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = head(hidden).float()
    if temperature != 1.0:
        logits = logits / temperature
    chosen, entropy = _Chosen.apply(logits, targets)
    return chosen, entropy


class _Chosen(torch.autograd.Function):
    """Log-probabilities of targets, and entropies, in few passes over the logits: they are what costs here.

    d log p(a) / d logits = [a] - p.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        everything = torch.log_softmax(logits, -1)
        entropy = -torch.linalg.vecdot(everything.exp(), everything)
        ctx.save_for_backward(everything, targets)
        ctx.mark_non_differentiable(entropy)
        return everything.gather(-1, targets[:, None])[:, 0], entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        everything, targets = ctx.saved_tensors
        gradient = everything.exp().mul_(-grads[0][:, None])
        gradient.scatter_add_(-1, targets[:, None], grads[0][:, None])
        return gradient, None


def _vocabulary(head: Head, hidden: Tensor) -> int:
    size = getattr(head, "out_features", None)
    if isinstance(size, int):
        return size
    with torch.no_grad():
        return int(head(hidden[:1]).shape[-1])


def _trained(head: Head) -> bool:
    return isinstance(head, torch.nn.Module) and any(p.requires_grad for p in head.parameters())
