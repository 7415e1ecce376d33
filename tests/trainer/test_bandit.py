"""PPO-Lagrangian on a one-step softmax policy, where the optimum is known in closed form.

pi* ~ pi_0 exp((r - lambda c) / ((1 + lambda) beta)), lambda* where E[c] = d. The run uses the trainer's own rewards, GAE,
losses and multiplier; the optimum is computed here, by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rlhf_api.stages.ppo import Lagrange
from rlhf_trainer.losses.ppo import policy_loss, token_weights, value_loss
from rlhf_trainer.ppo.advantages import combine, gae, token_rewards
from rlhf_trainer.ppo.multiplier import Multiplier

PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
REWARD = np.array([1.0, 0.6, 0.2, 0.0])
COST = np.array([2.0, 0.5, -1.0, -2.0])
BETA = 0.2


def optimum(multiplier: float) -> np.ndarray:
    weights = PRIOR * np.exp((REWARD - multiplier * COST) / ((1 + multiplier) * BETA))
    return weights / weights.sum()


def best_multiplier() -> float:
    low, high = 0.0, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if optimum(middle) @ COST > 0 else (low, middle)
    return low


def test_the_closed_form_has_the_stated_values() -> None:
    multiplier = best_multiplier()
    assert multiplier == pytest.approx(0.325098, abs=1e-6)
    np.testing.assert_allclose(optimum(multiplier), [0.26390, 0.27550, 0.25566, 0.20494], atol=1e-5)
    assert optimum(multiplier) @ REWARD == pytest.approx(0.48033, abs=1e-5)
    assert optimum(0.0) @ COST == pytest.approx(1.83237, abs=1e-5)


@dataclass
class Path:
    policy: np.ndarray
    """[steps, arms]"""
    multiplier: np.ndarray
    """[steps]"""


def train(costs: list[np.ndarray], spec: Lagrange, *, steps: int = 1200, answers: int = 1024, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.tensor(np.log(PRIOR), dtype=torch.float32, requires_grad=True)
    values = torch.zeros(1 + len(costs), requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [logits], "lr": 1.0}, {"params": [values], "lr": 0.1}])
    multipliers = [Multiplier(f"c{i}", 0.0, spec) for i in range(len(costs))]
    reference = torch.tensor(np.log(PRIOR), dtype=torch.float32)
    mask = torch.ones(answers, 1)
    path: list[np.ndarray] = []
    lambdas: list[float] = []
    for _ in range(steps):
        log_probs_all = logits.log_softmax(-1)
        arms = torch.multinomial(log_probs_all.detach().exp(), answers, replacement=True, generator=generator)
        scores = [torch.tensor(REWARD, dtype=torch.float32)[arms]]
        scores += [torch.tensor(cost, dtype=torch.float32)[arms] for cost in costs]
        for multiplier, score in zip(multipliers, scores[1:], strict=True):
            multiplier.observe(score.double().numpy())
        log_probs = log_probs_all[arms][:, None]
        kl = (log_probs - reference[arms][:, None]).detach()
        weights = token_weights(mask, "tokens", tokens=answers, answers=answers, longest=1)
        advantages, critic = [], torch.zeros(())
        for index, score in enumerate(scores):
            value = values[index].expand(answers, 1)
            rewards = token_rewards(score, kl, mask, beta=BETA if index == 0 else -BETA, clip=50)
            advantage, returns = gae(rewards, value, mask, gamma=1, decay=0.95)
            advantages.append(advantage)
            critic = critic + value_loss(value, value.detach(), returns, weights, 5.0)
        combined = combine(advantages[0], advantages[1:], [m.value for m in multipliers])
        optimizer.zero_grad()
        (policy_loss(log_probs, log_probs.detach(), combined, weights, 0.2) + critic).backward()
        optimizer.step()
        path.append(logits.detach().softmax(-1).double().numpy())
        lambdas.append(multipliers[0].value if multipliers else 0.0)
    return Path(np.array(path), np.array(lambdas))


def test_ppo_lagrangian_settles_at_the_closed_form_optimum() -> None:
    path = train([COST], Lagrange(initial=1.0, rate=0.05))
    quarter = slice(-len(path.multiplier) // 4, None)
    policy, multiplier = path.policy[quarter], path.multiplier[quarter]
    best = best_multiplier()
    assert multiplier.mean() == pytest.approx(best, abs=0.003)
    assert multiplier.max() / multiplier.min() < 1.1
    np.testing.assert_allclose(policy.mean(0), optimum(best), atol=0.002)
    assert (policy @ COST).mean() == pytest.approx(0.0, abs=0.01)
    assert abs(policy @ COST).max() < 0.06
    assert (policy @ REWARD).mean() == pytest.approx(0.48033, abs=0.003)


def test_plain_ppo_pays_the_cost() -> None:
    path = train([], Lagrange(), steps=800)
    policy = path.policy[-200:]
    assert (policy @ COST).mean() == pytest.approx(1.83237, abs=0.01)


def test_a_cost_that_is_met_anyway_lets_lambda_fall_to_its_floor() -> None:
    path = train([COST - 3.0], Lagrange(rate=0.1, min=0.01), steps=600)
    assert path.multiplier[-1] == pytest.approx(0.01)


def test_two_costs_of_which_one_binds_give_the_optimum_of_that_one() -> None:
    path = train([COST, COST - 3.0], Lagrange(rate=0.05, min=1e-3))
    quarter = slice(-len(path.multiplier) // 4, None)
    assert (path.policy[quarter] @ COST).mean() == pytest.approx(0.0, abs=0.02)
    assert path.multiplier[quarter].mean() == pytest.approx(best_multiplier(), abs=0.01)
