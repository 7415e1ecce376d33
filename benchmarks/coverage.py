"""How often the intervals of evaluations cover the truth, and how often their words claim a direction that is none.

    python benchmarks/coverage.py [--trials 2000] > benchmarks/results/coverage.md

Minutes on one core; seeded. Needs numpy and scipy only.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.statistics.groups import OverMembers, averages, difference, over_members
from rlhf_trainer.statistics.intervals import NOTHING, Estimate, Intervals, decide, fewest

Floats = NDArray[np.float64]
Random = np.random.Generator
RESAMPLES = 1000


@dataclass(frozen=True)
class Case:
    """One kind of scores: how they are drawn, what their mean is, and which interval they get."""

    name: str
    draw: Callable[[Random, int], Floats]
    """(random, n) -> [n]"""
    truth: float
    method: str = "mean"
    """Of `Intervals`."""

    def estimate(self, random: Random, count: int, trial: int) -> Estimate:
        """The estimate of one sample."""
        intervals = Intervals(resamples=RESAMPLES, seed=trial)
        estimate: Estimate = getattr(intervals, self.method)(self.draw(random, count))
        return estimate


@dataclass(frozen=True)
class PairedRates:
    """Two rates on the same prompts: probabilities of both, first only, second only, neither."""

    name: str
    cells: tuple[float, float, float, float]

    @property
    def truth(self) -> float:
        """Difference of the two rates."""
        return self.cells[1] - self.cells[2]

    def estimate(self, random: Random, count: int, trial: int) -> Estimate:
        """The estimate of one sample."""
        cell = random.choice(4, size=count, p=self.cells)
        return Intervals().rate_difference((cell < 2).astype(float), np.isin(cell, (0, 2)).astype(float))


@dataclass(frozen=True)
class Members:
    """Runs of several seeds on the same prompts: a score is a seed's effect (normal, of a spread), a prompt's (spread 1) and
    one of both together (spread 1); a share is 0.3 on average, with a seed's effect and a prompt's."""

    name: str
    members: int
    spread: float
    """Standard deviation of a seed's effect."""
    shares: bool = False
    groups: int = 1
    """2: the difference of two groups."""

    @property
    def truth(self) -> float:
        """Mean over all seeds and prompts."""
        return 0.3 if self.shares and self.groups == 1 else 0.0

    def estimate(self, random: Random, count: int, trial: int) -> Estimate:
        """The estimate of one sample."""
        intervals, prompts = Intervals(resamples=RESAMPLES, seed=trial), random.normal(0, 1, count)
        runs = [self._runs(random, prompts) for _ in range(self.groups)]
        average = [averages(list(values)) for values in runs]
        over_prompts = intervals.rate if self.shares else intervals.mean
        if self.groups == 1:
            return self._over(runs[0], over_prompts(average[0])).estimate
        each = [self._over(values, NOTHING) for values in runs]
        between = intervals.rate_difference if self.shares else intervals.difference
        return difference(each[0], each[1], between(average[0], average[1]), intervals.confidence).estimate

    def _runs(self, random: Random, prompts: Floats) -> Floats:
        """[members, prompts]"""
        seeds = random.normal(0, self.spread, self.members)[:, None]
        if self.shares:
            return (random.random((self.members, len(prompts))) < 0.3 + seeds + 0.1 * np.sign(prompts)).astype(
                np.float64
            )
        return seeds + prompts + random.normal(0, 1, (self.members, len(prompts)))

    def _over(self, values: Floats, average: Estimate) -> OverMembers:
        return over_members([float(run.mean()) for run in values], average, 0.95)


def _values(values: tuple[float, ...], shares: tuple[float, ...]) -> Callable[[Random, int], Floats]:
    return lambda random, count: random.choice(values, size=count, p=shares)


def _share(rate: float) -> Callable[[Random, int], Floats]:
    return lambda random, count: (random.random(count) < rate).astype(np.float64)


SCORES = [
    Case("normal", lambda random, count: random.normal(0, 1, count), 0.0),
    Case("heavy tails (t, 3 degrees)", lambda random, count: random.standard_t(3, count), 0.0),
    Case("exponential", lambda random, count: random.exponential(1, count), 1.0),
    Case("log-normal, sigma 1", lambda random, count: random.lognormal(0, 1, count), math.exp(0.5)),
    Case("differences, 70 % ties", _values((-1, 0, 1), (0.15, 0.7, 0.15)), 0.0),
    Case("differences, 90 % ties", _values((-1, 0, 1), (0.05, 0.9, 0.05)), 0.0),
    Case("differences, 70 % ties, lopsided", _values((-1, 0, 1), (0.05, 0.7, 0.25)), 0.2),
]
SHARES = [
    Case("share 0.05", _share(0.05), 0.05, "rate"),
    Case("share 0.5", _share(0.5), 0.5, "rate"),
    Case("share 0.95", _share(0.95), 0.95, "rate"),
    Case("win rate 0.5, 30 % ties", _values((0, 0.5, 1), (0.35, 0.3, 0.35)), 0.5, "share"),
    Case("win rate 0.9, 10 % ties", _values((0, 0.5, 1), (0.05, 0.1, 0.85)), 0.9, "share"),
]
PAIRED = [
    PairedRates("0.5 and 0.5, independent", (0.25, 0.25, 0.25, 0.25)),
    PairedRates("0.5 and 0.5, 80 % alike", (0.4, 0.1, 0.1, 0.4)),
    PairedRates("0.9 and 0.9, 90 % alike", (0.85, 0.05, 0.05, 0.05)),
    PairedRates("0.1 and 0.3, 75 % alike", (0.075, 0.025, 0.225, 0.675)),
    PairedRates("0.85 and 0.35, 50 % alike", (0.35, 0.5, 0.0, 0.15)),
]
GROUPS = [
    *(Members(f"{count} members, spread {spread}", count, spread) for count in (2, 3, 5) for spread in (0.0, 0.2, 1.0)),
    *(
        Members(f"share 0.3, {count} members, spread {spread}", count, spread, shares=True)
        for count in (2, 3, 5)
        for spread in (0.0, 0.05)
    ),
    *(Members(f"difference of two groups of {count}, spread 0.2", count, 0.2, groups=2) for count in (2, 3, 5)),
    Members("difference of two shares, 3 members, spread 0.05", 3, 0.05, shares=True, groups=2),
]
MEMBERS = (
    "Over members and prompts: a seed's effect is normal, of the spread given, beside a spread of 1 over prompts and of 1 of both "
    "together. Shares are covered more often than need be: Wilson's interval takes the members' average for one answer."
)
NULL = [case for case in SCORES if not case.name.endswith("lopsided")]


def estimates(case: Case | PairedRates | Members, count: int, trials: int) -> Iterator[Estimate]:
    """Estimates of `trials` samples of `count` prompts."""
    random = np.random.default_rng([7, count])
    for trial in range(trials):
        yield case.estimate(random, count, trial)


def coverage(case: Case | PairedRates | Members, count: int, trials: int) -> float:
    """Share of intervals that hold the truth."""
    slack = 1e-9
    inside = 0
    for estimate in estimates(case, count, trials):
        if estimate.low is None or estimate.high is None:
            raise ValueError(f"{case.name}: no interval of {count} prompts")
        inside += estimate.low - slack <= case.truth <= estimate.high + slack
    return inside / trials


def false_claims(case: Case, count: int, trials: int) -> float:
    """Share of samples that are called higher or lower than what their mean truly is."""
    claimed = (decide(estimate, against=case.truth) != "shows nothing" for estimate in estimates(case, count, trials))
    return sum(claimed) / trials


def table(title: str, rows: list[tuple[str, list[float]]], counts: tuple[int, ...], trials: int) -> str:
    """A Markdown table, one row a case."""
    head = [f"| {title} | " + " | ".join(f"n {count}" for count in counts) + " |", "|---" * (len(counts) + 1) + "|"]
    return "\n".join(head + [f"| {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |" for name, values in rows])


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=2000)
    trials: int = parser.parse_args().trials
    parts = [
        "# Coverage of the intervals",
        f"Made by `python benchmarks/coverage.py --trials {trials}`: {trials} samples a cell, {RESAMPLES} resamples, nominal "
        f"0.95; the error of a cell is about {math.sqrt(0.05 * 0.95 / trials):.3f}. How intervals are made: "
        "[docs/report.md](../../docs/report.md#intervals).",
    ]
    groups: list[tuple[str, list[Case] | list[PairedRates] | list[Members], tuple[int, ...]]] = [
        ("mean of scores, paired differences", SCORES, (6, 12, 24, 48, 200)),
        ("shares and win rates", SHARES, (6, 12, 24, 48, 200)),
        ("difference of two rates, paired", PAIRED, (10, 24, 48, 200)),
        ("over members and prompts", GROUPS, (24, 100)),
    ]
    for title, cases, counts in groups:
        rows = []
        for case in cases:
            print(case.name, file=sys.stderr)
            rows.append((case.name, [coverage(case, count, trials) for count in counts]))
        parts += [MEMBERS] if cases is GROUPS else []
        parts.append(table(title, rows, counts, trials))
    counts = (6, 10, fewest(0.95), 24)
    claims = [(case.name, [false_claims(case, count, trials) for count in counts]) for case in NULL]
    parts.append(
        f"False `higher` or `lower` where there is no difference; none is claimed below {fewest(0.95)} prompts:"
    )
    parts.append(table("no difference", claims, counts, trials))
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
