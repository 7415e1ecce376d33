"""What a fit is worth: how often each reward ranks wrongly, how scores lie, and how often the grader is right. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_trainer.rules.hinge_fit import Indices, errors
from rlhf_trainer.rules.probabilities import Floats
from rlhf_trainer.statistics.calibration import balanced_accuracy, calibration_error
from rlhf_trainer.statistics.intervals import NOTHING, Estimate, Intervals, clustered, point

METHODS = ("rm", "rbr", "total")
"""R_rm, w . phi, and their sum."""
BINS = 24
"""Bins of a histogram."""
ANSWERED = 0.5
"""Probability of yes and no together below which a grader's answers are told to be doubtful."""


def error_rates(scores: Mapping[str, Floats], better: Indices, worse: Indices, units: Sequence[Any]) -> dict[str, Any]:
    """Share of pairs that each method ranks wrongly, ties half.

    Args:
        scores: [N] by method.
        better: [P] place of the better completion.
        worse: [P] of the other.
        units: [N] what completions belong to (their dialogue): pairs of one are not independent, and are averaged.

    Returns:
        By method an estimate with Wilson's interval over the units; NOTHING's where there is no pair.
    """
    if not len(better):
        return dict.fromkeys(METHODS, NOTHING.as_json())
    _, inverse = np.unique([str(units[index]) for index in better], return_inverse=True)
    counts = np.bincount(inverse)
    rates = {}
    for method in METHODS:
        wrong = np.bincount(inverse, weights=errors(scores[method][better], scores[method][worse])) / counts
        rates[method] = {**Intervals().rate(wrong).as_json(), "pairs": len(better)}
    return rates


def over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard error over the seeds that could be measured."""
    measured = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(measured):
        return {"mean": None, "se": None, "n": 0}
    se = float(measured.std(ddof=1) / math.sqrt(len(measured))) if len(measured) > 1 else None
    return {"mean": float(measured.mean()), "se": se, "n": len(measured)}


def histograms(scores: Mapping[str, Floats], names: Sequence[str], groups: Sequence[Any]) -> dict[str, Any]:
    """Scores less the mean of their group (a prompt's completions), counted by what the completions are.

    Args:
        scores: [N] by method.
        names: [N] what each completion is: its class.
        groups: [N] what it is compared within.

    Returns:
        {method: {edges: [BINS + 1], counts: {name: [BINS]}}}; each method has edges of its own.
    """
    _, inverse = np.unique([str(group) for group in groups], return_inverse=True)
    by_method = {}
    for method in METHODS:
        means = np.bincount(inverse, weights=scores[method]) / np.bincount(inverse)
        centred = scores[method] - means[inverse]
        reach = float(np.abs(centred).max()) or 1.0
        edges = np.linspace(-reach, reach, BINS + 1)
        counts = {
            name: np.histogram(centred[[label == name for label in names]], edges)[0].tolist()
            for name in dict.fromkeys(names)
        }
        by_method[method] = {"edges": edges.tolist(), "counts": counts}
    return by_method


def grader_trust(
    grades: Sequence[Mapping[str, float]],
    labelled: Sequence[Mapping[str, bool]],
    answered: Sequence[float],
    names: Iterable[str],
    prompts: Sequence[Hashable],
) -> dict[str, Any]:
    """A grader on completions that people labelled.

    Args:
        grades: phi by proposition of each completion.
        labelled: what is true of it; only propositions in both count.
        answered: P(yes) + P(no) of each completion, mean over its questions.
        names: propositions, in the order of the result.
        prompts: what each completion answers: completions of one prompt are not independent.

    Returns:
        `propositions`: by name accuracy and balanced accuracy with their intervals, the accuracy of always saying the
        commoner answer, the expected calibration error of phi, the share of true labels; `mean`: plain means over the
        propositions; `answered`: mean over completions.
    """
    rows: dict[str, Any] = {}
    for name in names:
        both = [
            (grade[name], labels[name], prompt)
            for grade, labels, prompt in zip(grades, labelled, prompts, strict=True)
            if name in grade and name in labels
        ]
        if not both:
            continue
        phi = np.array([grade for grade, _, _ in both], dtype=np.float64) - 0.5
        signs = np.array([1.0 if label else -1.0 for _, label, _ in both])
        right = 0.5 + 0.5 * np.sign(phi * signs)
        groups = [prompt for _, _, prompt in both]
        share = float((signs > 0).mean())
        error, _ = calibration_error(phi + 0.5, (signs > 0).astype(np.float64), 0.0, 1.0)
        rows[name] = {
            "accuracy": clustered(right, groups).as_json(),
            "balanced_accuracy": balanced_accuracy(phi, signs, groups).as_json(),
            "majority": max(share, 1 - share),
            "ece": point(error, len(both)).as_json(),
            "true_share": share,
            "n": len(both),
        }
    means = {
        "accuracy": _mean([row["accuracy"]["value"] for row in rows.values()]),
        "balanced_accuracy": _mean([row["balanced_accuracy"]["value"] for row in rows.values()]),
        "majority": _mean([row["majority"] for row in rows.values()]),
        "ece": _mean([row["ece"]["value"] for row in rows.values()]),
    }
    return {
        "propositions": rows,
        "mean": {name: value.as_json() for name, value in means.items()},
        "answered": _mean(answered).as_json(),
    }


def class_trust(predicted: Sequence[str], labelled: Sequence[str], prompts: Sequence[Hashable]) -> dict[str, Any]:
    """Share of completions whose most probable class is the labelled one, beside always saying the commonest class;
    completions of one prompt are not independent."""
    if not predicted:
        return {"accuracy": NOTHING.as_json(), "majority": None}
    right = np.array([a == b for a, b in zip(predicted, labelled, strict=True)], dtype=np.float64)
    commonest = max(labelled.count(name) for name in set(labelled))
    return {"accuracy": clustered(right, prompts).as_json(), "majority": commonest / len(labelled)}


def _mean(values: Sequence[float | None]) -> Estimate:
    measured = [value for value in values if value is not None]
    return point(sum(measured) / len(measured), len(measured)) if measured else NOTHING


def words(kind: str, heldout: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a fit: what was not measured, and what shows nothing."""
    total, alone = heldout["total"], heldout["rm"]
    if total["value"] is None:
        return [f"{kind}: no ranked pair is held out, so that the error of its weights is not measurable"]
    if total["low"] <= 0.5 <= total["high"]:
        return [
            f"{kind}: held-out error {total['value']:.3f} [{total['low']:.3f}, {total['high']:.3f}] (n {total['n']}) "
            "includes 0.5, what a coin gives: it shows nothing"
        ]
    if total["value"] >= alone["value"]:
        return [
            f"{kind}: the rules do not lower the held-out error ({alone['value']:.3f} without, {total['value']:.3f} with)"
        ]
    return []


def grader_words(trust: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a grader: where it is no better than a guess."""
    guesses, unknown = [], []
    for name, row in trust["propositions"].items():
        balanced = row["balanced_accuracy"]
        if balanced["value"] is None:
            unknown.append(name)
        elif balanced["low"] <= 0.5:
            guesses.append(name)
    notes = []
    mean = trust["mean"]
    if mean["accuracy"]["value"] is not None and mean["accuracy"]["value"] <= mean["majority"]["value"]:
        notes.append(
            f"The grader is right on {mean['accuracy']['value']:.1%} of labels (mean over propositions), no more than "
            f"always saying the commoner answer: {mean['majority']['value']:.1%}."
        )
    if guesses:
        notes.append(
            f"On {len(guesses)} of {len(trust['propositions'])} propositions the grader's balanced accuracy is not above "
            f"0.5, a guess: {', '.join(guesses)}."
        )
    if unknown:
        notes.append(f"Labels of one kind only, balanced accuracy unknown: {', '.join(unknown)}.")
    return notes


def answered_words(answered: float) -> list[str]:
    """What a reader must know of a grader that hardly answers; `answered`: mean of P(yes) + P(no)."""
    if answered >= ANSWERED:
        return []
    return [
        f"Only {answered:.1%} of what the grader would say next is yes or no: phi weighs what it would rather not say. Ask "
        "otherwise (prompt_template, yesWords, noWords), or take another grader."
    ]
