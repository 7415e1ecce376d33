"""Suspects in preference data: fits against a general minimiser, no pair judged by itself, flips that are found."""

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_trainer.statistics.intervals import Intervals
from rlhf_trainer.statistics.label_noise import fit_head, out_of_fold_margins, suspects, worth


def pairs(count, width, strength, seed=0):
    """Differences of features in the order of labels drawn from a Bradley-Terry model."""
    random = np.random.default_rng(seed)
    differences = random.normal(size=(count, width))
    better = random.random(count) < 1 / (1 + np.exp(-strength * differences @ np.ones(width) / np.sqrt(width)))
    return np.where(better[:, None], differences, -differences)


def test_the_head_is_the_minimum_that_a_general_minimiser_finds():
    differences = pairs(80, 6, 2.0)

    def loss(weights):
        return np.log1p(np.exp(-differences @ weights)).mean() + 0.05 * weights @ weights / 2

    expected = minimize(loss, np.zeros(6), tol=1e-12)
    assert fit_head(differences, 0.05) == pytest.approx(expected.x, abs=1e-5)


def test_separable_pairs_settle_too():
    weights = fit_head(np.array([[1000.0, 0.0], [900.0, 1.0]]), 1e-3)
    assert np.isfinite(weights).all() and weights[0] > 0


def test_no_pair_speaks_for_itself_nor_for_its_prompt():
    differences = pairs(60, 4, 2.0)
    groups = [number // 3 for number in range(60)]
    before = out_of_fold_margins(differences, groups, folds=4)
    changed = differences.copy()
    changed[30] *= -1  # its scale stays, so that only a label changes
    after = out_of_fold_margins(changed, groups, folds=4)
    assert after[30] == pytest.approx(-before[30])
    assert after[[31, 32]] == pytest.approx(before[[31, 32]])
    assert not np.allclose(after, np.where(np.arange(60) == 30, -before, before))


def test_fewer_prompts_than_folds_are_refused():
    with pytest.raises(ValueError, match="found 2 groups"):
        out_of_fold_margins(pairs(8, 2, 1.0), [0, 1] * 4)


def test_suspects_are_the_lowest_margins_first():
    assert suspects(np.array([0.5, -2.0, 1.0, -3.0, -2.0]), 3).tolist() == [3, 1, 4]


def test_flips_are_found_where_the_labels_are_clear_and_not_where_they_are_a_coins():
    clear = worth(pairs(400, 5, 50.0), trials=12)
    assert clear.precision.value > 0.7 and clear.lift.low > 0.5 and clear.accuracy.low > 0.9
    assert clear.share == pytest.approx(0.05)
    coin = worth(pairs(400, 5, 0.0), trials=12, intervals=Intervals(seed=3))
    assert coin.precision.value < 0.15 and coin.accuracy.low < 0.5 < coin.accuracy.high
