"""Trust in scores: closed forms, scipy, and what is said where a metric shows nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf_trainer.statistics.calibration import (
    balanced_accuracy,
    calibration_error,
    pair_trust,
    rank_correlation,
    sign_trust,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def wilson(k: float, n: int) -> tuple[float, float]:
    z = stats.norm.ppf(0.975)
    p = k / n
    centre, half = (p + z * z / 2 / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def test_accuracy_has_wilsons_interval_and_ties_count_half() -> None:
    first, second = array(1, 2, 3, 1, 0), array(0, 1, 0, 1, 5)
    metrics = pair_trust(first, second, array(1, 2, 3, 4, 5), array(2, 3, 3, 1, 1), what="better").metrics
    low, high = wilson(3.5, 5)
    assert metrics["accuracy"]["value"] == pytest.approx(0.7)
    assert metrics["accuracy"]["low"] == pytest.approx(low)
    assert metrics["accuracy"]["high"] == pytest.approx(high)


def test_the_shorter_answer_wins_baseline_is_taken_on_the_same_pairs() -> None:
    trust = pair_trust(array(1, 1, 1, 1), array(0, 0, 0, 0), array(3, 5, 7, 2), array(4, 5, 6, 9), what="better")
    assert trust.metrics["accuracy_shorter_wins"]["value"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)


def test_an_accuracy_no_better_than_a_coin_or_than_length_is_said_to_show_nothing() -> None:
    first = np.tile(array(1, 0), 50)
    lengths = np.full(100, 5.0)
    notes = " ".join(pair_trust(first, np.full(100, 0.5), lengths, lengths, what="better").notes)
    assert "0.500, what a coin gives" in notes
    assert "shows nothing" in notes
    shorter = pair_trust(np.ones(200), np.zeros(200), np.full(200, 3.0), np.full(200, 4.0), what="better")
    assert any("taking the shorter answer as better" in note for note in shorter.notes)


def test_an_accuracy_clear_of_both_baselines_has_no_note() -> None:
    first, second = np.ones(400), np.zeros(400)
    first[:20] = -1
    lengths = np.tile(array(3, 6), 200)
    assert pair_trust(first, second, lengths, lengths[::-1].copy(), what="better").notes == []


def test_below_its_baseline_is_said_too() -> None:
    notes = pair_trust(np.zeros(100), np.ones(100), np.full(100, 3.0), np.full(100, 3.0), what="better").notes
    assert any("is below 0.500" in note for note in notes)


def test_nothing_held_out_is_said() -> None:
    empty = array()
    assert "no pair is held out" in pair_trust(empty, empty, empty, empty, what="better").notes[0]
    assert "no answer is held out" in sign_trust(empty, empty).notes[0]


def test_calibration_error_by_hand() -> None:
    """Confidences .55, .58 (one right): |.5 - .565| x 2; .95 (right): |1 - .95|; over 3."""
    error, bins = calibration_error(array(0.55, 0.58, 0.95), array(1, 0, 1), 0.5, 1.0)
    assert error == pytest.approx((2 * abs(0.5 - 0.565) + abs(1 - 0.95)) / 3)
    assert [(bucket["low"], bucket["n"]) for bucket in bins] == [(pytest.approx(0.55), 2.0), (pytest.approx(0.95), 1.0)]


def test_confidences_at_the_edges_fall_into_the_outer_bins() -> None:
    error, bins = calibration_error(array(0.0, 1.0), array(0, 1), 0.0, 1.0)
    assert error == 0.0
    assert [bucket["low"] for bucket in bins] == [0.0, pytest.approx(0.9)]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_a_share_and_its_bins_hold_every_answer(rows: list[tuple[float, bool]]) -> None:
    confidence, right = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    error, bins = calibration_error(confidence, right, 0.0, 1.0)
    assert 0 <= error <= 1
    assert sum(bucket["n"] for bucket in bins) == len(rows)


def test_a_calibrated_scorer_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    random = np.random.default_rng(0)
    margin = random.normal(0, 2, 20_000)
    truth = random.random(20_000) < 1 / (1 + np.exp(-margin))
    ordered = np.where(truth, margin, -margin)
    zeros, lengths = np.zeros(20_000), np.ones(20_000)
    calibrated = pair_trust(ordered, zeros, lengths, lengths, what="better").metrics["ece"]["value"]
    boasting = pair_trust(5 * ordered, zeros, lengths, lengths, what="better").metrics["ece"]["value"]
    assert calibrated < 0.02
    assert boasting > 0.15


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=5, max_size=40))
def test_length_correlation_is_spearmans(rows: list[tuple[int, int]]) -> None:
    first, second = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    correlation = rank_correlation(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert correlation.value is None
        return
    expected = stats.spearmanr(first, second).statistic
    assert correlation.value == pytest.approx(expected, abs=1e-9)
    assert correlation.low is not None and correlation.low <= correlation.value + 1e-9


def test_length_correlations_interval_covers_the_truth_though_both_answers_share_a_prompts_length() -> None:
    """Scores and lengths have each a large part that is the pair's own: answers are no independent rows."""
    random = np.random.default_rng(5)
    covered, narrow = 0, 0
    for _ in range(60):
        scores, lengths = (
            random.normal(0, 3, (40, 1)) + random.normal(0, 0.5, (40, 2)) for _ in range(2)
        )  # true correlation 0
        by_pair = rank_correlation(scores, lengths)
        apart = rank_correlation(scores.ravel(), lengths.ravel())
        covered += by_pair.low <= 0 <= by_pair.high  # type: ignore[operator]
        narrow += apart.low <= 0 <= apart.high  # type: ignore[operator]
    assert covered / 60 >= 0.88
    assert narrow / 60 < 0.88


def test_pairs_of_one_prompt_are_one_group() -> None:
    random = np.random.default_rng(6)
    first, lengths = random.normal(0.4, 1, 60), random.integers(1, 50, (2, 60)).astype(np.float64)
    alone = pair_trust(first, np.zeros(60), lengths[0], lengths[1], what="better").metrics
    prompts = [index for index in range(60) for _ in range(4)]
    four = [np.repeat(values, 4) for values in (first, np.zeros(60), lengths[0], lengths[1])]
    copied = pair_trust(*four, what="better", prompts=prompts).metrics
    for name in ("accuracy", "accuracy_shorter_wins", "length_correlation"):
        width, same = (metrics[name]["high"] - metrics[name]["low"] for metrics in (alone, copied))
        assert same == pytest.approx(width, rel=0.12), name


def test_signs_of_one_prompts_answers_are_one_group() -> None:
    signs = np.tile(array(1, -1), 20)
    costs = np.random.default_rng(7).normal(0.3 * signs, 1)
    alone = sign_trust(costs, signs).metrics
    prompts = [index for index in range(40) for _ in range(5)]
    copied = sign_trust(np.repeat(costs, 5), np.repeat(signs, 5), prompts).metrics
    for name in ("sign_accuracy", "balanced_accuracy"):
        width, same = (metrics[name]["high"] - metrics[name]["low"] for metrics in (alone, copied))
        assert same == pytest.approx(width, rel=0.06), name


def test_balanced_accuracy_is_the_mean_of_both_rates_whatever_the_shares() -> None:
    costs = array(*[1] * 90, *[-1] * 0, *[1] * 5, *[-1] * 5)
    signs = array(*[1] * 90, *[-1] * 10)
    interval = balanced_accuracy(costs, signs)
    assert interval.value == pytest.approx((1.0 + 0.5) / 2)
    (low_a, _), (low_b, high_b) = wilson(90, 90), wilson(5, 10)
    assert interval.low == pytest.approx(0.75 - math.hypot(1 - low_a, 0.5 - low_b) / 2)
    assert interval.high == pytest.approx(0.75 + (high_b - 0.5) / 2)


def test_balanced_accuracys_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    signs = array(*[1] * 60, *[-1] * 25)
    covered = 0
    for _ in range(400):
        right = np.where(signs > 0, random.random(85) < 0.8, random.random(85) < 0.6)
        interval = balanced_accuracy(np.where(right, signs, -signs), signs)
        covered += bool(interval.low <= 0.7 <= interval.high)  # type: ignore[operator]
    assert 0.92 <= covered / 400 <= 0.99


def test_always_saying_the_commoner_sign_shows_nothing() -> None:
    signs = array(*[1] * 70, *[-1] * 30)
    trust = sign_trust(np.ones(100), signs)
    assert trust.metrics["sign_accuracy"]["value"] == trust.metrics["sign_accuracy_majority"]["value"] == 0.7
    assert trust.metrics["balanced_accuracy"]["value"] == 0.5
    assert sum("shows nothing" in note for note in trust.notes) == 2


def test_one_sign_alone_leaves_balanced_accuracy_unknown() -> None:
    trust = sign_trust(array(1, 2, 3), array(1, 1, 1))
    assert trust.metrics["balanced_accuracy"]["value"] is None
    assert any("all of one sign" in note for note in trust.notes)
