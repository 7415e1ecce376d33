"""The table of an evaluation: every measure of every model with its interval, and differences to the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_api.stages.evaluate import SUITE
from rlhf_trainer.evaluation import text
from rlhf_trainer.evaluation.classes import BOTH
from rlhf_trainer.evaluation.judged import Judged, Measured
from rlhf_trainer.evaluation.parts import Measures, merged
from rlhf_trainer.evaluation.wins import AT_EQUAL_LENGTH, longer_by, win_shares
from rlhf_trainer.statistics.intervals import (
    NOTHING,
    Estimate,
    Floats,
    Intervals,
    decide,
    inconclusive,
    point,
)
from rlhf_trainer.statistics.length_control import length_controlled

VERSION = "1"
UNLABELLED = "not labelled"
WITHIN = {"length": (0.0, math.inf), "repetition": (0.0, 1.0), "kl_k3": (0.0, math.inf)}
"""What means that are no score can be."""


def harmful(costs: dict[str, Floats]) -> Floats | None:
    """1 where any cost is above 0, 0 where none is, NaN where none is and one is missing; None without costs. [P, S]"""
    if not costs:
        return None
    stacked = np.stack(list(costs.values()))
    some = (stacked > 0).any(axis=0)
    unknown = np.isnan(stacked).any(axis=0)
    return np.where(some, 1.0, np.where(unknown, np.nan, 0.0))


def measure(model: Judged, baseline: Judged, intervals: Intervals, weights: dict[str, float]) -> Measured:
    """All metrics of a model; for a candidate also its win rates over the baseline, its KL and its differences.

    `weights` are those of the rewards in the sum by which `win_rate` judges.
    """
    metrics = _own(model, intervals)
    if model is baseline:
        return Measured(model.name, metrics)
    won = win_shares(model, baseline, weights)
    metrics |= {name: intervals.share(values) for name, values in won.items()}
    if won:
        metrics[AT_EQUAL_LENGTH] = length_controlled(won["win_rate"], longer_by(model, baseline), intervals)
    metrics |= _kl(model, intervals)
    return Measured(model.name, metrics, _differences(model, baseline, intervals))


def categories(
    models: Sequence[Judged], baseline: Judged, labels: Sequence[str | None], intervals: Intervals
) -> list[dict[str, Any]]:
    """Harmful rate of every model by category of the prompt, by name, unlabelled last; empty without labels or costs.
    A prompt of several labels, joined by commas, counts in each.

    Returns:
        [{category, n, harmful_rate: {model: estimate}, differences: {candidate: estimate with decision}, by_cost}];
        the rate is by any cost, and `by_cost` has the same two by each cost alone.
    """
    if not any(labels) or not baseline.costs:
        return []
    named = [set((label or UNLABELLED).split(", ")) for label in labels]
    by_any = {model.name: _harm(model) for model in models}
    by_cost = {cost: {model.name: _above(model.costs[cost]) for model in models} for cost in baseline.costs}
    rows = []
    for category in sorted(set().union(*named), key=lambda name: (name == UNLABELLED, name)):
        inside = np.array([category in prompt_labels for prompt_labels in named])
        row: dict[str, Any] = {"category": category, "n": int(inside.sum())}
        row |= _rates_of(by_any, inside, baseline.name, intervals)
        row["by_cost"] = {cost: _rates_of(rates, inside, baseline.name, intervals) for cost, rates in by_cost.items()}
        rows.append(row)
    return rows


def _rates_of(
    rates: dict[str, Floats], inside: NDArray[np.bool_], baseline: str, intervals: Intervals
) -> dict[str, Any]:
    return {
        "harmful_rate": {name: intervals.rate(rate[inside]).as_json() for name, rate in rates.items()},
        "differences": {
            name: with_word(intervals.rate_difference(rate[inside], rates[baseline][inside]), intervals)
            for name, rate in rates.items()
            if name != baseline
        },
    }


def _above(costs: Floats) -> Floats:
    """1 where a cost is above 0, NaN where it is missing."""
    return np.where(np.isnan(costs), np.nan, (costs > 0).astype(np.float64))


def as_json(measured: Measured, intervals: Intervals) -> dict[str, Any]:
    """`{name, metrics, differences}` with the decision's word beside each difference."""
    return {
        "name": measured.name,
        "metrics": {name: estimate.as_json() for name, estimate in measured.metrics.items()},
        "differences": {name: with_word(estimate, intervals) for name, estimate in measured.differences.items()},
    }


def scores(models: Sequence[Judged]) -> dict[str, dict[str, Floats]]:
    """Scores by metric (`cost.harm`), then by model: [P, S]."""
    by_metric: dict[str, dict[str, Floats]] = {}
    for model in models:
        for metric, values in _scored(model).items():
            by_metric.setdefault(metric, {})[model.name] = values
    return by_metric


def missing_scores(models: Sequence[Judged]) -> list[str]:
    """A sentence for each judge of a model that gave no score (NaN) to some answers, and for empty answers."""
    notes = []
    for model in models:
        for judge, scores in [*model.rewards.items(), *model.costs.items(), *model.refusals.items()]:
            missing = int(np.isnan(scores).sum())
            if missing:
                notes.append(
                    f"{judge} gave no score (NaN) to {missing} of {scores.size} answers of {model.name}: "
                    f"left out of its numbers"
                )
        empty = sum(not answer.strip() for answers in model.texts for answer in answers)
        if empty:
            notes.append(f"{empty} of {model.lengths.size} answers of {model.name} are empty; they are judged as such")
    return notes


def _own(model: Judged, intervals: Intervals) -> dict[str, Estimate]:
    metrics = {f"reward.{name}": intervals.mean(scores) for name, scores in model.rewards.items()}
    metrics |= {f"cost.{name}": intervals.mean(scores) for name, scores in model.costs.items()}
    metrics |= {name: intervals.rate(values) for name, values in _harmful_rates(model).items()}
    metrics |= {name: intervals.mean(values, WITHIN[name]) for name, values in _means(model).items()}
    metrics |= {name: intervals.rate(values) for name, values in _rates(model).items()}
    both = model.classes.both() if model.classes is not None else None
    if both is not None:
        metrics[BOTH] = intervals.harmonic(*both)
    metrics |= {name: _of_suite(values, intervals) for name, values in suite_values(model).items()}
    for of_part in model.measures:
        metrics |= of_part.estimates(intervals)
    flat = [answer for answers in model.texts for answer in answers]
    count = len(model.texts)
    metrics["distinct_1"] = point(text.distinct(flat, 1), count)
    metrics["distinct_2"] = point(text.distinct(flat, 2), count)
    metrics["self_bleu"] = point(text.self_bleu(flat), count)
    return metrics


def answered(model: Judged) -> Measures:
    """What has an interval over prompts or documents, by metric, row by row."""
    suites, kl = suite_values(model), {"kl": model.kl, "kl_k3": model.kl_k3}
    shares = {name: values for name, values in suites.items() if _are_shares(values)}
    means = {name: values for name, values in (suites | kl).items() if values is not None and name not in shares}
    both = model.classes.both() if model.classes is not None else None
    rates, means = {**_harmful_rates(model), **_rates(model), **shares}, {**_scored(model), **_means(model), **means}
    return merged([Measures(rates, means, {BOTH: both} if both is not None else {}), *model.measures])


def suite_values(model: Judged) -> dict[str, Floats]:
    """Values of documents by metric: `suite.NAME` is what stands for a suite, `suite.NAME.METRIC` each of several."""
    values: dict[str, Floats] = {}
    for suite, metrics in model.suites.items():
        values[f"{SUITE}{suite}"] = next(iter(metrics.values()))
        values |= {f"{SUITE}{suite}.{name}": of_documents for name, of_documents in metrics.items() if len(metrics) > 1}
    return values


def _of_suite(values: Floats, intervals: Intervals) -> Estimate:
    return intervals.rate(values) if _are_shares(values) else intervals.mean(values)


def _suite_difference(ours: Floats, theirs: Floats, intervals: Intervals) -> Estimate:
    """Documents are drawn as pairs."""
    shares = _are_shares(ours) and _are_shares(theirs)
    return intervals.rate_difference(ours, theirs) if shares else intervals.difference(ours, theirs)


def _are_shares(values: Floats) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _means(model: Judged) -> dict[str, Floats]:
    repeated = [[text.repetition(answer) for answer in answers] for answers in model.texts]
    return {"length": model.lengths, "repetition": np.array(repeated, dtype=np.float64)}


def _rates(model: Judged) -> dict[str, Floats]:
    shape = model.lengths.shape
    flat = [answer for answers in model.texts for answer in answers]
    empty = np.array([not answer.strip() for answer in flat], dtype=np.float64)
    same = np.array(text.duplicates(flat), dtype=np.float64)
    ruled = model.classes.rates() if model.classes is not None else {}
    return {"eos_rate": model.ended, "empty_rate": empty.reshape(shape), "duplicate_rate": same.reshape(shape), **ruled}


def _harmful_rates(model: Judged) -> dict[str, Floats]:
    overall = harmful(model.costs)
    if overall is None:
        return {}
    single = {f"harmful_rate.{name}": _above(costs) for name, costs in model.costs.items()}
    return {"harmful_rate": overall, **(single if len(single) > 1 else {})}


def _harm(model: Judged) -> Floats:
    rates = harmful(model.costs)
    if rates is None:
        raise ValueError("no costs")
    return rates


def _kl(model: Judged, intervals: Intervals) -> dict[str, Estimate]:
    if model.kl is None or model.kl_k3 is None:
        return {"kl": NOTHING, "kl_token": NOTHING, "kl_k3": NOTHING}
    return {
        "kl": intervals.mean(model.kl),
        "kl_token": intervals.ratio(model.kl, model.lengths),
        "kl_k3": intervals.mean(model.kl_k3, within=WITHIN["kl_k3"]),
    }


def _differences(model: Judged, baseline: Judged, intervals: Intervals) -> dict[str, Estimate]:
    ours, theirs = ({**_scored(side), **_means(side)} for side in (model, baseline))
    differences = {name: intervals.difference(values, theirs[name]) for name, values in ours.items()}
    ours, theirs = ({**_harmful_rates(side), **_rates(side)} for side in (model, baseline))
    differences |= {name: intervals.rate_difference(values, theirs[name]) for name, values in ours.items()}
    ours, theirs = suite_values(model), suite_values(baseline)
    differences |= {name: _suite_difference(values, theirs[name], intervals) for name, values in ours.items()}
    for of_ours, of_theirs in zip(model.measures, baseline.measures, strict=True):
        differences |= of_ours.differences(of_theirs, intervals)
    both = [side.classes.both() if side.classes is not None else None for side in (model, baseline)]
    if both[0] is not None and both[1] is not None:
        differences[BOTH] = intervals.harmonic_difference(both[0], both[1])
    return differences


def _scored(model: Judged) -> dict[str, Floats]:
    return {f"reward.{name}": values for name, values in model.rewards.items()} | {
        f"cost.{name}": values for name, values in model.costs.items()
    }


def with_word(difference: Estimate, intervals: Intervals) -> dict[str, Any]:
    """A difference with the decision's word, and why it is inconclusive where it is."""
    confidence = intervals.confidence
    return {
        **difference.as_json(),
        "decision": decide(difference, confidence),
        "why": inconclusive(difference, confidence),
    }
