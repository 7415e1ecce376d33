"""Intervals against closed forms, published values, brute force and numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from rlhf_trainer.statistics.intervals import (
    Estimate,
    Intervals,
    by_prompt,
    clustered,
    decide,
    fewest,
    inconclusive,
    wilson,
    wins,
)

FEW = Intervals(resamples=200, seed=3)


@pytest.mark.parametrize(("k", "n", "confidence"), [(0, 10, 0.95), (10, 10, 0.95), (81, 263, 0.95), (3, 7, 0.9)])
def test_wilson_is_scipys(k, n, confidence):
    interval = wilson(k, n, confidence)
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert interval.value == k / n and interval.n == n


def test_wilson_of_nothing_and_of_nonsense():
    assert wilson(0, 0).value is None
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_no_harm_in_ten_answers_is_not_no_harm():
    interval = Intervals().rate(np.zeros((10, 1)))
    assert interval.value == 0 and interval.low == 0
    assert interval.high == pytest.approx(0.27753, abs=1e-5)  # z^2 / (n + z^2)


@pytest.mark.parametrize(("confidence", "count"), [(0.9, 12), (0.95, 12), (0.99, 12), (0.9999, 15)])
def test_a_direction_needs_twelve_prompts_and_as_many_as_a_sign_test_needs_to_reject(confidence, count):
    assert fewest(confidence) == count
    assert 2 * 0.5**count < 1 - confidence


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


@pytest.mark.parametrize(
    ("low", "high", "n", "why"),
    [
        (0.1, 0.4, 50, None),
        (-0.1, 0.4, 50, "the interval includes 0"),
        (0.1, 0.4, 11, "11 prompts, fewer than 12"),
        (-0.1, 0.4, 11, "11 prompts, fewer than 12"),
        (None, None, 50, "no interval"),
    ],
)
def test_what_shows_nothing_says_why(low, high, n, why):
    assert inconclusive(Estimate(0.2, low, high, n), 0.95) == why


def test_a_win_rate_is_compared_with_one_half():
    even = Estimate(0.52, 0.45, 0.6, 80)
    assert decide(even, 0.95, 0.5) == "shows nothing" and inconclusive(even, 0.95, 0.5) == "the interval includes 0.5"
    assert decide(Estimate(0.3, 0.2, 0.4, 80), 0.95, 0.5) == "lower"


def test_the_interval_is_the_outer_of_the_percentile_and_the_studentised_one():
    values = np.random.default_rng(6).exponential(size=15)
    n, value, scale = 15, values.mean(), values.std(ddof=1) / math.sqrt(15)
    drawn = np.random.default_rng(7).integers(0, n, size=(400_000, n))
    means = values[drawn].mean(axis=1)
    variances = (n * values[drawn].var(axis=1, ddof=1) + 0.25 * values.var(ddof=1)) / (n + 0.25)
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    percentile = np.quantile(means, [tail, 1 - tail])
    ratios = np.quantile((means - value) / np.sqrt(variances / n), [tail, 1 - tail])
    interval = Intervals(resamples=400_000).mean(values)
    assert interval.low == pytest.approx(min(percentile[0], value - ratios[1] * scale), abs=0.01)
    assert interval.high == pytest.approx(max(percentile[1], value - ratios[0] * scale), abs=0.03)


def test_bootstrap_nears_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, size=900)
    interval = Intervals(resamples=4000).mean(values)
    half = 1.96 * values.std() / 30
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


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
    single = np.random.default_rng(5).normal(size=(40, 1))
    copied = np.repeat(single, 8, axis=1)
    assert FEW.mean(copied) == FEW.mean(single)


def test_nan_is_left_out_and_n_says_so():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, 5.0], [2.0, 2.0]])
    assert by_prompt(values) == pytest.approx([1.0, np.nan, 4.0, 2.0], nan_ok=True)
    interval = FEW.mean(values)
    assert interval.n == 3 and interval.value == pytest.approx(7 / 3)


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
    interval = Intervals().rate_difference(first, second)
    assert interval.value == pytest.approx(10 / 56)
    table = np.array([[36, 12], [2, 6]])
    phi = (36 * 6 - 12 * 2 - 56 / 2) / math.sqrt(48 * 8 * 38 * 18)
    a = stats.binomtest(48, 56).proportion_ci(method="wilson")
    b = stats.binomtest(38, 56).proportion_ci(method="wilson")
    p, q = 48 / 56, 38 / 56
    low = math.sqrt((p - a.low) ** 2 - 2 * phi * (p - a.low) * (b.high - q) + (b.high - q) ** 2)
    high = math.sqrt((a.high - p) ** 2 - 2 * phi * (a.high - p) * (q - b.low) + (q - b.low) ** 2)
    assert table.sum() == 56
    assert (interval.low, interval.high) == pytest.approx((10 / 56 - low, 10 / 56 + high), abs=1e-12)
    assert decide(interval) == "higher"


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [  # Newcombe 1998, Statist. Med. 17:2635, table III: method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((1, 97, 1, 1), 0.8737, 0.9850),  # ad < bc: no correction
        ((0, 30, 0, 0), 0.8395, 1.0),
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_newcombes_method_10_by_hand(cells, low, high):
    first = np.repeat([1.0, 1.0, 0.0, 0.0], cells)
    second = np.repeat([1.0, 0.0, 1.0, 0.0], cells)
    interval = Intervals().rate_difference(first, second)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_a_difference_of_rates_keeps_a_width_where_all_prompts_agree():
    none = Intervals().rate_difference(np.zeros(20), np.zeros(20))
    assert none.value == 0 and none.low < 0 < none.high
    every = Intervals().rate_difference(np.zeros(20), np.ones(20))
    assert every.value == -1 and every.high > -1 and decide(every) == "lower"


def test_wins_count_ties_half_and_all_pairs_of_answers():
    ours = np.array([[1.0, 3.0], [2.0, 2.0], [np.nan, 0.0]])
    theirs = np.array([[2.0, 0.0], [2.0, 2.0], [1.0, np.nan]])
    assert wins(ours, theirs).tolist() == [0.75, 0.5, 0.0]


def test_rows_of_one_group_count_as_the_group_where_they_are_copies():
    right = np.random.default_rng(8).integers(0, 2, size=40).astype(np.float64)
    alone, copied = clustered(right, range(40)), clustered(np.repeat(right, 5), np.repeat(np.arange(40), 5).tolist())
    assert alone == wilson(right.sum(), 40)
    assert copied.value == alone.value and copied.n == 200
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.03)


def test_rows_that_differ_within_their_group_keep_their_number():
    interval = clustered(np.tile([1.0, 0.0], 50), np.repeat(np.arange(50), 2).tolist())
    expected = wilson(50, 100)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_groups_that_all_agree_are_counted_as_groups():
    interval = clustered(np.ones(60), np.repeat(np.arange(20), 3).tolist())
    assert (interval.low, interval.high) == (wilson(20, 20).low, 1.0)


def test_infinite_scores_win():
    assert wins(np.array([[np.inf]]), np.array([[1.0]])).tolist() == [1.0]


def test_a_win_everywhere_still_has_a_width():
    interval = Intervals().share(np.ones(12))
    assert interval.method == "wilson" and interval.low < 1.0


def test_ratio_is_of_sums_not_a_mean_of_ratios():
    interval = FEW.ratio(np.array([[1.0, 1.0], [6.0, 0.0]]), np.array([[10.0, 10.0], [2.0, 2.0]]))
    assert interval.value == pytest.approx(8 / 24)
    assert FEW.ratio(np.zeros((2, 1)), np.zeros((2, 1))).value is None


scores = arrays.arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 3)), elements=st.floats(-50, 50))


@given(scores)
def test_an_interval_holds_its_value_and_stays_within_what_it_can_be(values):
    interval = Intervals(resamples=100).mean(values, within=(-50.0, 50.0))
    assert interval.low <= interval.value + 1e-9 and interval.value - 1e-9 <= interval.high
    assert interval.low >= -50 and interval.high <= 50


@given(scores)
def test_a_model_against_itself_shows_nothing(values):
    assert decide(Intervals(resamples=100).difference(values, values)) == "shows nothing"
    assert np.nanmean(wins(values, values)) == pytest.approx(0.5)


@given(scores, st.integers(0, 2**16))
def test_differences_change_sign_with_the_sides(values, seed):
    baseline = np.random.default_rng(seed).normal(size=values.shape)
    forward, back = FEW.difference(values, baseline), FEW.difference(baseline, values)
    assert forward.value == pytest.approx(-back.value)
    assert (forward.low, forward.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
