"""Estimates with intervals. The unit is the prompt: answers to one prompt are not independent, prompts are.

Pure numpy; every function is deterministic given the seed in `Intervals`. NaN means "no score": such entries are
left out, and `n` counts what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Method = Literal["bootstrap", "wilson", "newcombe", "constant", "none"]
Decision = Literal["higher", "lower", "shows nothing"]

_CHUNK = 2_000_000
"""Entries of a resample held at once."""


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
    def known(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


NOTHING = Estimate(None, None, None, 0, "none")


def point(value: float, n: int) -> Estimate:
    """A value of the whole set of answers that has no interval."""
    return Estimate(float(value), None, None, n, "none") if n and math.isfinite(value) else NOTHING


def wilson(successes: float, n: int, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion (Wilson 1927); no zero width at 0 or n successes.

    `successes` may be a fraction when a prompt's answers are averaged; the interval is then conservative, as the
    variance of a mean of values in [0, 1] is at most p (1 - p).
    """
    if n == 0:
        return NOTHING
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected a number between 0 and {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), n, "wilson")


def fewest(confidence: float) -> int:
    """Fewest prompts that could exclude chance: n agreeing signs have probability 2 (1/2)^n. 0.95: 6."""
    return math.floor(1 - math.log2(1 - confidence)) + 1


def decide(difference: Estimate, confidence: float = 0.95) -> Decision:
    """The two-sided word for a difference: `shows nothing` where its interval includes 0, is missing, or rests on
    fewer prompts than could exclude chance."""
    if difference.low is None or difference.high is None or difference.n < fewest(confidence):
        return "shows nothing"
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else "shows nothing"


@dataclass(frozen=True)
class Intervals:
    """How intervals are computed: coverage, resamples, seed. Every call with as many prompts draws the same resamples,
    so that no number depends on the order in which the others were computed."""

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def mean(self, values: Floats) -> Estimate:
        """Mean over prompts with its percentile bootstrap interval. `values` [P] or [P, S] (answers are averaged)."""
        kept = _finite(by_prompt(values))
        return self._bootstrap(kept[:, None], lambda means: means[:, 0])

    def difference(self, ours: Floats, theirs: Floats) -> Estimate:
        """Mean of ours - theirs on the prompts that have both: prompts are drawn as pairs."""
        return self.mean(by_prompt(ours) - by_prompt(theirs))

    def rate(self, values: Floats) -> Estimate:
        """Share of `values` in [0, 1], [P] or [P, S], with Wilson's interval over the P prompts."""
        kept = _finite(by_prompt(values))
        return wilson(float(kept.sum()), len(kept), self.confidence)

    def rate_difference(self, ours: Floats, theirs: Floats) -> Estimate:
        """Difference of two shares on the same prompts: Newcombe's hybrid score interval for paired proportions
        (Newcombe 1998, method 10, with the plain correlation). It keeps a width where all prompts agree."""
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
        found = self.mean(values)
        return self.rate(values) if found.method == "constant" else found

    def ratio(self, numerators: Floats, denominators: Floats) -> Estimate:
        """Sum of numerators over sum of denominators, [P] or [P, S], prompts drawn together. Prompts whose
        denominators sum to 0 count as nothing."""
        pairs = np.stack([_sums(numerators), _sums(denominators)], axis=1)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if not len(pairs) or pairs[:, 1].sum() == 0:
            return NOTHING
        return self._bootstrap(pairs[pairs[:, 1] != 0], lambda means: means[:, 0] / means[:, 1])

    def harmonic(self, first: Floats, second: Floats) -> Estimate:
        """Harmonic mean of two shares, each over the prompts that have it ([P] or [P, S], NaN where one has not)."""
        rows = _both_shares(first, second)
        return self._bootstrap(rows, _harmonic) if rows[:, 1].any() and rows[:, 3].any() else NOTHING

    def harmonic_difference(self, ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> Estimate:
        """Difference of two harmonic means on the same prompts: prompts are drawn as pairs."""
        rows = np.concatenate([_both_shares(*ours), _both_shares(*theirs)], axis=1)
        if not rows[:, 1::2].any(axis=0).all():
            return NOTHING
        return self._bootstrap(rows, lambda means: _harmonic(means[:, :4]) - _harmonic(means[:, 4:]))

    def _bootstrap(self, rows: Floats, statistic: Callable[[Floats], Floats]) -> Estimate:
        """Percentile bootstrap of a statistic of column means. `rows` [P, K], finite."""
        count = len(rows)
        if count == 0:
            return NOTHING
        value = float(statistic(rows.mean(axis=0, keepdims=True))[0])
        if count == 1:
            return Estimate(value, None, None, 1, "none")
        if (rows == rows[0]).all():
            return Estimate(value, value, value, count, "constant")
        found = np.concatenate([statistic(means) for means in self._resample(rows)])
        found = found[np.isfinite(found)]  # a resample may hold no prompt of a kind that a statistic needs
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(found, [tail, 1 - tail])
        return Estimate(value, float(low), float(high), count)

    def _resample(self, rows: Floats) -> list[Floats]:
        count = len(rows)
        random = np.random.default_rng([self.seed, count])
        size = max(1, _CHUNK // count)
        chunks = []
        for start in range(0, self.resamples, size):
            drawn = random.integers(0, count, size=(min(size, self.resamples - start), count))
            chunks.append(rows[drawn].mean(axis=1))
        return chunks


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
        there = np.isfinite(values)
        columns += [np.where(there, values, 0.0), there.astype(np.float64)]
    rows = np.stack(columns, axis=1)
    kept: Floats = rows[(rows[:, 1] + rows[:, 3]) > 0]
    return kept


def _harmonic(means: Floats) -> Floats:
    """[R] harmonic mean from [R, 4] means of `_both_shares`; 0 where both shares are, NaN where either is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = means[:, 0] / means[:, 1], means[:, 2] / means[:, 3]
        found = 2 * first * second / (first + second)
    result: Floats = np.where((first == 0) & (second == 0), 0.0, found)
    return result


def _finite(values: Floats) -> Floats:
    kept: Floats = values[np.isfinite(values)]
    return kept


def _sums(values: Floats) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    return table if table.ndim == 1 else table.sum(axis=1)


def _correlation(first: Floats, second: Floats) -> float:
    """Pearson's; 0 where a side does not vary (as Newcombe takes phi)."""
    one, two = first - first.mean(), second - second.mean()
    scale = math.sqrt(float((one * one).sum()) * float((two * two).sum()))
    return float((one * two).sum()) / scale if scale > 0 else 0.0


def _hybrid(one: float, two: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * correlation * one * two + two * two))


def _value(estimate: Estimate) -> float:
    return estimate.value if estimate.value is not None else math.nan


def _low(estimate: Estimate) -> float:
    return estimate.low if estimate.low is not None else math.nan


def _high(estimate: Estimate) -> float:
    return estimate.high if estimate.high is not None else math.nan
