"""Pairs whose label a model that never saw them doubts: suspects among preference data, and what the list is worth.

A linear preference head (Bradley-Terry on differences of fixed features) is fitted on all folds but one and judges that
one, so that no pair speaks for itself. Labels that people disagree about and labels that are wrong look alike here: how many
are wrong is not identified. What is measured is how many of labels flipped on purpose the list finds. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.statistics.calibration import group_numbers
from rlhf_trainer.statistics.intervals import Estimate, Intervals

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

FOLDS = 5
PENALTY = 1e-2
"""Weight of |w|^2 / 2 beside the mean loss; features are scaled to a root mean square of 1 before."""
STEPS = 50
"""Most Newton steps; about eight are enough."""
SETTLED = 1e-10
"""Size of the gradient at which a fit ends."""


def fit_head(differences: Floats, penalty: float = PENALTY) -> Floats:
    """Weights [D] of the least mean log(1 + exp(-x.w)) + penalty |w|^2 / 2, by Newton's method with halved steps.

    Args:
        differences: [N, D] features of the answer labelled better less those of the other.
        penalty: Above 0, so that the minimum is one point.
    """
    count, width = differences.shape
    weights = np.zeros(width)
    for _ in range(STEPS):
        doubt = _doubt(differences @ weights)
        gradient = penalty * weights - differences.T @ doubt / count
        if np.linalg.norm(gradient) < SETTLED:
            break
        curvature = (differences * (doubt * (1 - doubt))[:, None]).T @ differences / count
        step = np.linalg.solve(curvature + penalty * np.eye(width), gradient)
        size, loss = 1.0, _loss(differences, weights, penalty)
        while size > 1e-6 and _loss(differences, weights - size * step, penalty) > loss:
            size /= 2
        weights = weights - size * step
    return weights


def out_of_fold_margins(
    differences: Floats,
    groups: Sequence[Hashable] | None = None,
    folds: int = FOLDS,
    penalty: float = PENALTY,
    seed: int = 0,
) -> Floats:
    """Log-odds [N] of each pair's label by a head that was fitted without the pair's fold.

    Args:
        differences: [N, D] features of the answer labelled better less those of the other.
        groups: [N] what each pair answers: pairs of one prompt are in one fold. None: each another.
        folds: Number of folds, at least 2.
        penalty: Of `fit_head`.
        seed: Of the folds.

    Raises:
        ValueError: fewer groups than folds.
    """
    numbers = np.arange(len(differences)) if groups is None else group_numbers(groups)
    distinct = int(numbers.max()) + 1 if len(numbers) else 0
    if distinct < folds:
        raise ValueError(f"found {distinct} groups; expected at least one for each of {folds} folds")
    fold_of_group = np.random.default_rng([seed, distinct, folds]).permutation(distinct) % folds
    fold = fold_of_group[numbers]
    scaled = differences / np.maximum(np.sqrt((differences**2).mean(axis=0)), 1e-12)
    margins = np.empty(len(differences))
    for number in range(folds):
        inside = fold == number
        margins[inside] = scaled[inside] @ fit_head(scaled[~inside], penalty)
    return margins


def suspects(margins: Floats, count: int) -> Numbers:
    """Rows of the `count` lowest margins, lowest first; ties by their number."""
    order: Numbers = np.argsort(margins, kind="stable")[:count]
    return order


@dataclass(frozen=True)
class Worth:
    """What a list of suspects finds of labels that were flipped on purpose."""

    share: float
    """Of labels flipped, which is what drawing rows by chance would find."""
    precision: Estimate
    """Share of flipped rows among as many suspects as were flipped; with as many, it is the recall too."""
    lift: Estimate
    """`precision` less `share`."""
    accuracy: Estimate
    """Share of pairs, before any flip, whose label the out-of-fold head agrees with."""


def worth(
    differences: Floats,
    groups: Sequence[Hashable] | None = None,
    share: float = 0.05,
    trials: int = 20,
    penalty: float = PENALTY,
    intervals: Intervals | None = None,
) -> Worth:
    """Flip labels at random, fit again, and count how many of the flipped rows are the most suspect ones.

    The intervals of `precision` and `lift` are over trials: they hold for other flips in the same data, not for other
    data. Labels that were wrong before count as false alarms, so the precision for all wrong labels is higher.

    Args:
        differences: As of `out_of_fold_margins`, whose labels count as right.
        groups: What each pair answers.
        share: Of rows to flip.
        trials: How often; each by its own seed.
        penalty: Of `fit_head`.
        intervals: How the intervals are made.
    """
    intervals = intervals or Intervals()
    count = len(differences)
    flips = max(1, round(share * count))
    precisions = []
    for trial in range(trials):
        flipped = np.random.default_rng([intervals.seed, trial, count]).choice(count, size=flips, replace=False)
        noisy = differences.copy()
        noisy[flipped] *= -1
        listed = suspects(out_of_fold_margins(noisy, groups, penalty=penalty, seed=trial), flips)
        precisions.append(len(np.intersect1d(listed, flipped)) / flips)
    by_trial = np.array(precisions)
    margins = out_of_fold_margins(differences, groups, penalty=penalty, seed=intervals.seed)
    return Worth(
        flips / count,
        intervals.mean(by_trial, (0.0, 1.0)),
        intervals.mean(by_trial - flips / count),
        intervals.rate(0.5 + 0.5 * np.sign(margins)),
    )


def _loss(differences: Floats, weights: Floats, penalty: float) -> float:
    return float(np.logaddexp(0.0, -(differences @ weights)).mean() + penalty * (weights @ weights) / 2)


def _doubt(margins: Floats) -> Floats:
    """1 - sigmoid(margin): probability that the label is the other way round."""
    doubts: Floats = np.exp(-np.logaddexp(0.0, margins))
    return doubts
