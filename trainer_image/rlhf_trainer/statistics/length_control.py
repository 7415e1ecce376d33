"""Win rates at equal length: judges prefer longer answers, so a model may win by length alone.

After Dubois et al. 2024 ("Length-Controlled AlpacaEval", arXiv 2404.04475): a logistic model of a win with the difference
of the lengths as a term; the win rate is its value where that term is 0. Their further term, how hard a prompt is, needs
answers of many models to it, and is left out here.
"""

from __future__ import annotations

import math

import numpy as np

from rlhf_trainer.statistics.intervals import NOTHING, Estimate, Floats, Intervals, draws, student_quantile

STEPS = 20
"""Newton's, from 0: enough for the last digits of a penalised logistic model of two terms."""
HALF_WIN = 0.5
"""Weight, in prompts, of the win and of the loss at equal length that are added: without them the coefficient of a model
that always wins has no finite value. It moves the rate towards 1/2 by less than 1 / n."""
RIDGE = 0.1
"""Of the length's coefficient, for the same reason where wins and lengths go together without exception."""


def gaps(ours: Floats, theirs: Floats) -> Floats:
    """[P] how much longer ours are than theirs, between -1 and 1: tanh of the mean difference over its spread.

    Args:
        ours: [P, S] lengths of answers, in any unit that both have.
        theirs: [P, S].
    """
    differences: Floats = ours.mean(axis=1) - theirs.mean(axis=1)
    spread = float(differences.std())
    return np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)


def length_controlled(won: Floats, gap: Floats, intervals: Intervals) -> Estimate:
    """The win rate at equal length, with a bootstrap interval over prompts.

    Args:
        won: [P] share of a prompt's comparisons won, in [0, 1]; NaN: not compared.
        gap: [P] as `gaps` gives it.
        intervals: Coverage, resamples and seed.
    """
    counted = np.isfinite(won) & np.isfinite(gap)
    won, gap = won[counted], gap[counted]
    count = len(won)
    if not count:
        return NOTHING
    value = float(_rates(won[None], gap[None])[0])
    if count == 1:
        return Estimate(value, None, None, 1, "none")
    resampled = np.concatenate(
        [_rates(won[rows], gap[rows]) for rows in draws(count, intervals.resamples, intervals.seed)]
    )
    widened = math.sqrt(count / (count - 1)) * student_quantile(count - 1, 0.5 + intervals.confidence / 2)
    tail = 0.5 * math.erfc(widened / math.sqrt(2))  # as `Intervals` widens its tails
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(min(value, low)), float(max(value, high)), count)


def _rates(won: Floats, gap: Floats) -> Floats:
    """[R] rates at a gap of 0, of R samples of n prompts [R, n]: the penalised maximum likelihood of
    P(win) = sigmoid(a + b gap)."""
    intercept, slope = np.zeros(len(won)), np.zeros(len(won))
    for _ in range(STEPS):
        fitted = _sigmoid(intercept[:, None] + slope[:, None] * gap)
        weight = fitted * (1 - fitted)
        even = _sigmoid(intercept)
        first = (won - fitted).sum(axis=1) + HALF_WIN * (1 - 2 * even)
        second = ((won - fitted) * gap).sum(axis=1) - RIDGE * slope
        aa = weight.sum(axis=1) + 2 * HALF_WIN * even * (1 - even)
        ab = (weight * gap).sum(axis=1)
        bb = (weight * gap**2).sum(axis=1) + RIDGE
        determinant = aa * bb - ab**2
        intercept = intercept + np.clip((bb * first - ab * second) / determinant, -3, 3)
        slope = slope + np.clip((aa * second - ab * first) / determinant, -3, 3)
    return _sigmoid(intercept)


def _sigmoid(value: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * value))
