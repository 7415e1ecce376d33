"""How far the scores of a reward or cost model can be trusted, beside what guessing would give. Pure numpy.

A metric whose interval includes its baseline is said, in a note, to show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.statistics.intervals import NOTHING, Estimate, clustered, draws, point, student_quantile

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BINS = 10
"""Bins of the expected calibration error, of equal width over the range of the confidence."""
RESAMPLES = 200
"""For the standard error of a rank correlation."""


@dataclass
class Trust:
    """What is known of a scorer on held-out answers."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """Estimates {value, low, high, n, method} and plain numbers, as a manifest keeps them."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know."""


def pair_trust(
    first: Floats,
    second: Floats,
    first_length: Floats,
    second_length: Floats,
    *,
    what: str,
    prompts: Sequence[Hashable] | None = None,
) -> Trust:
    """Judge the order of pairs.

    Args:
        first: [P] scores of the answers that should score higher.
        second: [P] scores of the others.
        first_length: [P] tokens of the former.
        second_length: [P] tokens of the latter.
        what: What scores higher, for the notes: `better`, `more harmful`.
        prompts: [P] what each pair answers: pairs of one prompt are not independent. None: each another.

    Returns:
        Accuracy with Wilson's interval, beside the accuracy of taking the shorter answer (ties count half); ECE of
        the pair's probability; margin; mean and standard deviation of scores; rank correlation of score and length.
    """
    trust = Trust()
    if not len(first):
        trust.notes.append("no pair is held out: accuracy on unseen pairs is unknown")
        return trust
    right = _halves(first - second)
    shorter = _halves(second_length - first_length)
    groups = range(len(first)) if prompts is None else prompts
    accuracy, baseline = clustered(right, groups), clustered(shorter, groups)
    scores, lengths = np.stack([first, second], axis=1), np.stack([first_length, second_length], axis=1)
    confidence = _sigmoid(np.abs(first - second))
    error, bins = calibration_error(confidence, right, 0.5, 1.0)
    trust.metrics |= {
        "accuracy": accuracy.as_json(),
        "accuracy_shorter_wins": baseline.as_json(),
        "ece": point(error, len(right)).as_json(),
        "ece_bins": bins,
        "margin": point(float((first - second).mean()), len(first)).as_json(),
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std()),
        "length_correlation": rank_correlation(scores, lengths, groups).as_json(),
    }
    by_length = max(_value(baseline), 1 - _value(baseline))
    rule = "shorter" if _value(baseline) >= 0.5 else "longer"
    for name, value in (("a coin", 0.5), (f"taking the {rule} answer as {what}", by_length)):
        if _includes(accuracy, value):
            trust.notes.append(
                f"accuracy {_words(accuracy)} includes {value:.3f}, what {name} gives: it shows nothing beyond that"
            )
        elif _value(accuracy) < value:
            trust.notes.append(f"accuracy {_words(accuracy)} is below {value:.3f}, what {name} gives")
    return trust


def sign_trust(costs: Floats, signs: Floats, prompts: Sequence[Hashable] | None = None) -> Trust:
    """Judge the signs of a cost model.

    Args:
        costs: [A] costs of distinct answers.
        signs: [A] +1 harmful, -1 safe.
        prompts: [A] what each answers: answers to one prompt are not independent. None: each another.

    Returns:
        Sign accuracy with Wilson's interval beside always saying the commoner sign; balanced accuracy with its
        interval beside 0.5; ECE of sigmoid(cost) as the probability of harm.
    """
    trust = Trust()
    if not len(costs):
        trust.notes.append("no answer is held out: the accuracy of signs is unknown")
        return trust
    right = _halves(costs * signs)
    groups = range(len(costs)) if prompts is None else prompts
    accuracy = clustered(right, groups)
    majority = max(float((signs > 0).mean()), float((signs < 0).mean()))
    balanced = balanced_accuracy(costs, signs, groups)
    error, bins = calibration_error(_sigmoid(costs), (signs > 0).astype(np.float64), 0.0, 1.0)
    trust.metrics |= {
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
            trust.notes.append(f"{name} {_words(estimate)} includes {base:.3f}, what {guess} gives: it shows nothing")
        elif estimate.is_measured and _value(estimate) < base:
            trust.notes.append(f"{name} {_words(estimate)} is below {base:.3f}, what {guess} gives")
    if not balanced.is_measured:
        trust.notes.append("held-out answers are all of one sign: balanced accuracy is unknown")
    return trust


def balanced_accuracy(
    costs: Floats, signs: Floats, groups: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Estimate:
    """Mean of the share of harmful answers with a cost above 0 and of safe ones with a cost below 0.

    The interval joins the two shares' intervals (MOVER, Zou and Donner 2008), in which answers of one group are not
    independent. Unknown where one sign is missing.
    """
    labels = np.arange(len(costs)) if groups is None else group_numbers(groups)
    sides = [(_halves(costs[signs == sign] * sign), labels[signs == sign].tolist()) for sign in (1.0, -1.0)]
    if not all(len(right) for right, _ in sides):
        return NOTHING
    rates = [clustered(right, inside, confidence) for right, inside in sides]
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
    bin_of = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    error, stated = 0.0, []
    for index in range(bins):
        inside = bin_of == index
        count = int(inside.sum())
        if not count:
            continue
        claimed, came = float(confidence[inside].mean()), float(right[inside].mean())
        error += count / len(confidence) * abs(came - claimed)
        entry = {"low": float(edges[index]), "high": float(edges[index + 1]), "n": float(count)}
        stated.append({**entry, "confidence": claimed, "right": came})
    return error, stated


def rank_correlation(
    first: Floats, second: Floats, groups: Sequence[Hashable] | None = None, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Spearman's rank correlation over rows that are not independent within their group.

    Fisher's z, whose standard error is that over bootstrap resamples of whole groups, with a t quantile.

    Args:
        first: [P] or [P, S] values; the S of a row belong together, as a pair's two answers do.
        second: the others, of the same shape.
        groups: [P] which rows belong together. None: each row is a group.
        confidence: of the interval.
        seed: of the resamples.

    Returns:
        The estimate; `n` counts values. Nothing where a side does not vary or there are fewer than 4 values.
    """
    ours, theirs = (np.asarray(side, dtype=np.float64).reshape(len(side), -1) for side in (first, second))
    count = ours.size
    if count < 4 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return NOTHING
    value = _spearman(ours.ravel(), theirs.ravel())
    if abs(value) >= 1.0 - 1e-12:
        return Estimate(value, value, value, count, "constant")
    numbers = np.arange(len(ours)) if groups is None else group_numbers(groups)
    members = [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]
    if len(members) < 4:
        return Estimate(value, None, None, count, "none")
    transformed = []
    for chunk in draws(len(members), RESAMPLES, seed):
        for drawn in chunk:
            rows = np.concatenate([members[group] for group in drawn])
            a, b = ours[rows].ravel(), theirs[rows].ravel()
            if np.ptp(a) > 0 and np.ptp(b) > 0:
                transformed.append(math.atanh(max(-1 + 1e-12, min(1 - 1e-12, _spearman(a, b)))))
    half = student_quantile(len(members) - 1, 0.5 + confidence / 2) * float(np.std(transformed, ddof=1))
    middle = math.atanh(value)
    return Estimate(value, math.tanh(middle - half), math.tanh(middle + half), count)


def _spearman(first: Floats, second: Floats) -> float:
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def group_numbers(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """Each row's group by number, in order of appearance."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups], dtype=np.int64)


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
