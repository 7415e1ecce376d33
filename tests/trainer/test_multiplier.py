"""The multipliers of PPO-Lagrangian, and the guards."""

from __future__ import annotations

import logging
import math
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_api.stages.ppo import Guard, Guards, Lagrange
from rlhf_trainer.exits import GuardTripped
from rlhf_trainer.ppo.guards import Watch
from rlhf_trainer.ppo.multiplier import Multiplier, check_feasible, response_covariance


def lagrange(**fields: object) -> Lagrange:
    return Lagrange.model_validate(fields)


def test_lambda_rises_with_the_cost_above_its_limit() -> None:
    multiplier = Multiplier("cost", 0.5, lagrange(initial=2.0, rate=0.1))
    multiplier.observe(np.array([1.0, 2.0]))
    assert multiplier.mean == 1.5
    assert multiplier.value == pytest.approx(2.0 * math.exp(0.1 * (1.5 - 0.5)))


def test_a_step_is_bounded_both_ways() -> None:
    multiplier = Multiplier("cost", 0.0, lagrange(rate=1.0, maxStep=0.3))
    multiplier.observe(np.array([100.0]))
    assert multiplier.value == pytest.approx(math.exp(0.3))
    multiplier.observe(np.array([-100.0]))
    assert multiplier.value == pytest.approx(1.0)


def test_the_window_weighs_every_answer_alike() -> None:
    multiplier = Multiplier("cost", 0.0, lagrange(window=2))
    multiplier.observe(np.array([9.0, 9.0]))
    multiplier.observe(np.array([1.0]))
    multiplier.observe(np.array([4.0, 4.0, 4.0]))
    assert multiplier.mean == pytest.approx((1 + 12) / 4)


def test_before_the_first_rollout_j_is_the_limit() -> None:
    assert Multiplier("cost", 0.7, lagrange()).mean == 0.7


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.sampled_from(["window", "safe-rlhf"]))
def test_lambda_stays_within_its_bounds(costs: list[float], rule: str) -> None:
    multiplier = Multiplier("cost", 0.0, lagrange(rule=rule, min=0.1, max=3.0))
    for cost in costs:
        multiplier.observe(np.array([cost]))
        multiplier.optimizer_step()
        assert 0.1 * (1 - 1e-9) <= multiplier.value <= 3.0 * (1 + 1e-9)


@settings(max_examples=30)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.data())
def test_saved_and_loaded_it_goes_on_bit_for_bit(costs: list[float], data: st.DataObject) -> None:
    spec = lagrange(window=3, patience=2, max=1.5)
    uninterrupted, part = Multiplier("cost", 0.0, spec), Multiplier("cost", 0.0, spec)
    cut = data.draw(st.integers(0, len(costs)))
    for cost in costs[:cut]:
        part.observe(np.array([cost]))
    resumed = Multiplier("cost", 0.0, spec)
    resumed.load_state(part.state())
    for cost in costs[cut:]:
        resumed.observe(np.array([cost]))
    for cost in costs:
        uninterrupted.observe(np.array([cost]))
    assert resumed.state() == uninterrupted.state()
    assert resumed.out_of_reach() == uninterrupted.out_of_reach()


def test_safe_rlhfs_own_rule_moves_by_lambda_an_optimizer_step_and_not_a_rollout() -> None:
    multiplier = Multiplier("cost", 0.0, lagrange(rule="safe-rlhf", rate=0.1, initial=2.0))
    multiplier.observe(np.array([1.0]))
    assert multiplier.value == pytest.approx(2.0)
    multiplier.optimizer_step()
    first = math.log(2.0) + 0.1 * 1.0 * 2.0
    assert math.log(multiplier.value) == pytest.approx(first)
    multiplier.optimizer_step()
    assert math.log(multiplier.value) == pytest.approx(first + 0.1 * math.exp(first))


def test_safe_rlhfs_own_rule_is_sgd_on_log_lambda_over_rollouts_and_epochs() -> None:
    """Minimising -(J - d) exp(log_lambda) by SGD, log_lambda cut at its bound; J of the last two rollouts' answers."""
    random = np.random.default_rng(0)
    spec = lagrange(rule="safe-rlhf", rate=0.05, initial=1.5, window=2, max=2.0, min=1e-6)
    multiplier = Multiplier("cost", 0.25, spec)
    log_lambda = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64).log())
    optimizer = torch.optim.SGD([log_lambda], lr=0.05)
    answers: deque[float] = deque(maxlen=2 * 8)
    multipliers = []
    for center in (3.0, 2.0, -2.0, -4.0, 0.5):
        costs = random.normal(center, 1.0, 8)
        answers.extend(costs)
        multiplier.observe(costs)
        for _ in range(4):
            optimizer.zero_grad()
            (-(np.mean(answers) - 0.25) * log_lambda.exp()).backward()
            optimizer.step()
            with torch.no_grad():
                log_lambda.clamp_(max=math.log(2.0))
            multiplier.optimizer_step()
            assert multiplier.value == pytest.approx(float(log_lambda.detach().exp()), rel=1e-9)
            multipliers.append(multiplier.value)
    assert max(multipliers) == pytest.approx(2.0), "the bound is met"
    assert min(multipliers) < 1.0, "and left"


def test_the_windows_rule_ignores_optimizer_steps() -> None:
    multiplier = Multiplier("cost", 0.0, lagrange())
    multiplier.observe(np.array([1.0]))
    before = multiplier.value
    multiplier.optimizer_step()
    assert multiplier.value == before


def test_infeasible_after_patience_at_the_bound_with_the_covariance_that_says_why() -> None:
    multiplier = Multiplier("toxicity", 0.0, lagrange(initial=3.0, max=3.0, patience=3))
    reward, cost = np.array([0.0, 1.0]), np.array([2.0, 4.0])
    for _ in range(2):
        multiplier.observe(cost)
        check_feasible([multiplier], reward, [cost])
    multiplier.observe(cost)
    # Cov(c, r + c): c = 2, 4; r + c = 2, 5 -> mean of (-1)(-1.5), (1)(1.5)
    with pytest.raises(GuardTripped, match=r"costs\[0\] \(toxicity\).*Cov\(c, r \+ c\) = 1\.5") as error:
        check_feasible([multiplier], reward, [cost])
    assert error.value.reason == "Infeasible"
    assert error.value.code == 3


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ([0.0, 1.0], "a larger multiplier would lower the cost"),
        ([9.0, 0.0], "a smaller multiplier would lower the cost"),
        ([2.0, 0.0], "no multiplier would change the cost"),
    ],
)
def test_infeasible_says_which_way_the_multiplier_would_have_to_go(reward: list[float], words: str) -> None:
    multiplier = Multiplier("cost", 0.0, lagrange(initial=3.0, max=3.0, patience=1))
    cost = np.array([2.0, 4.0])
    multiplier.observe(cost)
    with pytest.raises(GuardTripped, match=words):
        check_feasible([multiplier], np.array(reward), [cost])


def test_one_rollout_within_the_limit_starts_the_patience_anew() -> None:
    multiplier = Multiplier("cost", 0.0, lagrange(initial=3.0, max=3.0, patience=2, rate=1e-9))
    for cost in (1.0, -1.0, 1.0):
        multiplier.observe(np.array([cost]))
    assert not multiplier.out_of_reach()


def test_the_covariance_with_several_costs_is_the_derivative_of_the_objective() -> None:
    generator = np.random.default_rng(0)
    reward, first, second = generator.normal(size=(3, 50))
    multipliers = [Multiplier("a", 0, lagrange(initial=0.5)), Multiplier("b", 0, lagrange(initial=2.0))]

    def objective(a: float, b: float) -> np.ndarray:
        return (reward - a * first - b * second) / (1 + a + b)

    h = 1e-6
    derivative = (objective(0.5 + h, 2.0) - objective(0.5 - h, 2.0)) / (2 * h)
    expected = -np.cov(first, derivative, bias=True)[0, 1] * (1 + 2.5) ** 2
    assert response_covariance(0, multipliers, reward, [first, second]) == pytest.approx(expected, rel=1e-5)


METRICS = {"length": 10.0, "reward": 0.0, "kl": 0.1, "entropy": 1.0}


def watch(**bounds: Guard) -> Watch:
    gold = {"function": "gold:score"} if "goldGap" in bounds else None
    return Watch(Guards.model_validate({name: bound.model_dump() for name, bound in bounds.items()} | {"gold": gold}))


def step(guard: Watch, **metrics: float) -> None:
    values = METRICS | metrics
    guard.check(values | guard.derived(values))


@pytest.mark.parametrize(
    ("bound", "metric", "value", "reason"),
    [
        ("kl", "kl", 5.0, "KL"),
        ("length", "length", 45.0, "Length"),
        ("goldGap", "reward", 9.0, "GoldGap"),
    ],
)
def test_a_guard_trips_after_its_patience(bound: str, metric: str, value: float, reason: str) -> None:
    guard = watch(**{bound: Guard(max=3.0, patience=2)})
    step(guard, gold=0.0)
    step(guard, gold=0.0, **{metric: value})
    with pytest.raises(GuardTripped, match=rf"guards\.{bound}") as error:
        step(guard, gold=0.0, **{metric: value})
    assert (error.value.reason, error.value.code) == (reason, 3)


def test_an_entropy_collapse_trips_and_a_step_within_bounds_forgives() -> None:
    guard = watch(entropy=Guard(min=0.5, patience=2))
    for entropy in (0.1, 0.9, 0.1):
        step(guard, entropy=entropy)
    with pytest.raises(GuardTripped, match=r"below min 0\.5"):
        step(guard, entropy=0.1)


def test_a_warning_goes_on_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    guard = watch(kl=Guard(max=1.0, patience=1, action="warn"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            step(guard, kl=2.0)
    assert guard.warnings["kl"] == 3
    assert len(caplog.records) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_always_stops_and_names_the_metric(value: float) -> None:
    with pytest.raises(GuardTripped, match="reward = ") as error:
        step(watch(), reward=value)
    assert error.value.reason == "NaN"


def test_baselines_and_streaks_survive_a_checkpoint() -> None:
    guard = watch(length=Guard(max=2.0, patience=2))
    step(guard, length=10.0)
    step(guard, length=25.0)
    resumed = watch(length=Guard(max=2.0, patience=2))
    resumed.load_state(guard.state())
    with pytest.raises(GuardTripped, match=r"2\.5 is above max 2"):
        step(resumed, length=25.0)
