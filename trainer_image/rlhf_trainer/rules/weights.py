"""The weights of one response type with their evidence: several splits by prompt, errors, histograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_trainer.data.rows import Completion
from rlhf_trainer.data.splits import opening, split_by_prompt
from rlhf_trainer.exits import GuardTripped
from rlhf_trainer.rules import fit_report
from rlhf_trainer.rules.hinge_fit import Descent, fit
from rlhf_trainer.rules.policy import Policy
from rlhf_trainer.rules.ranking import Ranked, name_of

ALL_ALIKE = "no two of these completions rank apart"
NO_PAIR_LEFT = "no pair is left to fit on beside those held out"
"""Why a response type has no weights."""


@dataclass
class Fits:
    """What was fitted so far."""

    weights: dict[str, dict[str, float]]
    """By response type, by feature."""
    types: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Evidence by response type; see docs/rules.md."""
    notes: list[str] = field(default_factory=list)
    uniform: int = 0
    """Completions all of whose classes had probability 0."""


def fit_type(
    fits: Fits,
    policy: Policy,
    rows: Sequence[Completion],
    group: Ranked,
    seeds: Sequence[int],
    holdout: float,
    how: Descent,
) -> None:
    """Fit one response type and note what came of it; the weights of the first seed that leaves a pair are kept.

    Args:
        fits: what was fitted so far.
        policy: the rules.
        rows: completions of the response type; those whose dialogue holds no pair are not split.
        group: the same, ranked.
        seeds: one a split.
        holdout: share of prompts held out.
        how: of the fit.
    """
    kind, features = group.kind, policy.features[group.kind]
    fits.uniform += group.classified.uniform
    paired = group.paired
    split = [row for row in rows if opening(row) in paired]
    try:
        split_fits = [_once(split, group, seed, holdout, how) for seed in seeds] if split else []
    except GuardTripped as error:
        raise GuardTripped(f"{kind}: {error}", reason=error.reason) from error
    fitted = [result for result in split_fits if result is not None]
    if not fitted:
        why = NO_PAIR_LEFT if split else ALL_ALIKE
        seen_names = ", ".join(dict.fromkeys(name_of(policy, row) for row in rows))
        fits.notes.append(f"{kind}: {why} ({len(rows)} completions, {seen_names}): not measurable, no weights")
        nothing = fit_report.error_rates({}, _NONE, _NONE, [])
        fits.types[kind] = {"completions": len(rows), "pairs": None, "unfitted": why, "heldout": nothing}
        return
    first = fitted[0]
    if len(fitted) < len(split_fits):
        fits.notes.append(
            f"{kind}: {len(split_fits) - len(fitted)} of {len(split_fits)} splits leave no pair to fit on; the weights are of the "
            "first that does"
        )
    weights = np.stack([result["weights"] for result in fitted])
    fits.weights[kind] = dict(zip(features, map(float, first["weights"]), strict=True))
    shown = sorted(first["seen"]) or list(range(len(rows)))
    names = [name_of(policy, rows[index]) for index in shown]
    fits.types[kind] = {
        "completions": len(rows),
        "pairs": first["pairs"],
        "there": first["there"],
        "train": first["train"],
        "heldout": first["heldout"],
        "seeds": {
            part: {
                method: fit_report.over_seeds([result[part][method]["value"] for result in fitted])
                for method in fit_report.METHODS
            }
            for part in ("train", "heldout")
        },
        "loss": first["loss"],
        "uniform": group.classified.uniform,
        "weights": [
            {"feature": name, "weight": float(weights[0, index]), **fit_report.over_seeds(weights[:, index].tolist())}
            for index, name in enumerate(features)
        ],
        "histograms": fit_report.histograms(
            {method: values[shown] for method, values in first["scores"].items()},
            names,
            [group.groups[index] for index in shown],
        ),
        "shown": "held-out completions" if first["seen"] else "all completions",
    }
    fits.notes += fit_report.words(kind, first["heldout"])
    if first["there"] != first["pairs"]:
        train, heldout = (f"{first['pairs'][side]} of {first['there'][side]}" for side in ("train", "heldout"))
        fits.notes.append(f"{kind}: {train} pairs to fit on and {heldout} held out are drawn by seed")


_NONE = np.zeros(0, dtype=np.int64)


def _once(rows: Sequence[Completion], group: Ranked, seed: int, holdout: float, how: Descent) -> dict[str, Any] | None:
    """One split and its fit; None where no pair is left to fit on."""
    train, heldout = split_by_prompt(list(rows), holdout, seed)
    fitted, held_out = ({opening(row) for row in side} for side in (train, heldout))
    better, worse, total = group.pairs(fitted, seed)
    if not total:
        return None
    features, reward = group.classified.features, group.reward
    result = fit(features[better], features[worse], reward[better] - reward[worse], how)
    rules = (features * result.weights).sum(axis=1)
    scores = {"rm": reward, "rbr": rules, "total": reward + rules}
    outside = group.pairs(held_out, seed)
    return {
        "weights": result.weights,
        "scores": scores,
        "pairs": {"train": len(better), "heldout": len(outside.better)},
        "there": {"train": total, "heldout": outside.total},
        "train": fit_report.error_rates(scores, better, worse, group.openings),
        "heldout": fit_report.error_rates(scores, outside.better, outside.worse, group.openings),
        "loss": {"first": float(result.losses[0]), "last": float(result.losses[-1])},
        "seen": [index for index, start in enumerate(group.openings) if start in held_out],
    }
