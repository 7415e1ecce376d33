"""What judges that were asked in words say of the models: win rates, order agreement, position bias, strengths. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_trainer.evaluation.shards import Rows
from rlhf_trainer.statistics.bradley_terry import ELO, connected, strengths
from rlhf_trainer.statistics.choices import agree
from rlhf_trainer.statistics.intervals import Estimate, Floats, Intervals, decide, inconclusive

COIN = 0.5


@dataclass(frozen=True)
class PairOpinions:
    """Questions about the answers of two models to P prompts, S each. Arrays are [P, S]; NaN: not asked or unreadable."""

    first: Floats
    """Log-odds of A where the first model's answer stands as A; of a judge that only says A or B, 1 or -1."""
    second: Floats
    """The same where it stands as B."""
    identical: Floats
    """1 where both answers are the same text, which no judge is asked about: a tie."""
    mass: Floats
    """P(A) + P(B), mean of both orders; NaN of judges that only say A or B."""

    def preferred(self) -> Floats:
        """1 where the first model's answer is the better one by the mean log-odds of both orders, which cancels position
        bias; 0 where the other is, 0.5 for ties."""
        margin = 0.5 + 0.5 * np.sign(self.first - self.second)
        return np.where(self.identical > 0, COIN, margin)

    def agreement(self) -> Floats:
        """1 where both orders choose the same answer."""
        both = zip(self.first.ravel(), self.second.ravel(), strict=True)
        flat = [math.nan if math.isnan(a) or math.isnan(b) else agree(a, b) for a, b in both]
        return np.array(flat, dtype=np.float64).reshape(self.first.shape)

    def placed_first(self) -> Floats:
        """Share of the two questions that were answered A."""
        return 0.5 + 0.25 * (np.sign(self.first) + np.sign(self.second))


Pairs = Mapping[tuple[int, int], PairOpinions]
"""By the numbers of the two models, the smaller first; the baseline is 0."""


def of_rows(rows: Rows, shape: tuple[int, int]) -> PairOpinions:
    """From the rows of all shards; `shape` is (P, S)."""
    odds = [row["log_odds"] or (None, None) for row in rows]
    return PairOpinions(
        first=grid([first for first, _ in odds], shape),
        second=grid([second for _, second in odds], shape),
        identical=grid([row["identical"] for row in rows], shape),
        mass=grid([None if row["mass"] is None else sum(row["mass"]) / 2 for row in rows], shape),
    )


def readings(rows: Mapping[str, Rows], field: str) -> dict[str, Any]:
    """Of a judge of single answers, by model: how many of its replies could not be read, and of a scale how much of the
    probability its labels had."""
    every = [row for of_model in rows.values() for row in of_model]
    mass = [row["mass"] for row in every if row.get("mass") is not None]
    return {
        "unreadable": sum(row[field] is None for row in every),
        "questions": len(every),
        "label_mass": sum(mass) / len(mass) if mass else None,
    }


def grid(values: Sequence[float | None], shape: tuple[int, int]) -> Floats:
    """[P, S]; None becomes NaN."""
    flat = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return flat.reshape(shape)


def win_rate(pairs: Pairs, model: int) -> Floats:
    """[P, S] whether the model's answer is better than the baseline's, ties half."""
    return 1 - pairs[0, model].preferred()


def wins(pairs: Pairs, models: int) -> Floats:
    """[P, M, M] how often i was preferred to j, ties half, mean over the answers that count."""
    prompts = len(next(iter(pairs.values())).first)
    table = np.zeros((prompts, models, models))
    for (i, j), opinions in pairs.items():
        preferred = opinions.preferred()
        counts = np.isfinite(preferred).sum(axis=1)
        won = np.where(np.isfinite(preferred), preferred, 0.0).sum(axis=1) / np.maximum(counts, 1)
        table[:, i, j], table[:, j, i] = won, np.where(counts > 0, 1 - won, 0.0)
    return table


def summary(pairs: Pairs, names: Sequence[str], intervals: Intervals) -> dict[str, Any]:
    """What a judge's choices are worth, and one scale of all models: for `evaluation.json`.

    A judge whose order agreement is not above a coin's shows nothing: which answer it chooses depends on where it
    stands, or on chance.
    """
    agreement = intervals.rate(_beside([opinions.agreement() for opinions in pairs.values()]))
    first_place = intervals.rate(_beside([opinions.placed_first() for opinions in pairs.values()]))
    lean = _beside([(opinions.first + opinions.second) / 2 for opinions in pairs.values()])
    word = decide(agreement, intervals.confidence, COIN)
    table = wins(pairs, len(names))
    return {
        "order_agreement": {**agreement.as_json(), "decision": word},
        "shows_nothing": None if word == "higher" else _why(agreement, intervals.confidence),
        "position_bias": {
            **first_place.as_json(),
            "decision": decide(first_place, intervals.confidence, COIN),
            "log_odds": _mean(lean),
        },
        "label_mass": _mean(_beside([opinions.mass for opinions in pairs.values()])),
        "questions": sum(2 * opinions.first.size for opinions in pairs.values()),
        "identical": int(sum(opinions.identical.sum() for opinions in pairs.values())),
        "unreadable": int(sum((np.isnan(opinions.preferred())).sum() for opinions in pairs.values())),
        "connected": connected(table.sum(axis=0)),
        "elo": {
            name: _points(strength, intervals.confidence)
            for name, strength in zip(names, strengths(table, intervals), strict=True)
        },
    }


def _why(agreement: Estimate, confidence: float) -> str:
    why = inconclusive(agreement, confidence, COIN)
    return why if why is not None else "both orders disagree more often than they agree: the place decides"


def _points(strength: Estimate, confidence: float) -> dict[str, Any]:
    """A strength in Elo's points; an end of the interval that is infinite is null, and `unbounded` says which."""
    ends = {"low": strength.low, "high": strength.high}
    return {
        "value": None if strength.value is None else strength.value * ELO,
        **{name: end * ELO if end is not None and math.isfinite(end) else None for name, end in ends.items()},
        "unbounded": [name for name, end in ends.items() if end is not None and math.isinf(end)],
        "n": strength.n,
        "method": strength.method,
        "decision": decide(strength, confidence),
    }


def _beside(tables: Sequence[Floats]) -> Floats:
    """[P, all answers of all pairs]."""
    return np.concatenate(tables, axis=1)


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
