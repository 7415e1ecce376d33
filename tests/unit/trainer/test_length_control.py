"""Win rates at equal length, against an independent fit, and how often the interval covers the truth."""

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_trainer.evaluation.distributions import distributions
from rlhf_trainer.statistics.intervals import Intervals
from rlhf_trainer.statistics.length_control import HALF_WIN, RIDGE, gaps, length_controlled

EASY = Intervals(0.95, 400, 3)


def simulated(random, count, intercept, slope):
    ours, theirs = random.gamma(4, 20, (2, count, 1))
    gap = gaps(ours, theirs)
    return (random.random(count) < 1 / (1 + np.exp(-intercept - slope * gap))).astype(float), gap


def test_the_rate_is_that_of_a_general_optimizer():
    random = np.random.default_rng(5)
    won, gap = simulated(random, 60, 0.4, 1.5)
    won[:5] = 0.5  # ties

    def loss(weights):
        logit = weights[0] + weights[1] * gap
        of_rows = (np.logaddexp(0, logit) - won * logit).sum()
        of_halves = HALF_WIN * (np.logaddexp(0, weights[0]) + np.logaddexp(0, -weights[0]))
        return of_rows + of_halves + RIDGE / 2 * weights[1] ** 2

    best = minimize(loss, [0.0, 0.0], tol=1e-12).x
    estimate = length_controlled(won, gap, EASY)
    assert estimate.value == pytest.approx(1 / (1 + np.exp(-best[0])), abs=1e-5)
    assert estimate.low < estimate.value < estimate.high and estimate.n == 60


def test_a_model_that_wins_by_length_alone_is_even_at_equal_length():
    """Mean of 20 samples: a sample's own rate has a standard error of 0.04."""
    plain, controlled = [], []
    for seed in range(20):
        won, gap = simulated(np.random.default_rng(seed), 400, 0.0, 4.0)
        longer = gap > np.quantile(gap, 0.3)  # it is mostly the longer one, so it mostly wins
        plain.append(won[longer].mean())
        controlled.append(length_controlled(won[longer], gap[longer], Intervals(0.95, 100)).value)
    assert np.mean(plain) > 0.65
    assert np.mean(controlled) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_a_model_that_always_wins_or_loses_has_a_finite_rate_near_it(always):
    gap = np.linspace(-1, 1, 40)
    estimate = length_controlled(np.full(40, always), gap, EASY)
    assert abs(estimate.value - always) < 1 / 40
    assert 0 <= estimate.low <= estimate.high <= 1


def test_wins_that_follow_length_without_exception_converge():
    gap = np.linspace(-1, 1, 40)
    estimate = length_controlled((gap > 0).astype(float), gap, EASY)
    assert estimate.value == pytest.approx(0.5, abs=1e-6)


def test_without_a_difference_of_lengths_it_is_the_win_rate_drawn_to_a_half_by_one_prompt():
    won = np.array([1.0] * 30 + [0.0] * 10)
    estimate = length_controlled(won, gaps(np.ones((40, 2)), np.ones((40, 2))), EASY)
    assert estimate.value == pytest.approx((30 + 0.5) / 41)


def test_prompts_that_were_not_compared_do_not_count():
    won, gap = simulated(np.random.default_rng(0), 50, 0.3, 1.0)
    more = length_controlled(np.append(won, np.nan), np.append(gap, 1.0), EASY)
    assert more == length_controlled(won, gap, EASY)
    assert length_controlled(np.array([np.nan]), np.array([0.0]), EASY).value is None


@pytest.mark.parametrize(("count", "intercept", "slope"), [(40, 0.0, 2.0), (40, 1.0, -1.0), (60, 0.0, 4.0)])
def test_the_interval_covers_the_truth(count, intercept, slope):
    """Of 300 samples, at least 92 % of intervals of 95 % (4 standard errors below 0.95 is 90 %)."""
    random = np.random.default_rng(11)
    truth = 1 / (1 + np.exp(-intercept))
    covered = 0
    for trial in range(300):
        estimate = length_controlled(*simulated(random, count, intercept, slope), Intervals(0.95, 200, trial))
        covered += estimate.low <= truth <= estimate.high
    assert covered / 300 >= 0.92


def test_histograms_have_common_bins_and_count_every_score():
    random = np.random.default_rng(0)
    scores = {"sft": random.normal(0, 1, (50, 2)), "ppo": random.normal(3, 1, (50, 2))}
    scores["ppo"][0, 0] = np.nan
    (metric,) = distributions({"cost.harm": scores}, "sft").values()
    assert sum(metric["counts"]["sft"]) == 100 and sum(metric["counts"]["ppo"]) == 99
    assert len(metric["edges"]) == len(metric["counts"]["sft"]) + 1
    assert metric["edges"][0] == min(np.nanmin(values) for values in scores.values())
    assert 0 < metric["overlap"]["ppo"] < 0.35  # two normals 3 apart share 2 (1 - Phi(1.5)) = 0.13


def test_equal_scores_overlap_whole_and_a_judge_without_scores_has_no_histogram():
    scores = {"sft": np.full((4, 1), 2.0), "ppo": np.full((4, 1), 2.0)}
    nothing = {name: np.full((4, 1), np.nan) for name in scores}
    drawn = distributions({"reward.a": scores, "cost.b": nothing}, "sft")
    assert list(drawn) == ["reward.a"] and drawn["reward.a"]["overlap"] == {"ppo": 1.0}
    one_sided = distributions({"reward.a": {"sft": scores["sft"], "ppo": nothing["ppo"]}}, "sft")
    assert one_sided["reward.a"]["overlap"] == {"ppo": None}
