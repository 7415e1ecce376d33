"""Expected calibration error of a model's own choices with an interval, and its difference to another model's. Pure.

The plain estimate is never 0 and rises with fewer rows: also a perfectly calibrated model shows some by chance. So the
interval reaches down to 0 where chance explains the estimate (consistency resampling: Broecker and Smith 2007), and what
chance gives is stated beside it. How often these intervals cover: benchmarks/results/own_confidence.md.
"""

from __future__ import annotations

import math

import numpy as np

from rlhf_trainer.statistics.calibration import BINS
from rlhf_trainer.statistics.intervals import NOTHING, Estimate, Floats, Intervals, draws

_CHUNK = 2_000_000
"""Entries of a resample held at once."""


def calibration(confidence: Floats, right: Floats, intervals: Intervals) -> Estimate:
    """Expected calibration error over bins of equal width, with its interval over rows.

    Args:
        confidence: [N] in [0, 1]; NaN: not counted.
        right: [N] 1 or 0.
        intervals: Coverage, resamples and seed.

    Returns:
        As `calibration_error`, between the outer ends of two bootstrap intervals over rows; the lower end is 0 where a
        perfectly calibrated model of these confidences shows as much in more than half of (1 - coverage) of resamples.
    """
    counted = np.isfinite(confidence) & np.isfinite(right)
    confidence, right = confidence[counted], right[counted]
    if not len(confidence):
        return NOTHING
    estimate = intervals.of_means(_gaps(confidence, right), _sum_of_sizes, (0.0, 1.0))
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return estimate
    by_chance = np.quantile(_by_chance(confidence, intervals), 0.5 + intervals.confidence / 2)
    low = 0.0 if estimate.value <= by_chance else estimate.low
    return Estimate(estimate.value, low, estimate.high, estimate.n)


def calibration_difference(
    ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats], intervals: Intervals
) -> Estimate:
    """Difference of two models' errors on the same rows: their intervals joined (MOVER, Zou and Donner 2008), with the
    correlation of the two errors over bootstrap resamples of rows. Where chance explains one of the errors, its
    interval is no sampling error alone, and no correlation narrows the result.

    Args:
        ours: ([N] confidence, [N] right).
        theirs: The baseline's, row by row.
        intervals: Coverage, resamples and seed.
    """
    counted = np.isfinite(np.stack([*ours, *theirs])).all(axis=0)
    sides = [(confidence[counted], right[counted]) for confidence, right in (ours, theirs)]
    first, second = (calibration(*side, intervals) for side in sides)
    if first.value is None or second.value is None:
        return NOTHING
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(value, None, None, first.n, "none")
    explained = 0.0 in (first.low, second.low)
    correlation = 0.0 if explained else _correlation(_gaps(*sides[0]), _gaps(*sides[1]), intervals)
    below = _joined(first.value - first.low, second.high - second.value, correlation)
    above = _joined(first.high - first.value, second.value - second.low, correlation)
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above), first.n)


def expected_by_chance(confidence: Floats, intervals: Intervals) -> float | None:
    """Mean error that a perfectly calibrated model of these confidences shows; None without rows."""
    finite = confidence[np.isfinite(confidence)]
    return float(_by_chance(finite, intervals).mean()) if len(finite) else None


def _gaps(confidence: Floats, right: Floats) -> Floats:
    """[N, BINS] right - confidence in the column of the row's bin, else 0: the error is the sum of the means' sizes."""
    return _one_hot(confidence) * (right - confidence)[:, None]


def _one_hot(confidence: Floats) -> Floats:
    edges = np.linspace(0.0, 1.0, BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)
    columns: Floats = np.eye(BINS)[bins]
    return columns


def _sum_of_sizes(means: Floats) -> tuple[Floats, Floats]:
    return np.abs(means).sum(axis=1), np.sign(means)


def _by_chance(confidence: Floats, intervals: Intervals) -> Floats:
    """[R] errors where each row is right with the probability that the model says."""
    count = len(confidence)
    random = np.random.default_rng([intervals.seed, count, BINS])
    bins = _one_hot(confidence) / count
    size = max(1, _CHUNK // count)
    errors = []
    for start in range(0, intervals.resamples, size):
        right = random.random((min(size, intervals.resamples - start), count)) < confidence
        errors.append(np.abs((right - confidence) @ bins).sum(axis=1))
    return np.concatenate(errors)


def _correlation(ours: Floats, theirs: Floats, intervals: Intervals) -> float:
    """Of the two errors over resamples of rows; 0 where one does not vary."""
    errors = []
    for drawn in draws(len(ours), intervals.resamples, intervals.seed):
        errors.append([np.abs(side[drawn].mean(axis=1)).sum(axis=1) for side in (ours, theirs)])
    first, second = np.concatenate(errors, axis=1)
    if not (first.std() > 0 and second.std() > 0):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _joined(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(0.0, first * first - 2 * correlation * first * second + second * second))
