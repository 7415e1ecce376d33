"""Calibration of a model's own choices: errors worked out by hand, intervals that do not claim what chance gives."""

import math

import numpy as np
import pytest

from rlhf_trainer.evaluation.own_choices import own_choice
from rlhf_trainer.statistics.intervals import Intervals, decide
from rlhf_trainer.statistics.own_confidence import calibration, calibration_difference, expected_by_chance

QUICK = Intervals(resamples=400)


def test_confidence_is_the_choices_share_of_the_options():
    row = own_choice([math.log(0.02), math.log(0.06), math.log(0.02)], 1.0)
    assert row == {"confidence": pytest.approx(0.6), "right": 1.0}
    assert own_choice([-2000.0, -2001.0], 0.0)["confidence"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_the_error_is_the_mean_gap_of_bins():
    confidence = np.array([0.95] * 4 + [0.65] * 4)
    right = np.array([1.0, 1, 0, 0, 1, 1, 1, 0])
    estimate = calibration(confidence, right, QUICK)
    assert estimate.value == pytest.approx(0.5 * abs(0.5 - 0.95) + 0.5 * abs(0.75 - 0.65))
    assert estimate.low <= estimate.value <= estimate.high and estimate.n == 8


def test_rows_without_a_value_are_left_out():
    assert calibration(np.array([math.nan, 0.9]), np.array([1.0, 1.0]), QUICK).n == 1
    assert calibration(np.array([]), np.array([]), QUICK).value is None


def sample(count, seed, boldness):
    """Right with probability p, and as sure as p is when its log-odds are raised."""
    random = np.random.default_rng(seed)
    odds = random.normal(0.3, 1.2, count)
    right = (random.random(count) < 1 / (1 + np.exp(-odds))).astype(float)
    return 1 / (1 + np.exp(-(odds + boldness))), right


def test_a_calibrated_model_shows_an_error_by_chance_and_the_interval_says_so():
    confidence, right = sample(200, 0, 0.0)
    estimate = calibration(confidence, right, QUICK)
    assert estimate.value > 0.02 and estimate.low == 0.0
    errors = []
    for seed in range(300):  # expected_by_chance by other numbers: new outcomes of the same confidences
        drawn = np.random.default_rng(seed).random(200) < confidence
        bins = (confidence * 10).astype(int)
        errors.append(sum(abs((drawn - confidence)[bins == number].sum()) for number in range(10)) / 200)
    assert expected_by_chance(confidence, QUICK) == pytest.approx(np.mean(errors), abs=0.005)


def test_a_model_that_is_too_sure_is_shown_to_be():
    estimate = calibration(*sample(400, 0, 1.5), QUICK)
    assert estimate.low > 0.15


def test_differences_are_shown_where_one_is_too_sure_and_not_where_both_are_alike():
    first, bold = sample(400, 0, 0.0), sample(400, 0, 1.5)
    difference = calibration_difference(bold, first, QUICK)
    assert difference.value == pytest.approx(calibration(*bold, QUICK).value - calibration(*first, QUICK).value)
    assert decide(difference) == "higher" and decide(calibration_difference(first, bold, QUICK)) == "lower"
    claims = [decide(calibration_difference(sample(200, s, 0.5), sample(200, s + 50, 0.5), QUICK)) for s in range(40)]
    assert claims.count("shows nothing") >= 38


def test_the_same_rows_are_compared():
    ours = (np.array([0.9, 0.9, math.nan] * 8), np.ones(24))
    theirs = (np.array([0.9, 0.6, 0.6] * 8), np.ones(24))
    difference = calibration_difference(ours, theirs, QUICK)
    assert difference.n == 16
    assert difference.value == pytest.approx(0.1 - (0.1 + 0.4) / 2)
