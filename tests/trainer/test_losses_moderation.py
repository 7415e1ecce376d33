"""Loss of moderation models: numbers worked out by hand, and labels that are not known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.losses.moderation import balanced_weights, label_loss

UNKNOWN = math.nan
CELLS = st.lists(
    st.tuples(st.floats(-20, 20, width=32), st.sampled_from([0.0, 1.0, UNKNOWN]), st.floats(0.5, 8, width=32)),
    min_size=1,
    max_size=12,
)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_a_true_label_of_logit_2_and_an_unknown_one() -> None:
    assert label_loss(row(2.0, -1.0), row(1.0, UNKNOWN), torch.ones(2)).item() == pytest.approx(0.1269280, abs=1e-7)


def test_weights_are_those_of_true_labels_alone() -> None:
    """log 2 each: 3 times for the true label, once for the false one."""
    loss = label_loss(row(0.0, 0.0), row(1.0, 0.0), torch.tensor([3.0, 5.0]))
    assert loss.item() == pytest.approx(4 * math.log(2), abs=1e-6)


@given(CELLS)
def test_the_loss_is_the_sum_of_cross_entropies_of_what_is_known(cells: list[tuple[float, float, float]]) -> None:
    logits, labels, weights = zip(*cells, strict=True)
    expected = 0.0
    for logit, label, weight in cells:
        if label == 1.0:
            expected += weight * math.log1p(math.exp(-logit))
        elif label == 0.0:
            expected += math.log1p(math.exp(logit))
    assert label_loss(row(*logits), row(*labels), torch.tensor(weights)).item() == pytest.approx(expected, rel=1e-4)


def test_an_unknown_label_has_no_gradient_and_a_known_one_that_of_its_probability() -> None:
    logits = row(0.3, -1.2, 0.7).requires_grad_()
    label_loss(logits, row(1.0, UNKNOWN, 0.0), torch.tensor([2.0, 2.0, 2.0])).backward()
    assert logits.grad is not None
    first, unknown, last = logits.grad[0].tolist()
    assert first == pytest.approx(2 * (1 / (1 + math.exp(-0.3)) - 1), abs=1e-6)
    assert unknown == 0.0
    assert last == pytest.approx(1 / (1 + math.exp(-0.7)), abs=1e-6)


def test_micro_batches_add_up_to_the_batch() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([[1.0, 0.0, UNKNOWN]]).repeat(6, 1)
    weights = torch.tensor([1.0, 2.0, 3.0])
    parts = sum(label_loss(logits[rows], labels[rows], weights) for rows in (slice(0, 1), slice(1, 6)))
    assert float(parts) == pytest.approx(float(label_loss(logits, labels, weights)), rel=1e-6)


def test_balanced_weights_are_negatives_over_positives_of_what_is_known() -> None:
    labels = torch.tensor([[1, 0, 1, UNKNOWN], [0, 0, 1, UNKNOWN], [0, 0, UNKNOWN, UNKNOWN], [0, UNKNOWN, 1, UNKNOWN]])
    assert balanced_weights(labels).tolist() == [3.0, 1.0, 1.0, 1.0]
