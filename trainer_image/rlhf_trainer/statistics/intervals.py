"""Estimates with intervals. The unit is the prompt: answers to one prompt are not independent, prompts are.

Pure numpy and scipy; every function is deterministic given the seed in `Intervals`. NaN means "no score": such entries
are left out, and `n` counts what is left. How often the intervals cover the truth: benchmarks/results/coverage.md.

One file because every estimate rests on the same resamples, the same `n` and the same rule for when a direction is
claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Method = Literal["bootstrap", "wilson", "newcombe", "constant", "members", "none"]
Decision = Literal["higher", "lower", "shows nothing"]
Statistic = Callable[[Floats], tuple[Floats, Floats]]
"""Of column means [R, K]: the values [R], and their gradients [R, K]."""

FEWEST = 12
"""Prompts below which no direction is claimed: of fewer, skewed scores give a false one more often than 6 % of the time."""
_CHUNK = 2_000_000
"""Entries of a resample held at once."""
UNBOUNDED = (-math.inf, math.inf)
_PRIOR = 0.25
"""Weight, in prompts, of the sample's own variance in that of each resample: a resample of one value has one, too."""


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is."""

    value: float | None
    """None: there was nothing to measure."""
    low: float | None
    """Lower end of the interval; None where there is none."""
    high: float | None
    """Upper end."""
    n: int
    """Prompts (or rows) it rests on."""
    method: Method = "bootstrap"
    """How the interval was made: see docs/report.md."""

    def as_json(self) -> dict[str, Any]:
        """`{value, low, high, n, method}`."""
        return asdict(self)

    @property
    def is_measured(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


NOTHING = Estimate(None, None, None, 0, "none")


def point(value: float, n: int) -> Estimate:
    """A value of the whole set of answers that has no interval."""
    return Estimate(float(value), None, None, n, "none") if n and math.isfinite(value) else NOTHING


def wilson(successes: float, n: float, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion (Wilson 1927); no zero width at 0 or n successes.

    `successes` may be a fraction when a prompt's answers are averaged; the interval is then conservative, as the
    variance of a mean of values in [0, 1] is at most p (1 - p). So may `n`, where rows are not independent.
    """
    if n == 0:
        return NOTHING
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected a number between 0 and {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), round(n), "wilson")


def fewest(confidence: float) -> int:
    """Fewest prompts for which a direction is claimed: `FEWEST`, or where n agreeing signs, of probability 2 (1/2)^n,
    can first exclude chance."""
    return max(FEWEST, math.floor(1 - math.log2(1 - confidence)) + 1)


def decide(estimate: Estimate, confidence: float = 0.95, against: float = 0.0) -> Decision:
    """The two-sided word for an estimate beside a number; `inconclusive` says why it is `shows nothing`."""
    if inconclusive(estimate, confidence, against) is not None:
        return "shows nothing"
    return "higher" if _low(estimate) > against else "lower"


def inconclusive(estimate: Estimate, confidence: float = 0.95, against: float = 0.0) -> str | None:
    """Why an estimate is neither above nor below a number, in words; None where it is one of them."""
    if estimate.n < fewest(confidence):
        return f"{estimate.n} prompts, fewer than {fewest(confidence)}"
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"the interval includes {against:g}" if estimate.low <= against <= estimate.high else None


def clustered(right: Floats, groups: Sequence[Hashable], confidence: float = 0.95) -> Estimate:
    """Share of `right` [N] in [0, 1] with Wilson's interval, where rows of one group are not independent.

    The rows count as fewer, by the design effect (Rao and Scott 1992): the variance of the share over groups, relative
    to that of independent rows. Where all agree the groups are what is counted.
    """
    count = len(right)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(numbers) == count or not count:
        return wilson(float(right.sum()), count, confidence)
    share = min(1.0, max(0.0, float(right.mean())))
    sums = np.bincount([numbers[group] for group in groups], weights=right - share)
    spread = share * (1 - share)
    if len(numbers) == 1 or spread == 0:
        effective = float(len(numbers))
    else:
        variance = float((sums**2).sum()) * len(numbers) / (len(numbers) - 1) / count**2
        effective = min(float(count), max(1.0, spread / variance)) if variance > 0 else float(count)
    interval = wilson(share * effective, effective, confidence)
    return Estimate(share, interval.low, interval.high, count, "wilson")


@dataclass(frozen=True)
class Intervals:
    """How intervals are computed: coverage, resamples, seed. Every call with as many prompts draws the same resamples,
    so that no number depends on the order in which the others were computed."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def mean(self, values: Floats, within: tuple[float, float] = UNBOUNDED) -> Estimate:
        """Mean over prompts with its bootstrap interval, which stays `within` what the mean can be. `values` [P] or
        [P, S] (answers are averaged)."""
        return self._bootstrap(_finite(by_prompt(values))[:, None], _mean, within)

    def difference(self, ours: Floats, theirs: Floats) -> Estimate:
        """Mean of ours - theirs on the prompts that have both: prompts are drawn as pairs."""
        return self.mean(by_prompt(ours) - by_prompt(theirs))

    def rate(self, values: Floats) -> Estimate:
        """Share of `values` in [0, 1], [P] or [P, S], with Wilson's interval over the P prompts."""
        finite = _finite(by_prompt(values))
        return wilson(float(finite.sum()), len(finite), self.confidence)

    def rate_difference(self, ours: Floats, theirs: Floats) -> Estimate:
        """Difference of two shares on the same prompts: Newcombe's hybrid score interval for paired proportions
        (Newcombe 1998, Statist. Med. 17:2635, method 10: phi is corrected for continuity). It keeps a width where all
        prompts agree."""
        first, second = by_prompt(ours), by_prompt(theirs)
        both = np.isfinite(first) & np.isfinite(second)
        first, second = first[both], second[both]
        if not len(first):
            return NOTHING
        a, b = (wilson(float(side.sum()), len(side), self.confidence) for side in (first, second))
        correlation = _correlation(first, second)
        value = _value(a) - _value(b)
        low = _hybrid(_value(a) - _low(a), _high(b) - _value(b), correlation)
        high = _hybrid(_high(a) - _value(a), _value(b) - _low(b), correlation)
        return Estimate(value, max(-1.0, value - low), min(1.0, value + high), len(first), "newcombe")

    def share(self, values: Floats) -> Estimate:
        """Mean of values in [0, 1] with a bootstrap interval; Wilson's where all prompts agree, as resampling them
        cannot vary. For win rates."""
        estimate = self.mean(values, within=(0.0, 1.0))
        return self.rate(values) if estimate.method == "constant" else estimate

    def ratio(self, numerators: Floats, denominators: Floats) -> Estimate:
        """Sum of numerators over sum of denominators, [P] or [P, S], prompts drawn together. Prompts whose
        denominators sum to 0 count as nothing."""
        pairs = np.stack([_sums(numerators), _sums(denominators)], axis=1)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if not len(pairs) or pairs[:, 1].sum() == 0:
            return NOTHING
        return self._bootstrap(pairs[pairs[:, 1] != 0], _ratio)

    def harmonic(self, first: Floats, second: Floats) -> Estimate:
        """Harmonic mean of two shares, each over the prompts that have it ([P] or [P, S], NaN where one has not)."""
        rows = _both_shares(first, second)
        return self._bootstrap(rows, _harmonic, (0.0, 1.0)) if rows[:, 1].any() and rows[:, 3].any() else NOTHING

    def harmonic_difference(self, ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> Estimate:
        """Difference of two harmonic means on the same prompts: prompts are drawn as pairs."""
        rows = np.concatenate([_both_shares(*ours), _both_shares(*theirs)], axis=1)
        if not rows[:, 1::2].any(axis=0).all():
            return NOTHING
        return self._bootstrap(rows, _harmonic_gap, (-1.0, 1.0))

    def of_means(self, rows: Floats, statistic: Statistic, within: tuple[float, float] = UNBOUNDED) -> Estimate:
        """Any statistic of column means, rows [P, K] drawn together; all finite."""
        return self._bootstrap(rows, statistic, within)

    def _bootstrap(self, rows: Floats, statistic: Statistic, within: tuple[float, float] = UNBOUNDED) -> Estimate:
        """Interval of a statistic of column means. `rows` [P, K], finite.

        The outer ends of two bootstrap intervals: the percentile one, which holds where values are few and tied, and
        the studentised one (bootstrap-t; Efron 1981, Hall 1988), which holds where they are skewed. Tails of both are
        widened for small samples (Hesterberg 2015: t quantiles, sqrt(n / (n - 1))).
        """
        count = len(rows)
        if count == 0:
            return NOTHING
        values, gradients = statistic(rows.mean(axis=0, keepdims=True))
        value = float(values[0])
        if count == 1:
            return Estimate(value, None, None, 1, "none")
        variance = float(_variances(rows[None], gradients)[0])
        if not variance > 0 or (rows == rows[0]).all():
            return Estimate(value, value, value, count, "constant")
        resampled, ratios = self._studentised(rows, statistic, value, variance)
        tail = NormalDist().cdf(
            -math.sqrt(count / (count - 1)) * student_quantile(count - 1, 0.5 + self.confidence / 2)
        )
        low, high = np.quantile(resampled, [tail, 1 - tail])
        least, most = np.quantile(ratios, [tail, 1 - tail]) * math.sqrt(variance / count)
        low, high = min(low, value - most), max(high, value - least)
        return Estimate(value, float(max(within[0], low)), float(min(within[1], high)), count)

    def _studentised(self, rows: Floats, statistic: Statistic, value: float, variance: float) -> tuple[Floats, Floats]:
        """Of each resample: the statistic, and its distance from `value` in standard errors (by the delta method)."""
        count = len(rows)
        resampled, ratios = [], []
        for drawn in draws(count, self.resamples, self.seed):
            sample = rows[drawn]
            values, gradients = statistic(sample.mean(axis=1))
            smoothed = (count * _variances(sample, gradients) + _PRIOR * variance) / (count + _PRIOR)
            usable = np.isfinite(values) & np.isfinite(smoothed)  # a resample may lack a kind that a statistic needs
            resampled.append(values[usable])
            ratios.append((values[usable] - value) / np.sqrt(smoothed[usable] / count))
        return np.concatenate(resampled), np.concatenate(ratios)


def student_quantile(degrees: int, probability: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit  # slow to import, and `prepare` and the report make no interval of means

    return float(stdtrit(degrees, probability))


def draws(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of bootstrap resamples, [some, count] at a time: a function of `count` and the seed alone."""
    random = np.random.default_rng([seed, count])
    size = max(1, _CHUNK // count)
    for start in range(0, resamples, size):
        yield random.integers(0, count, size=(min(size, resamples - start), count))


def _variances(samples: Floats, gradients: Floats) -> Floats:
    """[R] variance of a row's influence on the statistic: of rows [R, n, K] along gradients [R, K]."""
    variances: Floats = np.einsum("rnk,rk->rn", samples, gradients).var(axis=1, ddof=1)
    return variances


def by_prompt(values: Floats) -> Floats:
    """Mean of each prompt's finite answers, [P] from [P] or [P, S]; NaN where a prompt has none."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    finite = np.isfinite(table)
    counts = finite.sum(axis=1)
    sums = np.where(finite, table, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def wins(ours: Floats, theirs: Floats) -> Floats:
    """Share of pairs of answers that ours wins, a prompt, ties half: [P] from [P, S] and [P, S]. A pair with a
    missing score does not count."""
    first, second = (np.asarray(side, dtype=np.float64) for side in (ours, theirs))
    margin = first[:, :, None] - second[:, None, :]
    won = np.where(np.isnan(margin), np.nan, 0.5 + 0.5 * np.sign(margin))
    return by_prompt(won.reshape(len(won), -1))


def _both_shares(first: Floats, second: Floats) -> Floats:
    """[P, 4] of two shares: its value or 0, and 1 where the prompt counts, of each; prompts that count for neither go."""
    columns = []
    for values in (by_prompt(first), by_prompt(second)):
        present = np.isfinite(values)
        columns += [np.where(present, values, 0.0), present.astype(np.float64)]
    rows = np.stack(columns, axis=1)
    counted: Floats = rows[(rows[:, 1] + rows[:, 3]) > 0]
    return counted


def _mean(means: Floats) -> tuple[Floats, Floats]:
    return means[:, 0], np.ones_like(means)


def _ratio(means: Floats) -> tuple[Floats, Floats]:
    ratio = means[:, 0] / means[:, 1]
    return ratio, np.stack([1 / means[:, 1], -ratio / means[:, 1]], axis=1)


def _harmonic(means: Floats) -> tuple[Floats, Floats]:
    """Harmonic mean of two ratios, from [R, 4] means of `_both_shares`; 0 where both are, NaN where either is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, first_gradient = _ratio(means[:, :2])
        second, second_gradient = _ratio(means[:, 2:])
        total = first + second
        parts = [2 * (second / total) ** 2, 2 * (first / total) ** 2]
        value = 2 * first * second / total
    zero = (first == 0) & (second == 0)
    parts = [np.where(zero, 0.0, part) for part in parts]
    gradients = np.concatenate([first_gradient * parts[0][:, None], second_gradient * parts[1][:, None]], axis=1)
    return np.where(zero, 0.0, value), gradients


def _harmonic_gap(means: Floats) -> tuple[Floats, Floats]:
    ours, our_gradients = _harmonic(means[:, :4])
    theirs, their_gradients = _harmonic(means[:, 4:])
    return ours - theirs, np.concatenate([our_gradients, -their_gradients], axis=1)


def _finite(values: Floats) -> Floats:
    finite: Floats = values[np.isfinite(values)]
    return finite


def _sums(values: Floats) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    return table if table.ndim == 1 else table.sum(axis=1)


def _correlation(first: Floats, second: Floats) -> float:
    """Newcombe's phi of two paired shares: of numerator ad - bc, n / 2 is taken off where it is above 0, to 0 at least;
    0 where a side does not vary. For shares in [0, 1] ad - bc is n times the sum of products of deviations."""
    count = len(first)
    x, y = first - first.mean(), second - second.mean()
    numerator = count * float((x * y).sum())
    if numerator > 0:
        numerator = max(0.0, numerator - count / 2)
    scale = count * math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return numerator / scale if scale > 0 else 0.0


def _hybrid(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(0.0, first * first - 2 * correlation * first * second + second * second))


def _value(estimate: Estimate) -> float:
    return estimate.value if estimate.value is not None else math.nan


def _low(estimate: Estimate) -> float:
    return estimate.low if estimate.low is not None else math.nan


def _high(estimate: Estimate) -> float:
    return estimate.high if estimate.high is not None else math.nan
