"""The language model's loss: numbers by numpy in float64 from the whole matrix of logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlhf_trainer.losses.sft import nll_sum, targets


def by_hand(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> float:
    logits = hidden.double().numpy() @ weight.double().numpy().T
    shifted = logits - logits.max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-logp[np.arange(len(labels)), labels.numpy()].sum())


def drawn(n: int, seed: int, vocabulary: int = 13) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(6, vocabulary, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(vocabulary, 6, generator=generator))
    labels = torch.randint(0, vocabulary, (n,), generator=generator)
    return torch.randn(n, 6, generator=generator), head, labels


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 9), st.booleans())
def test_any_chunk_gives_the_sum_over_all_positions_and_its_gradients(
    n: int, chunk: int, seed: int, fused: bool
) -> None:
    """Both ways: a linear layer's gradient in the loss' own pass, and any head's by computing logits again."""
    hidden, head, labels = drawn(n, seed)
    hidden.requires_grad_()
    loss = nll_sum(hidden, labels, head if fused else head.__call__, chunk)
    assert loss.item() == pytest.approx(by_hand(hidden.detach(), head.weight.detach(), labels), rel=1e-5)
    (loss * 0.5).backward()
    states = hidden.detach().clone().requires_grad_()
    weight = head.weight.detach().clone().requires_grad_()
    (torch.nn.functional.cross_entropy(states @ weight.T, labels, reduction="sum") * 0.5).backward()
    torch.testing.assert_close(hidden.grad, states.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)


def test_a_frozen_head_gives_the_states_their_gradient_alone() -> None:
    hidden, head, labels = drawn(9, 4)
    head.requires_grad_(False)
    hidden.requires_grad_()
    nll_sum(hidden, labels, head, 4).backward()
    assert head.weight.grad is None
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0


def test_bfloat16_logits_are_summed_in_float32() -> None:
    hidden, head, labels = drawn(30, 5)
    expected = by_hand(hidden.bfloat16(), head.weight.detach().bfloat16(), labels)
    loss = nll_sum(hidden.bfloat16().requires_grad_(), labels, head.bfloat16(), 8)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-2)


def test_no_position_gives_zero_with_a_gradient_of_zero() -> None:
    hidden, head, labels = drawn(0, 1)
    hidden.requires_grad_()
    loss = nll_sum(hidden, labels, head)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None


def test_no_more_than_a_chunk_of_logits_exists_at_once() -> None:
    hidden, head, labels = drawn(50, 2)
    chunk_sizes = []

    def watched(states: torch.Tensor) -> torch.Tensor:
        chunk_sizes.append(len(states))
        return head(states)

    nll_sum(hidden.requires_grad_(), labels, watched, 8).backward()
    assert max(chunk_sizes) <= 8
    assert sum(chunk_sizes) == 2 * 50  # once forward, once again for the gradient


def test_a_token_is_predicted_by_the_state_before_it_and_a_rows_first_by_none() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 0]])
    mask = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 0]])
    chosen, labels = targets(ids, mask)
    assert chosen.tolist() == [[False, True, True], [True, True, False]]
    assert labels.tolist() == [7, 8, 2, 3]


def test_rows_of_three_and_one_tokens_are_averaged_over_tokens_not_over_rows() -> None:
    """Losses [1, 1, 1] and [5]: 8 / 4 = 2 a token; a mean of each micro-batch's mean would be 3."""
    losses = [torch.tensor([1.0, 1.0, 1.0]), torch.tensor([5.0])]
    logits = [torch.stack([torch.zeros_like(row), torch.log(torch.expm1(row))], dim=1) for row in losses]
    learned = sum(len(row) for row in losses)
    shares = [nll_sum(row, torch.zeros(len(row), dtype=torch.long), nn.Identity()) / learned for row in logits]
    assert float(sum(shares)) == pytest.approx(2.0, abs=1e-6)
