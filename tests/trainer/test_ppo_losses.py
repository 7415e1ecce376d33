"""PPO's formulas against numbers worked out by hand or by plain Python loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_api.stages.ppo import Kl
from rlhf_trainer.losses.ppo import (
    clip_fraction,
    explained_variance,
    explained_variance_sums,
    policy_loss,
    token_weights,
    value_loss,
)
from rlhf_trainer.ppo.advantages import combine, gae, token_rewards, whiten
from rlhf_trainer.ppo.kl import KlCoefficient

GARBAGE = 9.0


def padded(*rows: list[float], pad: float = 0.0, width: int = 0) -> torch.Tensor:
    width = width or max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def pipeline(pad: float, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """training.md's token pipeline example, with PAD positions holding `pad`."""
    mask = padded([1.0, 1.0, 1.0], width=width)
    k = padded([0.2, -0.1, 0.3], pad=pad, width=width)
    value = padded([0.5, 0.4, 0.3], pad=pad, width=width)
    cost_value = padded([1.0, 1.2, 1.5], pad=pad, width=width)
    rewards = token_rewards(torch.tensor([1.0]), k, mask, beta=0.1, clip=50)
    costs = token_rewards(torch.tensor([2.0]), k, mask, beta=-0.1, clip=50)
    reward, _ = gae(rewards, value, mask, gamma=1, decay=0.95)
    cost, _ = gae(costs, cost_value, mask, gamma=1, decay=0.95)
    return reward, cost, combine(reward, [cost], [0.5])


@pytest.mark.parametrize(("pad", "width"), [(0.0, 3), (GARBAGE, 5), (math.nan, 6)])
def test_token_pipeline_example_whatever_the_padding_holds(pad: float, width: int) -> None:
    reward, cost, combined = pipeline(pad, width)
    np.testing.assert_allclose(reward[0, :3], [0.399175, 0.5465, 0.67], atol=1e-6)
    np.testing.assert_allclose(cost[0, :3], [0.973825, 0.7935, 0.53], atol=1e-6)
    np.testing.assert_allclose(combined[0, :3], [-0.0584917, 0.0998333, 0.27], atol=1e-6)
    assert not combined[0, 3:].any()


def test_several_costs_combine_with_one_multiplier_each() -> None:
    a = combine(torch.tensor([[3.0]]), [torch.tensor([[1.0]]), torch.tensor([[-2.0]])], [0.5, 1.5])
    assert a.item() == pytest.approx((3 - 0.5 * 1 + 1.5 * 2) / 3)


def test_without_costs_the_advantage_is_the_rewards() -> None:
    assert combine(torch.tensor([[0.7]]), [], []).item() == pytest.approx(0.7)


def test_token_rewards_are_clipped_after_the_score_is_added() -> None:
    mask = torch.ones(1, 2)
    rewards = token_rewards(torch.tensor([80.0]), torch.tensor([[700.0, 100.0]]), mask, beta=0.1, clip=50)
    assert rewards.tolist() == [[-50.0, 50.0]]


def test_an_answer_of_eos_alone_gets_its_score_on_it() -> None:
    mask = padded([1.0], [1.0, 1.0], width=2)
    rewards = token_rewards(torch.tensor([1.5, 2.5]), torch.zeros(2, 2), mask, beta=0.1, clip=50)
    assert rewards.tolist() == [[1.5, 0.0], [0.0, 2.5]]
    advantages, returns = gae(rewards, torch.full((2, 2), GARBAGE) * mask, mask, gamma=1, decay=0.95)
    assert advantages[0].tolist() == [1.5 - GARBAGE, 0.0]
    assert returns[0].tolist() == [1.5, 0.0]


@pytest.mark.parametrize(("returns", "loss"), [(0.0, 24.5), (8.0, 2.0)])
def test_value_loss_takes_the_worse_of_moved_and_clipped(returns: float, loss: float) -> None:
    ones = torch.ones(1, 1)
    assert value_loss(7 * ones, ones, returns * ones, ones, clip=5).item() == pytest.approx(loss)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "gradient"),
    [
        (0.0, 2.0, -2.0, -2.0),
        (math.log(1.5), 2.0, -2.4, 0.0),  # a gain beyond the clip counts no further
        (math.log(1.5), -2.0, 3.0, 3.0),  # a loss does
        (math.log(0.5), 2.0, -1.0, -1.0),
        (math.log(0.5), -2.0, 1.6, 0.0),
    ],
)
def test_clipped_surrogate(log_ratio: float, advantage: float, loss: float, gradient: float) -> None:
    ones = torch.ones(1, 1)
    log_probs = torch.tensor([[log_ratio]], requires_grad=True)
    surrogate = policy_loss(log_probs, 0 * ones, advantage * ones, ones, clip=0.2)
    surrogate.backward()
    assert surrogate.item() == pytest.approx(loss, rel=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.item() == pytest.approx(gradient, rel=1e-6)


def test_garbage_beyond_the_mask_moves_no_loss_and_no_gradient() -> None:
    weights = padded([0.5, 0.5], width=4)
    log_probs = padded([-0.3, -0.2], pad=math.nan, width=4).requires_grad_()
    loss = policy_loss(
        log_probs, padded([-0.3, -0.4], pad=math.inf, width=4), padded([1.0, 2.0], pad=math.nan, width=4), weights, 0.2
    )
    loss.backward()
    assert loss.item() == pytest.approx(-0.5 * (1 + 2 * 1.2))
    assert log_probs.grad is not None
    assert log_probs.grad[0].tolist() == pytest.approx([-0.5, 0.0, 0.0, 0.0])


def test_clip_fraction_counts_tokens_beyond_the_range() -> None:
    log_probs = torch.log(torch.tensor([[1.3, 1.1, 0.7, 5.0]]))
    assert clip_fraction(log_probs, torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 1.0, 0.0]]), 0.2).item() == 2


def test_each_normalization_is_the_mean_it_says() -> None:
    mask = padded([1.0, 1.0, 1.0], [1.0])
    loss = torch.tensor([[3.0, 3.0, 3.0], [9.0, GARBAGE, GARBAGE]])
    normalized = {
        kind: float((loss * token_weights(mask, kind, tokens=4, answers=2, longest=10)).sum())
        for kind in ("tokens", "sequences", "constant")
    }
    assert normalized == {
        "tokens": pytest.approx((9 + 9) / 4),
        "sequences": pytest.approx((3 + 9) / 2),
        "constant": pytest.approx((9 + 9) / 20),
    }


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=7), st.sampled_from(["tokens", "sequences", "constant"]), st.data()
)
def test_micro_batches_add_up_to_the_batch(lengths: list[int], kind: str, data: st.DataObject) -> None:
    torch.manual_seed(len(lengths))
    cut = data.draw(st.integers(0, len(lengths)))
    mask = padded(*[[1.0] * n for n in lengths], width=6)
    loss = torch.randn(mask.shape)

    def part(rows: slice) -> torch.Tensor:
        weights = token_weights(mask[rows], kind, tokens=sum(lengths), answers=len(lengths), longest=6)  # type: ignore[arg-type]
        return (loss[rows] * weights).sum()

    torch.testing.assert_close(part(slice(0, cut)) + part(slice(cut, None)), part(slice(None)))


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**31 - 1),
)
def test_gae_is_the_sum_of_decayed_errors(lengths: list[int], gamma: float, decay: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    width = 8
    mask = padded(*[[1.0] * n for n in lengths], width=width)
    rewards, values = generator.normal(size=(2, len(lengths), width)).astype(np.float32)
    advantages, returns = gae(torch.tensor(rewards), torch.tensor(values), mask, gamma=gamma, decay=decay)
    for row, n in enumerate(lengths):
        following = np.append(values[row, 1:n], 0.0)
        errors = rewards[row, :n] + gamma * following - values[row, :n]
        expected = [sum((gamma * decay) ** (s - t) * errors[s] for s in range(t, n)) for t in range(n)]
        np.testing.assert_allclose(advantages[row, :n], expected, atol=1e-4)
        np.testing.assert_allclose(returns[row, :n], np.array(expected) + values[row, :n], atol=1e-4)
        assert not advantages[row, n:].any()
        assert not returns[row, n:].any()


def test_whitening_uses_the_rollouts_moments() -> None:
    advantages = padded([1.0, 5.0], [3.0], pad=GARBAGE)
    mask = padded([1.0, 1.0], [1.0])
    whitened = whiten(advantages, mask, mean=3.0, variance=8 / 3)
    assert whitened[0].tolist() == pytest.approx([-2 / (8 / 3) ** 0.5, 2 / (8 / 3) ** 0.5], rel=1e-5)
    assert whitened[1].tolist() == [0.0, 0.0]


def test_explained_variance_of_parts_is_that_of_the_whole() -> None:
    returns = np.array([1.0, 2.0, 4.0, 9.0])
    values = np.array([1.5, 1.0, 4.0, 7.0])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    parts = [
        explained_variance_sums(padded([*values[i : i + 2], GARBAGE]), padded([*returns[i : i + 2], -GARBAGE]), mask)
        for i in (0, 2)
    ]
    assert explained_variance(parts[0] + parts[1]) == pytest.approx(1 - np.var(returns - values) / np.var(returns))


def test_explained_variance_of_constant_returns_is_zero_not_a_division_by_it() -> None:
    ones = torch.ones(1, 3)
    assert explained_variance(explained_variance_sums(2 * ones, ones, ones)) == 0.0


def test_adaptive_beta_moves_by_e_over_its_horizon_at_an_error_of_100_percent() -> None:
    kl = KlCoefficient(Kl(coefficient=0.1, target=2.0, horizon=640.0))
    for _ in range(20):
        kl.update(4.0, 32)
    assert kl.value == pytest.approx(0.1 * math.e)
    again = KlCoefficient(Kl(coefficient=0.1, target=2.0, horizon=640.0))
    again.load_state(kl.state())
    assert again.value == kl.value


def test_adaptive_beta_stands_at_its_target_and_without_one() -> None:
    for spec, measured_kl in ((Kl(coefficient=0.1, target=2.0), 2.0), (Kl(coefficient=0.1), 99.0)):
        kl = KlCoefficient(spec)
        kl.update(measured_kl, 1000)
        assert kl.value == 0.1


def test_adaptive_beta_is_bounded_a_step_whatever_the_error() -> None:
    kl = KlCoefficient(Kl(coefficient=0.1, target=1.0, horizon=100.0))
    kl.update(1e9, 10)
    assert kl.value == pytest.approx(0.1 * math.exp(0.1))
