"""Losses of reward and cost models: numbers worked out by hand or by numpy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.losses.preference import cost_loss, poisson_weights, reward_loss, weighted_sum

scores = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def test_two_against_a_half_without_regularisation() -> None:
    assert reward_loss(t(2.0), t(0.5), 0.0).item() == pytest.approx(0.2014133, abs=1e-7)


def test_regularisation_is_mu_times_the_mean_of_both_squared_scores() -> None:
    assert reward_loss(t(2.0), t(0.5), 1e-3).item() == pytest.approx(0.2014133 + 1e-3 * (4 + 0.25) / 2, abs=1e-7)


def test_equal_scores_cost_log_2() -> None:
    assert reward_loss(t(3.0), t(3.0), 0.0).item() == pytest.approx(math.log(2), abs=1e-7)


@given(scores, st.floats(0, 1))
def test_a_soft_label_weighs_both_orders(values: list[float], p: float) -> None:
    better, worse = torch.tensor(values), torch.tensor(values[::-1])
    got = reward_loss(better, worse, 0.01, torch.full((len(values),), p))
    for index, (b, w) in enumerate(zip(values, values[::-1], strict=True)):
        expected = -p * log_sigmoid(b - w) - (1 - p) * log_sigmoid(w - b) + 0.01 * (b * b + w * w) / 2
        assert got[index].item() == pytest.approx(expected, rel=2e-5, abs=1e-5)


@given(scores, st.integers(0, 3))
def test_cost_loss_is_three_log_sigmoids_and_the_regulariser(values: list[float], case: int) -> None:
    harmful, safer = values, [value - 1.5 for value in values]
    zh, zg = ((1, 1), (1, -1), (-1, -1), (1, 1))[case]
    n = len(values)
    got = cost_loss(
        torch.tensor(harmful), torch.tensor(safer), torch.full((n,), float(zh)), torch.full((n,), float(zg)), 0.1
    )
    for index, (h, g) in enumerate(zip(harmful, safer, strict=True)):
        expected = -log_sigmoid(h - g) - log_sigmoid(zh * h) - log_sigmoid(zg * g) + 0.1 * (h * h + g * g) / 2
        assert got[index].item() == pytest.approx(expected, rel=2e-5, abs=1e-5)


def test_a_cost_of_the_right_sign_costs_less() -> None:
    right = cost_loss(t(2.0), t(-2.0), t(1.0), t(-1.0), 0.0)
    wrong = cost_loss(t(2.0), t(-2.0), t(-1.0), t(-1.0), 0.0)
    assert right.item() == pytest.approx(-log_sigmoid(4) - 2 * log_sigmoid(2), abs=1e-6)
    assert wrong.item() > right.item()


def test_bfloat16_scores_are_judged_in_float32() -> None:
    low = reward_loss(t(2.0).bfloat16(), t(0.5).bfloat16(), 0.0)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(0.2014133, abs=1e-7)


def test_far_apart_scores_neither_overflow_nor_vanish() -> None:
    assert reward_loss(t(-1e4), t(1e4), 0.0).item() == pytest.approx(2e4)
    assert reward_loss(t(1e4), t(-1e4), 0.0).item() == 0.0


@given(st.integers(1, 20), st.data())
def test_micro_batches_of_any_split_give_the_same_loss(pairs: int, data: st.DataObject) -> None:
    better = torch.tensor(data.draw(st.lists(st.floats(-3, 3, width=32), min_size=pairs, max_size=pairs)))
    worse = better.flip(0) - 0.25
    weights = torch.from_numpy(poisson_weights(pairs, 3, 1))
    batch_loss = weighted_sum(reward_loss(better.expand(3, -1), worse.expand(3, -1), 0.1), weights) / pairs
    cut = data.draw(st.integers(0, pairs))
    parts = sum(
        weighted_sum(reward_loss(better[s].expand(3, -1), worse[s].expand(3, -1), 0.1), weights[:, s]) / pairs
        for s in (slice(0, cut), slice(cut, pairs))
    )
    assert float(parts) == pytest.approx(float(batch_loss), rel=1e-5, abs=1e-6)


def test_row_weights_are_poisson_one_and_differ_between_members() -> None:
    weights = poisson_weights(40_000, 3, 5)
    assert weights.shape == (3, 40_000)
    for member in weights:
        assert member.mean() == pytest.approx(1.0, abs=0.02)
        assert member.var() == pytest.approx(1.0, abs=0.04)
        assert (member == 0).mean() == pytest.approx(math.exp(-1), abs=0.01)
        assert (member == 3).mean() == pytest.approx(math.exp(-1) / 6, abs=0.006)
    assert abs(np.corrcoef(weights)[0, 1]) < 0.02


def test_row_weights_follow_their_seed_and_a_single_member_has_none() -> None:
    assert (poisson_weights(50, 2, 5) == poisson_weights(50, 2, 5)).all()
    assert (poisson_weights(50, 2, 5) != poisson_weights(50, 2, 6)).any()
    assert (poisson_weights(50, 1, 5) == 1).all()
