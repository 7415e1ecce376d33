"""How often intervals of the calibration error cover the truth, and how often a difference is claimed that is none.

    python benchmarks/own_confidence.py [--trials 200] > benchmarks/results/own_confidence.md

Minutes on one core; seeded. Needs numpy and scipy only. A model's log-odds of being right are normal with mean 0.3 and
standard deviation 1.2; a boldness of b adds b to what it says they are.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.statistics.calibration import calibration_error
from rlhf_trainer.statistics.intervals import Estimate, Intervals, decide
from rlhf_trainer.statistics.own_confidence import calibration, calibration_difference

Floats = NDArray[np.float64]
RESAMPLES = 300
COUNTS = (40, 100, 500)
BOLDNESS = (0.0, 0.5, 1.5)
PAIRS = ((0.0, 0.0), (0.5, 0.5), (1.5, 1.5), (0.0, 0.5), (0.0, 1.5), (0.5, 1.5))
ALIKE = 0.7
"""Share of documents on which two models are right or wrong by the same draw."""


def sigmoid(odds: Floats) -> Floats:
    """1 / (1 + exp(-odds))."""
    shares: Floats = 1 / (1 + np.exp(-odds))
    return shares


def truth(boldness: float) -> float:
    """The error of two million documents."""
    odds = np.random.default_rng(1).normal(0.3, 1.2, 2_000_000)
    return calibration_error(sigmoid(odds + boldness), sigmoid(odds), 0.0, 1.0)[0]


def pair(random: np.random.Generator, count: int, boldness: tuple[float, float]) -> list[tuple[Floats, Floats]]:
    """(confidence, right) of a baseline and a candidate on the same documents."""
    odds = random.normal(0.3, 1.2, count)
    draw = random.random(count)
    draws = (draw, np.where(random.random(count) < ALIKE, draw, random.random(count)))
    return [
        (sigmoid(odds + bold), (drawn < sigmoid(odds)).astype(np.float64))
        for bold, drawn in zip(boldness, draws, strict=True)
    ]


def covers(estimate: Estimate, value: float) -> bool:
    """Whether the interval has the value."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= value <= estimate.high


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    truths = {boldness: truth(boldness) for boldness in BOLDNESS}
    print("# Intervals of the calibration error\n")
    print(
        f"Made by `python benchmarks/own_confidence.py --trials {trials}`: {RESAMPLES} resamples, nominal 0.95. "
        "How intervals are made: [docs/report.md](../../docs/report.md#suites).\n"
    )
    heads = " | ".join(f"n {count}" for count in COUNTS)
    print(f"| boldness | true error | {heads} |\n|{'---|' * (2 + len(COUNTS))}")
    for boldness in BOLDNESS:
        cells = []
        for count in COUNTS:
            random = np.random.default_rng([count, 1])
            samples = [pair(random, count, (boldness, boldness))[0] for _ in range(trials)]
            hits = [
                covers(calibration(*sample, Intervals(0.95, RESAMPLES, trial)), truths[boldness])
                for trial, sample in enumerate(samples)
            ]
            cells.append(f"{np.mean(hits):.3f}")
        print(f"| {boldness} | {truths[boldness]:.3f} | {' | '.join(cells)} |", flush=True)
    print("\nDifferences: coverage; share of trials that claim worse / better calibration.\n")
    print(f"| boldness before, after | true difference | {heads} |\n|{'---|' * (2 + len(COUNTS))}")
    for before, after in PAIRS:
        value, cells = truths[after] - truths[before], []
        for count in COUNTS:
            random = np.random.default_rng([count, 2])
            estimates = []
            for trial in range(trials):
                theirs, ours = pair(random, count, (before, after))
                estimates.append(calibration_difference(ours, theirs, Intervals(0.95, RESAMPLES, trial)))
            words = [decide(estimate) for estimate in estimates]
            shares = [words.count(word) / trials for word in ("higher", "lower")]
            hit = np.mean([covers(estimate, value) for estimate in estimates])
            cells.append(f"{hit:.3f}; {shares[0]:.3f} / {shares[1]:.3f}")
        print(f"| {before}, {after} | {value:+.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
