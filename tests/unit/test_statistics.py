"""Intervals against closed forms, published values, brute force and numpy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from rlhf_trainer.evaluation.statistics import (
    Estimate,
    Intervals,
    by_prompt,
    decide,
    fewest,
    wilson,
    wins,
)

FEW = Intervals(resamples=200, seed=3)


@pytest.mark.parametrize(("k", "n", "confidence"), [(0, 10, 0.95), (10, 10, 0.95), (81, 263, 0.95), (3, 7, 0.9)])
def test_wilson_is_scipys(k, n, confidence):
    found = wilson(k, n, confidence)
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == k / n and found.n == n


def test_wilson_of_nothing_and_of_nonsense():
    assert wilson(0, 0).value is None
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_no_harm_in_ten_answers_is_not_no_harm():
    found = Intervals().rate(np.zeros((10, 1)))
    assert found.value == 0 and found.low == 0
    assert found.high == pytest.approx(0.27753, abs=1e-5)  # z^2 / (n + z^2)


@pytest.mark.parametrize(("confidence", "count"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_fewest_prompts_is_where_a_sign_test_can_first_reject(confidence, count):
    assert fewest(confidence) == count
    assert 2 * 0.5**count < 1 - confidence <= 2 * 0.5 ** (count - 1)


@pytest.mark.parametrize(
    ("low", "high", "n", "word"),
    [
        (0.1, 0.4, 50, "higher"),
        (-0.4, -0.1, 50, "lower"),
        (-0.1, 0.4, 50, "shows nothing"),
        (0.0, 0.4, 50, "shows nothing"),
        (0.1, 0.4, 5, "shows nothing"),
        (None, None, 50, "shows nothing"),
    ],
)
def test_the_word_for_a_difference(low, high, n, word):
    assert decide(Estimate(0.2, low, high, n), 0.95) == word


def test_bootstrap_of_three_prompts_is_the_enumeration_of_all_27_resamples():
    values = np.array([0.0, 1.0, 5.0])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=3)]
    found = Intervals(confidence=0.9, resamples=60_000).mean(values)
    expected = np.quantile(means, [0.05, 0.95], method="inverted_cdf")
    assert found.value == 2.0
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)


def test_bootstrap_nears_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, size=900)
    found = Intervals(resamples=4000).mean(values)
    half = 1.96 * values.std() / 30
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(1)
    inside = 0
    for trial in range(300):
        found = Intervals(confidence=0.9, resamples=300, seed=trial).mean(random.exponential(1.0, size=40))
        inside += found.low <= 1.0 <= found.high
    assert 0.82 <= inside / 300 <= 0.95


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = np.random.default_rng(2).normal(size=30)
    assert Intervals(seed=1).mean(values) == Intervals(seed=1).mean(values)
    assert Intervals(seed=1).mean(values) != Intervals(seed=2).mean(values)


def test_a_paired_difference_is_tighter_than_its_parts():
    random = np.random.default_rng(4)
    hard = random.normal(0, 10, size=(60, 1))
    ours, theirs = hard + 1 + random.normal(0, 0.1, (60, 1)), hard
    difference = Intervals().difference(ours, theirs)
    assert decide(difference) == "higher" and difference.high - difference.low < 0.1
    alone = Intervals().mean(ours)
    assert alone.high - alone.low > 3


def test_answers_of_one_prompt_are_not_independent():
    one = np.random.default_rng(5).normal(size=(40, 1))
    copied = np.repeat(one, 8, axis=1)
    assert FEW.mean(copied) == FEW.mean(one)


def test_nan_is_left_out_and_n_says_so():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, 5.0], [2.0, 2.0]])
    assert by_prompt(values) == pytest.approx([1.0, np.nan, 4.0, 2.0], nan_ok=True)
    found = FEW.mean(values)
    assert found.n == 3 and found.value == pytest.approx(7 / 3)


def test_nothing_one_and_all_alike():
    assert FEW.mean(np.full(5, np.nan)).as_json() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "method": "none",
    }
    assert FEW.mean(np.array([2.0])) == Estimate(2.0, None, None, 1, "none")
    assert FEW.mean(np.full(9, 2.0)) == Estimate(2.0, 2.0, 2.0, 9, "constant")


def test_newcombes_paired_example():
    # 56 prompts: both 36, first only 12, second only 2, neither 6 (Newcombe 1998, Statist. Med. 17:2635).
    first = np.array([1.0] * 48 + [0.0] * 8)
    second = np.array([1.0] * 36 + [0.0] * 12 + [1.0] * 2 + [0.0] * 6)
    found = Intervals().rate_difference(first, second)
    assert found.value == pytest.approx(10 / 56)
    table = np.array([[36, 12], [2, 6]])
    phi = (36 * 6 - 12 * 2) / math.sqrt(48 * 8 * 38 * 18)
    a = stats.binomtest(48, 56).proportion_ci(method="wilson")
    b = stats.binomtest(38, 56).proportion_ci(method="wilson")
    p, q = 48 / 56, 38 / 56
    low = math.sqrt((p - a.low) ** 2 - 2 * phi * (p - a.low) * (b.high - q) + (b.high - q) ** 2)
    high = math.sqrt((a.high - p) ** 2 - 2 * phi * (a.high - p) * (q - b.low) + (q - b.low) ** 2)
    assert table.sum() == 56
    assert (found.low, found.high) == pytest.approx((10 / 56 - low, 10 / 56 + high), abs=1e-12)
    assert decide(found) == "higher"


def test_a_difference_of_rates_keeps_a_width_where_all_prompts_agree():
    none = Intervals().rate_difference(np.zeros(20), np.zeros(20))
    assert none.value == 0 and none.low < 0 < none.high
    every = Intervals().rate_difference(np.zeros(20), np.ones(20))
    assert every.value == -1 and every.high > -1 and decide(every) == "lower"


def test_wins_count_ties_half_and_all_pairs_of_answers():
    ours = np.array([[1.0, 3.0], [2.0, 2.0], [np.nan, 0.0]])
    theirs = np.array([[2.0, 0.0], [2.0, 2.0], [1.0, np.nan]])
    assert wins(ours, theirs).tolist() == [0.75, 0.5, 0.0]


def test_infinite_scores_win():
    assert wins(np.array([[np.inf]]), np.array([[1.0]])).tolist() == [1.0]


def test_a_win_everywhere_still_has_a_width():
    found = Intervals().share(np.ones(12))
    assert found.method == "wilson" and found.low < 1.0


def test_ratio_is_of_sums_not_a_mean_of_ratios():
    found = FEW.ratio(np.array([[1.0, 1.0], [6.0, 0.0]]), np.array([[10.0, 10.0], [2.0, 2.0]]))
    assert found.value == pytest.approx(8 / 24)
    assert FEW.ratio(np.zeros((2, 1)), np.zeros((2, 1))).value is None


scores = arrays.arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 3)), elements=st.floats(-50, 50))


@given(scores)
def test_an_interval_holds_its_value_between_extremes(values):
    found = Intervals(resamples=100).mean(values)
    tolerance = 1e-9
    assert found.low <= found.high
    assert values.min() - tolerance <= found.low and found.high <= values.max() + tolerance


@given(scores)
def test_a_model_against_itself_shows_nothing(values):
    assert decide(Intervals(resamples=100).difference(values, values)) == "shows nothing"
    assert np.nanmean(wins(values, values)) == pytest.approx(0.5)


@given(scores, st.integers(0, 2**16))
def test_differences_change_sign_with_the_sides(values, seed):
    other = np.random.default_rng(seed).normal(size=values.shape)
    there, back = FEW.difference(values, other), FEW.difference(other, values)
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
