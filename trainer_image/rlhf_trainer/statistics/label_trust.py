"""How far a classifier's labels can be trusted on held-out answers, beside what guesses would give. Pure numpy.

The unit is the prompt: intervals are percentiles over bootstrap resamples of whole prompts, with tails widened for small
samples (Hesterberg 2015). Where no resample differs (all told apart, say) the interval is Wilson's, with as many trials as
the scarcer side has prompts: the variance of an AUROC A is at most A (1 - A) over the rows of that side (Birnbaum and Klose 1957).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.statistics.calibration import Trust, calibration_error, group_numbers
from rlhf_trainer.statistics.intervals import (
    FEWEST,
    NOTHING,
    Estimate,
    clustered,
    draws,
    point,
    student_quantile,
    wilson,
)
from rlhf_trainer.statistics.ranking import auroc, average_precision, best_f1, decisions, tiers

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RESAMPLES = 1000
CONFIDENCE = 0.95
FOLDS = 5
"""Parts of the prompts: decisions on one part are by the threshold that the others give."""
MEASURES = ("auroc", "auroc_length", "average_precision", "f1", "balanced_accuracy")
"""What is measured of each label, and its mean over labels, under `macro`."""


@dataclass(frozen=True)
class Thresholds:
    """How probabilities become labels."""

    fixed: float
    """From which an answer has a label; also where the best cannot be chosen."""
    best_f1: bool = False
    """Choose each label's by F1."""

    def choose(self, probabilities: Floats, labels: Bools) -> float:
        """The threshold of one label, [N] rows of which are known."""
        if not self.best_f1 or not _has_both(labels):
            return self.fixed
        return best_f1(tiers(probabilities, labels, np.ones((1, len(labels)))))

    def decide(self, probabilities: Floats, labels: Bools, folds: NDArray[np.int64]) -> Bools:
        """[N] decisions to measure: of each fold by the threshold that the other folds give."""
        decided = probabilities >= self.fixed
        for fold in range(FOLDS) if self.best_f1 else ():
            inside = folds == fold
            decided[inside] = probabilities[inside] >= self.choose(probabilities[~inside], labels[~inside])
        return decided


@dataclass(frozen=True)
class _Label:
    """The held-out rows of which a label is known."""

    name: str
    rows: NDArray[np.int64]
    """[K] which rows of all."""
    labels: Bools
    probabilities: Floats
    decided: Bools
    lengths: Floats

    def measure(self, weights: Floats) -> Floats:
        """[R, MEASURES] of sets of weights of all rows [R, N]; NaN: not measured."""
        if not _has_both(self.labels):
            return np.full((len(weights), len(MEASURES)), np.nan)
        weights = weights[:, self.rows]
        by_score, by_length = (tiers(values, self.labels, weights) for values in (self.probabilities, self.lengths))
        counted = decisions(self.decided, self.labels, weights)
        ranked = (auroc(by_score), auroc(by_length), average_precision(by_score))
        return np.stack([*ranked, counted.f1, counted.balanced_accuracy], axis=1)


def label_trust(
    probabilities: Floats,
    labels: Floats,
    lengths: Floats,
    prompts: Sequence[Hashable],
    names: Sequence[str],
    thresholds: Thresholds,
) -> tuple[Trust, list[float]]:
    """Judge the labels of answers.

    Args:
        probabilities: [N, L].
        labels: [N, L] 1 true, 0 false, NaN not known.
        lengths: [N] tokens of the answers.
        prompts: [N] what each answers: answers to one prompt are not independent.
        names: [L].
        thresholds: How probabilities become labels.

    Returns:
        (by label `label.NAME`: rows, positives and each of MEASURES with its interval, accuracy, ECE, and what guesses
        give: the length alone, always true, the commoner side; their means under `macro`), [L] thresholds.
    """
    trust = Trust()
    numbers = group_numbers(prompts)
    columns = [
        _of_label(name, probabilities[:, index], labels[:, index], lengths, numbers, thresholds)
        for index, name in enumerate(names)
    ]
    chosen = [thresholds.choose(column.probabilities, column.labels) for column in columns]
    if not len(labels):
        trust.notes.append("no answer is held out: how right the labels are is unknown")
        return trust, chosen
    values = np.stack([column.measure(np.ones((1, len(labels))))[0] for column in columns])
    resampled = _resampled(columns, numbers)
    scarcer = [
        min(len(set(numbers[column.rows[column.labels == side]].tolist())) for side in (True, False))
        for column in columns
    ]
    trust.metrics["macro"] = _macro(values, resampled, len(set(numbers.tolist())), scarcer)
    for index, column in enumerate(columns):
        prompts = numbers[column.rows].tolist()
        estimates = {
            measure: _estimate(float(values[index, at]), resampled[:, index, at], len(set(prompts)), scarcer[index])
            for at, measure in enumerate(MEASURES)
        }
        trust.metrics[f"label.{column.name}"] = _described(column, estimates, prompts, chosen[index])
        trust.notes += _notes(column, estimates, len(set(prompts)))
    return trust, chosen


def macro_auroc(probabilities: Floats, labels: Floats) -> float:
    """Mean AUROC over the labels that have both sides among rows [N, L]; NaN where none has."""
    values = []
    for index in range(labels.shape[1]):
        rows = np.flatnonzero(np.isfinite(labels[:, index]))
        truth = labels[rows, index] == 1
        if _has_both(truth):
            values.append(float(auroc(tiers(probabilities[rows, index], truth, np.ones((1, len(rows)))))[0]))
    return float(np.mean(values)) if values else math.nan


def _of_label(
    name: str,
    probabilities: Floats,
    labels: Floats,
    lengths: Floats,
    numbers: NDArray[np.int64],
    thresholds: Thresholds,
) -> _Label:
    rows = np.flatnonzero(np.isfinite(labels))
    truth = labels[rows] == 1
    decided = thresholds.decide(probabilities[rows], truth, numbers[rows] % FOLDS)
    return _Label(name, rows, truth, probabilities[rows], decided, lengths[rows])


def _resampled(columns: Sequence[_Label], numbers: NDArray[np.int64]) -> Floats:
    """[R, L, MEASURES] over resamples of prompts, the same for every label."""
    count = int(numbers.max()) + 1
    chunks = []
    for drawn in draws(count, RESAMPLES, seed=0):
        times = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)
        weights = times[:, numbers]
        chunks.append(np.stack([column.measure(weights) for column in columns], axis=1))
    return np.concatenate(chunks)


def _macro(values: Floats, resampled: Floats, prompts: int, scarcer: Sequence[int]) -> dict[str, Any]:
    """Means over the labels that were measured, and how many these are."""
    measured = np.array([bool(np.isfinite(row).all()) for row in values])
    means: dict[str, Any] = {"labels_measured": int(measured.sum())}
    scarcest = min((count for count, has_both in zip(scarcer, measured.tolist(), strict=True) if has_both), default=0)
    for at, measure in enumerate(MEASURES) if measured.any() else ():
        table = resampled[:, measured, at]
        present = np.isfinite(table)
        mean = np.where(present, table, 0.0).sum(1) / np.maximum(present.sum(1), 1)
        mean[~present.any(1)] = np.nan
        means[measure] = _estimate(float(values[measured, at].mean()), mean, prompts, scarcest).as_json()
    return means


def _estimate(value: float, resampled: Floats, prompts: int, scarcer: int) -> Estimate:
    """A value with the percentile interval of its resamples; `n` counts prompts."""
    if not math.isfinite(value):
        return NOTHING
    finite = resampled[np.isfinite(resampled)]
    if prompts < 2 or not len(finite):
        return Estimate(value, None, None, prompts, "none")
    if np.ptp(finite) == 0:
        interval = wilson(value * scarcer, scarcer, CONFIDENCE)
        return Estimate(value, interval.low, interval.high, prompts, "wilson")
    widened = math.sqrt(prompts / (prompts - 1)) * student_quantile(prompts - 1, 0.5 + CONFIDENCE / 2)
    tail = NormalDist().cdf(-widened)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Estimate(value, min(value, float(low)), max(value, float(high)), prompts)


def _described(
    column: _Label, estimates: dict[str, Estimate], prompts: Sequence[Hashable], threshold: float
) -> dict[str, Any]:
    count, positives = len(column.rows), int(column.labels.sum())
    described: dict[str, Any] = {"rows": count, "positives": positives, "threshold": threshold}
    described |= {measure: estimate.as_json() for measure, estimate in estimates.items()}
    if not count:
        return described
    share = positives / count
    error, _ = calibration_error(column.probabilities, column.labels.astype(np.float64), 0.0, 1.0)
    right = (column.decided == column.labels).astype(np.float64)
    return described | {
        "average_precision_guess": share,
        "f1_always_true": 2 * share / (1 + share),
        "accuracy": clustered(right, prompts, CONFIDENCE).as_json(),
        "accuracy_majority": max(share, 1 - share),
        "ece": point(error, count).as_json(),
    }


def _notes(column: _Label, estimates: dict[str, Estimate], prompts: int) -> list[str]:
    label = f"label {column.name}"
    if not len(column.rows):
        return [f"{label}: no held-out answer tells of it; nothing is measured"]
    if not _has_both(column.labels):
        side = "have" if column.labels.all() else "lack"
        return [f"{label}: all {len(column.rows)} held-out answers {side} it; nothing is measured but its accuracy"]
    if prompts < FEWEST:
        return [f"{label}: {prompts} held-out prompts, fewer than {FEWEST}; its numbers show nothing"]
    by_length = estimates["auroc_length"].value
    by_length = 0.5 if by_length is None else by_length
    guesses = (("guessing", 0.5), ("the answer's length alone", max(by_length, 1 - by_length)))
    return [
        f"{label}: AUROC {_words(estimates['auroc'])} is not above {value:.3f}, what {guess} gives: it shows nothing"
        for guess, value in guesses
        if (estimates["auroc"].low or 0.0) <= value
    ]


def _words(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _has_both(labels: Bools) -> bool:
    return bool(labels.any()) and not bool(labels.all())
