"""How the scores of models are distributed, on common bins: a mean may stay where a tail moved (distribution shift). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhf_trainer.statistics.intervals import Floats

FEWEST_BINS, MOST_BINS = 8, 40


def distributions(scores: Mapping[str, Mapping[str, Floats]], baseline: str) -> dict[str, Any]:
    """Histograms of every judge's scores, model by model.

    Args:
        scores: By metric (`cost.harm`), then by model: of any shape; NaN: no score.
        baseline: The model compared with.

    Returns:
        {metric: {edges, counts: {model: [of each bin]}, overlap: {candidate: share}}}. Edges are those of all models
        together (the width of Freedman and Diaconis 1981, 8 to 40 bins); `overlap` is the share of the probability that
        candidate and baseline have in common, bin by bin: 1 where they are alike. Metrics without a score are left out.
    """
    by_metric = {}
    for metric, by_model in scores.items():
        finite = {model: values[np.isfinite(values)].ravel() for model, values in by_model.items()}
        together = np.concatenate(list(finite.values()))
        if not len(together):
            continue
        edges = _edges(together)
        counts = {model: np.histogram(values, edges)[0].astype(np.float64) for model, values in finite.items()}
        by_metric[metric] = {
            "edges": [float(edge) for edge in edges],
            "counts": {model: [int(count) for count in of_model] for model, of_model in counts.items()},
            "overlap": {
                model: _overlap(of_model, counts[baseline]) for model, of_model in counts.items() if model != baseline
            },
        }
    return by_metric


def _edges(values: Floats) -> Floats:
    low, high = float(values.min()), float(values.max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    quarter, three_quarters = np.quantile(values, [0.25, 0.75])
    width = 2 * (three_quarters - quarter) / len(values) ** (1 / 3)
    bins = int(np.ceil((high - low) / width)) if width > 0 else FEWEST_BINS
    return np.linspace(low, high, max(FEWEST_BINS, min(MOST_BINS, bins)) + 1)


def _overlap(ours: Floats, theirs: Floats) -> float | None:
    if not ours.sum() or not theirs.sum():
        return None
    return float(np.minimum(ours / ours.sum(), theirs / theirs.sum()).sum())
