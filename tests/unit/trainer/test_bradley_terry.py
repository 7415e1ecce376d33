"""Strengths by Bradley and Terry against closed forms, another fit, and the truth they were drawn from."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_trainer.statistics.bradley_terry import ELO, connected, fit, strengths
from rlhf_trainer.statistics.intervals import Intervals


def counted(models, games):
    """[1, M, M] of {(winner, loser): times}."""
    wins = np.zeros((1, models, models))
    for (winner, loser), times in games.items():
        wins[0, winner, loser] = times
    return wins


def by_scipy(wins):
    """The same maximum, found by another method on another parametrisation of the gradient: none is given."""
    models = wins.shape[0]

    def loss(free):
        values = np.concatenate([[0.0], free])
        return sum(
            wins[i, j] * math.log1p(math.exp(values[j] - values[i])) for i in range(models) for j in range(models)
        )

    best = minimize(loss, np.zeros(models - 1), method="BFGS", options={"gtol": 1e-9})
    return np.concatenate([[0.0], best.x])


@pytest.mark.parametrize(("won", "lost"), [(30, 10), (1, 99), (0.5, 999.5), (7, 7)])
def test_two_models_have_the_log_odds(won, lost):
    assert fit(counted(2, {(1, 0): won, (0, 1): lost}))[0] == pytest.approx([0.0, math.log(won / lost)], abs=1e-9)


def test_a_cycle_of_equal_wins_is_even_and_elo_of_ten_to_one_is_400():
    assert fit(counted(3, {(0, 1): 5, (1, 2): 5, (2, 0): 5}))[0] == pytest.approx([0, 0, 0], abs=1e-9)
    assert fit(counted(2, {(1, 0): 10, (0, 1): 1}))[0, 1] * ELO == pytest.approx(400)


@pytest.mark.parametrize("seed", range(6))
def test_strengths_are_those_of_another_fit(seed):
    random = np.random.default_rng(seed)
    wins = random.integers(0, 2 * 4**seed, size=(1, 5, 5)) * (random.random((1, 5, 5)) < 0.7) + 0.5
    wins *= 1 - np.eye(5)
    assert fit(wins)[0] == pytest.approx(by_scipy(wins[0]), abs=2e-5)


def test_at_the_maximum_every_model_won_as_often_as_the_fit_expects():
    """The likelihood equations: sum_j w_ij = sum_j n_ij p_ij; also far from even, where plain Newton steps diverge."""
    wins = counted(4, {(1, 0): 1e6, (0, 1): 1, (2, 1): 1e6, (1, 2): 1, (3, 2): 1e6, (2, 3): 1, (0, 3): 0.5})
    (values,) = fit(wins)
    shares = 1 / (1 + np.exp(values[None, :] - values[:, None]))
    games = wins[0] + wins[0].T
    assert (games * shares).sum(axis=1) == pytest.approx(wins[0].sum(axis=1), rel=1e-7)


def test_sets_of_comparisons_do_not_change_one_another():
    random = np.random.default_rng(0)
    wins = random.integers(1, 9, size=(7, 4, 4)) * (1.0 - np.eye(4))
    wins[3] = counted(4, {(1, 0): 3})[0]
    for together, alone in zip(fit(wins), (fit(wins[index : index + 1])[0] for index in range(len(wins))), strict=True):
        assert together == pytest.approx(alone, abs=1e-9, nan_ok=True)


def test_where_the_maximum_does_not_exist_strengths_are_infinite_or_unknown():
    always = counted(4, {(1, 0): 5, (0, 2): 5})  # 1 above 0 above 2; nobody met 3
    assert fit(always)[0] == pytest.approx([0, np.inf, -np.inf, np.nan], nan_ok=True)
    assert not connected(always[0])
    through = counted(3, {(1, 0): 5, (2, 1): 3, (1, 2): 4})  # 1 and 2 know each other; 0 lost to both
    assert fit(through)[0] == pytest.approx([0, np.inf, np.inf])
    assert connected(counted(3, {(0, 1): 1, (1, 2): 1, (2, 0): 1})[0])
    assert connected(counted(2, {(0, 1): 0.5, (1, 0): 0.5})[0])  # one tie


def test_models_beyond_a_one_way_door_do_not_move_those_inside():
    inside = counted(3, {(0, 1): 4, (1, 0): 8})
    with_loser = counted(3, {(0, 1): 4, (1, 0): 8, (0, 2): 9, (1, 2): 9})
    assert fit(with_loser)[0, :2] == pytest.approx(fit(inside)[0, :2])
    assert fit(with_loser)[0, 2] == -np.inf


def prompts(random, truth, count, ties=0.0):
    """Wins of each prompt, of all pairs."""
    wins = np.zeros((count, len(truth), len(truth)))
    for number in range(count):
        for i, j in itertools.combinations(range(len(truth)), 2):
            share = 1 / (1 + math.exp(truth[j] - truth[i]))
            won = 0.5 if random.random() < ties else float(random.random() < share)
            wins[number, i, j], wins[number, j, i] = won, 1 - won
    return wins


def test_estimates_have_the_fit_s_value_an_interval_around_it_and_the_prompts_that_compare():
    wins = prompts(np.random.default_rng(1), [0.0, 0.8, -0.5], 60)
    wins[:10] = 0
    first, *others = strengths(wins, Intervals(0.95, 400, 3))
    assert (first.value, first.low, first.high, first.n) == (0.0, 0.0, 0.0, 50)
    for estimate, value in zip(others, fit(wins.sum(axis=0, keepdims=True))[0, 1:], strict=True):
        assert estimate.value == pytest.approx(value) and estimate.low < value < estimate.high and estimate.n == 50


def test_of_two_models_the_sandwich_is_the_delta_method_s_interval():
    """Var(log p/(1-p)) = 1 / (n p (1-p)), here with n - 1; the bootstrap's ends may only widen it."""
    wins = counted(2, {(1, 0): 1})
    both = np.concatenate([np.repeat(wins, 60, 0), np.repeat(wins.transpose(0, 2, 1), 40, 0)])
    estimate = strengths(both, Intervals(0.95, 2000, 0))[1]
    assert estimate.value == pytest.approx(math.log(1.5))
    half = 1.98422 / math.sqrt(99 * 0.6 * 0.4)
    assert estimate.low == pytest.approx(math.log(1.5) - half, abs=0.06) and estimate.low <= math.log(1.5) - half + 1e-4
    assert (
        estimate.high == pytest.approx(math.log(1.5) + half, abs=0.06) and estimate.high >= math.log(1.5) + half - 1e-4
    )


def test_a_model_that_always_won_has_no_value_and_one_that_nearly_did_no_upper_end():
    wins = counted(2, {(1, 0): 1})
    always = strengths(np.repeat(wins, 30, 0), Intervals(0.95, 300, 0))[1]
    assert always.value is None and always.low == math.inf
    nearly = np.concatenate([np.repeat(wins, 39, 0), wins.transpose(0, 2, 1)])
    estimate = strengths(nearly, Intervals(0.95, 300, 0))[1]
    assert estimate.value == pytest.approx(math.log(39)) and 0 < estimate.low < estimate.value
    assert estimate.high == math.inf


def test_one_prompt_or_none_has_no_interval():
    wins = counted(2, {(1, 0): 0.5, (0, 1): 0.5})
    (_, estimate) = strengths(wins, Intervals(0.95, 100, 0))
    assert (estimate.value, estimate.low, estimate.method) == (0.0, None, "none")
    assert strengths(np.zeros((5, 2, 2)), Intervals(0.95, 100, 0))[1].value is None


@pytest.mark.parametrize(
    ("truth", "count", "ties"), [((0.0, 0.7, -0.6), 20, 0.0), ((0.0, 0.7, -0.6), 60, 0.0), ((0.0, 0.0, 0.0), 60, 0.3)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(truth, count, ties):
    random, covered, runs = np.random.default_rng(5), 0, 200
    for run in range(runs):
        estimates = strengths(prompts(random, truth, count, ties), Intervals(0.9, 300, run))
        covered += sum(
            estimate.low <= value <= estimate.high for estimate, value in zip(estimates[1:], truth[1:], strict=True)
        )
    assert 0.87 <= covered / (2 * runs) <= 0.99
