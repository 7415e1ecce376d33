"""How well scores tell rows that have a label from rows that have not. Pure numpy; ties count as ties.

Every measure takes weights of the rows, many sets at once, so that a bootstrap resample of prompts is a set of weights.
NaN where a side has no weight: nothing was measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Tiers(NamedTuple):
    """Rows grouped by equal score, the lowest first."""

    scores: Floats
    """[G] each group's score."""
    positives: Floats
    """[R, G] weight of the group's rows that have the label."""
    negatives: Floats
    """[R, G] weight of those that have not."""


def tiers(scores: Floats, labels: Bools, weights: Floats) -> Tiers:
    """Group rows by score.

    Args:
        scores: [N], at least one.
        labels: [N] whether a row has the label.
        weights: [R, N] sets of weights, all at least 0.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    with_label = np.where(labels[order], weights[:, order], 0.0)
    positives = np.add.reduceat(with_label, starts, axis=1)
    return Tiers(ordered[starts], positives, np.add.reduceat(weights[:, order] - with_label, starts, axis=1))


def auroc(groups: Tiers) -> Floats:
    """[R] probability that a row with the label scores higher than one without, ties half (Mann and Whitney 1947)."""
    below = np.cumsum(groups.negatives, axis=1) - groups.negatives
    wins = (groups.positives * (below + groups.negatives / 2)).sum(1)
    return _ratio(wins, groups.positives.sum(1) * groups.negatives.sum(1))


def average_precision(groups: Tiers) -> Floats:
    """[R] sum over scores, from the highest, of the recall gained there times the precision down to there."""
    positives, negatives = _down_to(groups.positives), _down_to(groups.negatives)
    total = positives + negatives
    precision = np.divide(positives, total, out=np.zeros_like(total), where=total > 0)
    value = _ratio((groups.positives * precision).sum(1), groups.positives.sum(1))
    value[groups.negatives.sum(1) == 0] = np.nan
    return value


def best_f1(groups: Tiers) -> float:
    """The threshold of the best F1 under the first set of weights: halfway to the next lower score, of the lowest to 0.

    Of several with the same F1 the lowest.
    """
    positives, negatives = _down_to(groups.positives)[0], _down_to(groups.negatives)[0]
    f1 = 2 * positives / (positives + negatives + groups.positives[0].sum())
    best = int(f1.argmax())
    lower = float(groups.scores[best - 1]) if best else 0.0
    return (lower + float(groups.scores[best])) / 2


class Decisions(NamedTuple):
    """Weights of rows by label and decision, [R] each."""

    true_positives: Floats
    false_positives: Floats
    true_negatives: Floats
    false_negatives: Floats

    @property
    def f1(self) -> Floats:
        """[R] harmonic mean of precision and recall; NaN where no row has the label."""
        both = 2 * self.true_positives
        value = _ratio(both, both + self.false_positives + self.false_negatives)
        value[self.true_positives + self.false_negatives == 0] = np.nan
        return value

    @property
    def balanced_accuracy(self) -> Floats:
        """[R] mean of the shares decided right of rows with the label and of rows without it."""
        recall = _ratio(self.true_positives, self.true_positives + self.false_negatives)
        return (recall + _ratio(self.true_negatives, self.true_negatives + self.false_positives)) / 2


def decisions(decided: Bools, labels: Bools, weights: Floats) -> Decisions:
    """Count decisions.

    Args:
        decided: [N] whether a row is said to have the label.
        labels: [N] whether it has.
        weights: [R, N].
    """
    cells = (decided & labels, decided & ~labels, ~decided & ~labels, ~decided & labels)
    return Decisions(*(weights @ cell.astype(np.float64) for cell in cells))


def _down_to(weights: Floats) -> Floats:
    """[R, G] sums over a group and all that score higher."""
    sums: Floats = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    return sums


def _ratio(numerators: Floats, denominators: Floats) -> Floats:
    return np.divide(numerators, denominators, out=np.full_like(numerators, np.nan), where=denominators > 0)
