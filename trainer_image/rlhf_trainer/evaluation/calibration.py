"""How far the scores of a reward or cost model can be trusted, beside what guessing would give. Pure numpy.

A metric whose interval includes its baseline is said, in a note, to show nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.evaluation.statistics import NOTHING, Estimate, point, wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 10
"""Bins of the expected calibration error, of equal width over the range of the confidence."""


@dataclass
class Trust:
    """What is known of a scorer on held-out answers."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """Estimates {value, low, high, n, method} and plain numbers, as a manifest keeps them."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know."""


def pair_trust(first: Floats, second: Floats, first_length: Floats, second_length: Floats, *, what: str) -> Trust:
    """Judge the order of pairs.

    Args:
        first: [P] scores of the answers that should score higher.
        second: [P] scores of the others.
        first_length: [P] tokens of the former.
        second_length: [P] tokens of the latter.
        what: What scores higher, for the notes: `better`, `more harmful`.

    Returns:
        Accuracy with Wilson's interval, beside the accuracy of taking the shorter answer (ties count half); ECE of
        the pair's probability; margin; mean and standard deviation of scores; rank correlation of score and length.
    """
    found = Trust()
    if not len(first):
        found.notes.append("no pair is held out: accuracy on unseen pairs is unknown")
        return found
    right = _halves(first - second)
    shorter = _halves(second_length - first_length)
    accuracy, baseline = wilson(float(right.sum()), len(right)), wilson(float(shorter.sum()), len(shorter))
    scores, lengths = np.concatenate([first, second]), np.concatenate([first_length, second_length])
    confidence = _sigmoid(np.abs(first - second))
    error, bins = calibration_error(confidence, right, 0.5, 1.0)
    found.metrics |= {
        "accuracy": accuracy.as_json(),
        "accuracy_shorter_wins": baseline.as_json(),
        "ece": point(error, len(right)).as_json(),
        "ece_bins": bins,
        "margin": point(float((first - second).mean()), len(first)).as_json(),
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std()),
        "length_correlation": rank_correlation(scores, lengths).as_json(),
    }
    by_length = max(_value(baseline), 1 - _value(baseline))
    rule = "shorter" if _value(baseline) >= 0.5 else "longer"
    for name, value in (("a coin", 0.5), (f"taking the {rule} answer as {what}", by_length)):
        if _includes(accuracy, value):
            found.notes.append(
                f"accuracy {_words(accuracy)} includes {value:.3f}, what {name} gives: it shows nothing beyond that"
            )
        elif _value(accuracy) < value:
            found.notes.append(f"accuracy {_words(accuracy)} is below {value:.3f}, what {name} gives")
    return found


def sign_trust(costs: Floats, signs: Floats) -> Trust:
    """Judge the signs of a cost model.

    Args:
        costs: [A] costs of distinct answers.
        signs: [A] +1 harmful, -1 safe.

    Returns:
        Sign accuracy with Wilson's interval beside always saying the commoner sign; balanced accuracy with its
        interval beside 0.5; ECE of sigmoid(cost) as the probability of harm.
    """
    found = Trust()
    if not len(costs):
        found.notes.append("no answer is held out: the accuracy of signs is unknown")
        return found
    right = _halves(costs * signs)
    accuracy = wilson(float(right.sum()), len(right))
    majority = max(float((signs > 0).mean()), float((signs < 0).mean()))
    balanced = balanced_accuracy(costs, signs)
    error, bins = calibration_error(_sigmoid(costs), (signs > 0).astype(np.float64), 0.0, 1.0)
    found.metrics |= {
        "sign_accuracy": accuracy.as_json(),
        "sign_accuracy_majority": point(majority, len(signs)).as_json(),
        "balanced_accuracy": balanced.as_json(),
        "sign_ece": point(error, len(right)).as_json(),
        "sign_ece_bins": bins,
        "harmful_share": point(float((signs > 0).mean()), len(signs)).as_json(),
    }
    for name, estimate, base, guess in (
        ("sign accuracy", accuracy, majority, "always saying the commoner sign"),
        ("balanced accuracy", balanced, 0.5, "guessing"),
    ):
        if _includes(estimate, base):
            found.notes.append(f"{name} {_words(estimate)} includes {base:.3f}, what {guess} gives: it shows nothing")
        elif estimate.known and _value(estimate) < base:
            found.notes.append(f"{name} {_words(estimate)} is below {base:.3f}, what {guess} gives")
    if not balanced.known:
        found.notes.append("held-out answers are all of one sign: balanced accuracy is unknown")
    return found


def balanced_accuracy(costs: Floats, signs: Floats, confidence: float = 0.95) -> Estimate:
    """Mean of the share of harmful answers with a cost above 0 and of safe ones with a cost below 0.

    The interval joins the two Wilson intervals (MOVER, Zou and Donner 2008). Unknown where one sign is missing.
    """
    sides = [_halves(costs[signs == sign] * sign) for sign in (1.0, -1.0)]
    if not all(len(side) for side in sides):
        return NOTHING
    rates = [wilson(float(side.sum()), len(side), confidence) for side in sides]
    value = sum(_value(rate) for rate in rates) / 2
    below = math.hypot(*(_value(rate) - float(rate.low or 0.0) for rate in rates)) / 2
    above = math.hypot(*(float(1.0 if rate.high is None else rate.high) - _value(rate) for rate in rates)) / 2
    return Estimate(value, max(0.0, value - below), min(1.0, value + above), len(costs), "wilson")


def calibration_error(
    confidence: Floats, right: Floats, low: float, high: float, bins: int = BINS
) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error (Naeini et al. 2015): mean over answers of |share right - confidence| of their bin.

    Args:
        confidence: [N] in [low, high].
        right: [N] 1 where the event came, 0 where not (0.5: half).
        low: Start of the first bin.
        high: End of the last bin.
        bins: Number of bins of equal width.

    Returns:
        (error, one entry a bin that has answers: {low, high, n, confidence, right}).
    """
    edges = np.linspace(low, high, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    error, stated = 0.0, []
    for index in range(bins):
        inside = place == index
        count = int(inside.sum())
        if not count:
            continue
        said, came = float(confidence[inside].mean()), float(right[inside].mean())
        error += count / len(confidence) * abs(came - said)
        entry = {"low": float(edges[index]), "high": float(edges[index + 1]), "n": float(count)}
        stated.append({**entry, "confidence": said, "right": came})
    return error, stated


def rank_correlation(first: Floats, second: Floats, confidence: float = 0.95) -> Estimate:
    """Spearman's rank correlation with Fisher's interval (variance 1.06 / (n - 3), Fieller et al. 1957)."""
    count = len(first)
    if count < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return NOTHING
    value = float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])
    if abs(value) >= 1.0 - 1e-12:
        return Estimate(value, value, value, count, "constant")
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(1.06 / (count - 3))
    return Estimate(value, math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half), count, "none")


def _ranks(values: Floats) -> Floats:
    """Ranks from 1, ties their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2.0
    return means[inverse]


def _halves(margin: Floats) -> Floats:
    """1 where above 0, 0 where below, 0.5 where neither."""
    result: Floats = 0.5 + 0.5 * np.sign(margin)
    return result


def _sigmoid(values: Floats) -> Floats:
    result: Floats = 1.0 / (1.0 + np.exp(-np.clip(values, -500, 500)))
    return result


def _value(estimate: Estimate) -> float:
    return math.nan if estimate.value is None else estimate.value


def _includes(estimate: Estimate, value: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= value <= estimate.high


def _words(estimate: Estimate) -> str:
    return f"{_value(estimate):.3f} [{estimate.low:.3f}, {estimate.high:.3f}] (n {estimate.n})"
