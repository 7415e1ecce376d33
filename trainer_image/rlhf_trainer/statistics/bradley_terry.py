"""Strengths of models from who was preferred to whom: the model of Bradley and Terry (1952), fitted to all pairs at once.

P(i preferred to j) = 1 / (1 + exp(s_j - s_i)); strengths are in nats, one model's is 0. Elo's scale is 400 / ln 10 of
that. The maximum of the likelihood exists where the graph of wins is strongly connected (Ford 1957); a tie is half a
win of each. Pure; the unit of the intervals is the prompt.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.statistics.intervals import NOTHING, Estimate, Floats, Intervals, draws, student_quantile

ELO = 400 / math.log(10)
"""Points of Elo's scale a nat: 400 points are odds of ten to one."""
_STEPS = 200
_CLOSE = 1e-10
"""Nats that a last step may have."""
_CHUNK = 4_000_000
"""Entries of resampled wins held at once."""
Flags = NDArray[np.bool_]


def fit(wins: Floats) -> Floats:
    """Strengths against the first model, of several sets of comparisons at once.

    Args:
        wins: [R, M, M]; `wins[r, i, j]` is how often i was preferred to j, ties half.

    Returns:
        [R, M] nats; 0 for the first model. Infinite where one of the two is preferred, directly or through others, and
        never the other way round; NaN where nothing connects them.
    """
    reaches = _reaches(wins > 0)
    above, below = reaches[:, :, 0], reaches[:, 0, :]  # preferred to the first through any chain, and the reverse
    inside = above & below
    values = _newton(wins * (inside[:, :, None] & inside[:, None, :]), inside)
    apart = np.where(above, np.inf, np.where(below, -np.inf, np.nan))
    return np.where(inside, values, apart)


def connected(wins: Floats) -> bool:
    """Whether the graph of wins [M, M] is strongly connected: every model was preferred to every other through a chain
    (Ford 1957)."""
    return bool(_reaches((wins > 0)[None]).all())


def strengths(wins: Floats, intervals: Intervals) -> list[Estimate]:
    """Strengths against the first model with intervals over prompts.

    The interval's ends are the outer ones of the percentile bootstrap, whose resamples may lie at infinity, and of the
    sandwich estimator with Student's t; tails are widened for few prompts, as those of all intervals.

    Args:
        wins: [P, M, M] of each prompt; all 0: it compares nothing.
        intervals: Coverage, resamples and seed.

    Returns:
        Nats, one a model, the first's 0 by definition; `value` None where it is not finite, ends may be infinite.
    """
    compared = wins[wins.any(axis=(1, 2))]
    count, models = len(compared), wins.shape[1]
    if count == 0:
        return [NOTHING] * models
    values = fit(compared.sum(axis=0, keepdims=True))[0]
    if count == 1:
        return [_estimate(value, math.nan, math.nan, 1) for value in values]
    half = 0.5 + intervals.confidence / 2
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * student_quantile(count - 1, half))
    resampled = np.concatenate(list(_resampled(compared, intervals)))
    lows, highs = _quantiles(resampled, tail)
    width = student_quantile(count - 1, half) * _standard_errors(compared, values)
    estimates = [Estimate(0.0, 0.0, 0.0, count, "constant")]
    for model in range(1, models):
        low = min(lows[model], values[model] - width[model]) if np.isfinite(width[model]) else lows[model]
        high = max(highs[model], values[model] + width[model]) if np.isfinite(width[model]) else highs[model]
        estimates.append(_estimate(values[model], low, high, count))
    return estimates


def _estimate(value: float, low: float, high: float, count: int) -> Estimate:
    bounded = not math.isnan(low) and not math.isnan(high)
    return Estimate(
        float(value) if math.isfinite(value) else None,
        float(low) if bounded else None,
        float(high) if bounded else None,
        count,
        "bootstrap" if bounded else "none",
    )


def _resampled(wins: Floats, intervals: Intervals) -> list[Floats]:
    """Strengths [some, M] of bootstrap resamples of prompts."""
    count = len(wins)
    flat = wins.reshape(count, -1)
    size = max(1, _CHUNK // flat.shape[1])
    fitted = []
    for drawn in draws(count, intervals.resamples, intervals.seed):
        for start in range(0, len(drawn), size):
            part = drawn[start : start + size]
            weights = np.stack([np.bincount(rows, minlength=count) for rows in part]).astype(np.float64)
            fitted.append(fit((weights @ flat).reshape(len(part), *wins.shape[1:])))
    return fitted


def _quantiles(resampled: Floats, tail: float) -> tuple[Floats, Floats]:
    """Outer order statistics [M] at the tails; where nothing connects a resample it lies beyond both ends."""
    lost = np.isnan(resampled)
    last = len(resampled) - 1
    below = min(last, math.floor(tail * last))
    low = np.sort(np.where(lost, -np.inf, resampled), axis=0)[below]
    high = np.sort(np.where(lost, np.inf, resampled), axis=0)[last - below]
    return low, high


def _standard_errors(wins: Floats, values: Floats) -> Floats:
    """[M] of the sandwich estimator over prompts: H^-1 (sum g g') H^-1, g a prompt's score; NaN where a strength is
    not finite."""
    inside = np.isfinite(values)
    inside[0] = False
    errors = np.full(len(values), np.nan)
    if not inside.any():
        return errors
    finite = np.isfinite(values)
    inner = wins * (finite[:, None] & finite[None, :])
    shares, gaps = _shares(np.where(finite, values, 0.0)[None])
    games = inner + inner.transpose(0, 2, 1)
    scores = (inner - games * shares).sum(axis=2)[:, inside]
    information = _information((games.sum(axis=0) * gaps[0])[None])[0][np.ix_(inside, inside)]
    influence = np.linalg.solve(information, scores.T).T
    count = len(wins)
    errors[inside] = np.sqrt((influence**2).sum(axis=0) * count / (count - 1))
    return errors


def _newton(wins: Floats, inside: Flags) -> Floats:
    """Maximum likelihood [R, M] among the models `inside`, by damped Newton steps.

    A step whose differences are at most c wide is taken by log(1 + c) / c: the logistic loss is self-concordant in
    Bach's sense (2010, Electron. J. Statist. 4:384, proposition 1), so that each raises the likelihood and the last
    ones are quadratic.
    """
    runs, models = wins.shape[:2]
    free = inside.copy()
    free[:, 0] = False
    games = wins + wins.transpose(0, 2, 1)
    values = np.zeros((runs, models))
    fixed = np.eye(models)[None] * ~free[:, None, :]
    for _ in range(_STEPS):
        shares, gaps = _shares(values)
        gradient = np.where(free, (wins - games * shares).sum(axis=2), 0.0)
        information = _information(games * gaps) * (free[:, :, None] & free[:, None, :]) + fixed
        step = np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
        width = step.max(axis=1) - step.min(axis=1)
        damped = np.where(width > 0, np.log1p(width) / np.where(width > 0, width, 1.0), 1.0)
        values += damped[:, None] * step
        if width.max(initial=0.0) < _CLOSE:
            break
    return values


def _shares(values: Floats) -> tuple[Floats, Floats]:
    """Of strengths [R, M]: P(i preferred to j) [R, M, M], and its variance."""
    shares = 1 / (1 + np.exp(-(values[:, :, None] - values[:, None, :])))
    return shares, shares * (1 - shares)


def _information(weights: Floats) -> Floats:
    """Of n p (1 - p) [R, M, M] of each pair: minus the second derivatives of the log-likelihood."""
    models = weights.shape[1]
    off = weights * ~np.eye(models, dtype=bool)
    information: Floats = np.eye(models)[None] * off.sum(axis=2)[:, None, :] - off
    return information


def _reaches(beats: Flags) -> Flags:
    """[R, M, M]: whether a chain of wins leads from i to j, or they are the same (Warshall 1962)."""
    reaches = beats | np.eye(beats.shape[1], dtype=bool)
    for middle in range(beats.shape[1]):
        reaches |= reaches[:, :, middle, None] & reaches[:, None, middle, :]
    return reaches
