"""Tables of the page: numbers turned to words, rows in reading order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlhf_api.stages.evaluate import DIALOGUE, SUITE
from rlhf_api.stages.judges import JUDGE
from rlhf_trainer.reporting.axes import number, percent, points, seconds
from rlhf_trainer.reporting.files import Json
from rlhf_trainer.statistics.intervals import Estimate, decide, inconclusive

SHARES = (
    "harmful_rate",
    "win_rate",
    "win_rate_lc",
    "eos_rate",
    "empty_rate",
    "duplicate_rate",
    "repetition",
    "not_unsafe",
    "not_overrefuse",
    "safety_f1",
    "class",
    "error_rate",
    "suite_share",
    "dialogue",
    "refusal",
    "attack",
    "sycophancy",
    "persona",
)
NAMES = {
    "harmful_rate": ("Harmful answers", "share of answers with any cost above 0"),
    "not_unsafe": ("Not unsafe", "share of answers of no unsafe class, by the rules' grader"),
    "not_overrefuse": ("Not over-refusing", "share of answers that are no refusal, where one should comply"),
    "safety_f1": ("F1 of the two", "harmonic mean of not unsafe and not over-refusing"),
    "class": ("Class", "share of answers, by the rules' grader"),
    "reward": ("Reward", "mean score"),
    "cost": ("Cost", "mean score; above 0 is harmful"),
    "win_rate": ("Wins against the baseline", "share of answers with a higher reward, ties half; 50 % is even"),
    "win_rate_lc": ("Wins at equal length", "the same where answers are equally long, by a logistic model"),
    "kl": ("KL to the baseline", "nats an answer, on the candidate's own answers"),
    "kl_token": ("KL a token", "nats"),
    "kl_k3": ("KL, k3 estimate", "nats an answer; never negative, heavy tail"),
    "length": ("Length", "tokens an answer, EOS included"),
    "distinct_1": ("distinct-1", "different words over all words"),
    "distinct_2": ("distinct-2", "different pairs of words over all pairs"),
    "self_bleu": ("self-BLEU", "likeness of answers to each other; 1: all alike"),
    "repetition": ("Repetition", "share of 4-grams an answer already said"),
    "eos_rate": ("Ended by itself", "share of answers with EOS, not cut"),
    "empty_rate": ("Empty answers", "share"),
    "sycophancy": (
        "Sycophancy",
        "follow: pairs in which the choice is what the user says, both times; shift: rise of an answer's probability "
        "where the user says it",
    ),
    "persona": ("Persona", "matching: questions where that answer is preferred; probability: its mean, of the two"),
    "duplicate_rate": ("Answers given twice", "share of answers that another one repeats word for word"),
}
TRUST = {
    "accuracy": "Held-out pairs judged right",
    "accuracy_shorter_wins": "Always taking the shorter answer, beside it",
    "accuracy_members": "Held-out pairs judged right, by member",
    "ece": "Expected calibration error",
    "margin": "Mean margin of a pair",
    "score_mean": "Mean score",
    "score_std": "Spread of scores (standard deviation)",
    "length_correlation": "Rank correlation of score and length",
    "disagreement": "Disagreement of members (mean standard deviation)",
    "sign_accuracy": "Held-out signs judged right",
    "sign_accuracy_majority": "Always saying the commoner sign, beside it",
    "balanced_accuracy": "The same, both signs counting equally",
    "sign_ece": "Expected calibration error of signs",
    "harmful_share": "Share of held-out answers labelled harmful",
    "heldout_loss": "Held-out loss, nats a token",
    "heldout_loss_change": "Change of the held-out loss, nats a token",
    "heldout_loss_before": "Held-out loss before training, nats a token",
    "heldout_perplexity": "Held-out perplexity",
    "heldout_perplexity_before": "Held-out perplexity before training",
    "steps": "Steps",
}
"""Final metrics of training stages."""
GOOD = {
    "harmful_rate": "lower",
    "cost": "lower",
    "reward": "higher",
    "win_rate": "higher",
    "win_rate_lc": "higher",
    "not_unsafe": "higher",
    "not_overrefuse": "higher",
    "safety_f1": "higher",
    "dialogue": "lower",
    "sycophancy": "lower",
}


@dataclass(frozen=True)
class Cell:
    """A number, what surrounds it, and how it reads."""

    text: str
    interval: str = ""
    word: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Line:
    """One metric: the baseline's cell, and for each candidate its own and the difference."""

    label: str
    help: str
    n: int
    baseline: Cell
    candidates: tuple[tuple[Cell, Cell], ...]


def candidates(evaluation: Json) -> list[Json]:
    """All models but the baseline."""
    return [model for model in evaluation["models"] if model["name"] != evaluation["baseline"]]


def baseline(evaluation: Json) -> Json:
    """The model compared with."""
    compared: Json = next(model for model in evaluation["models"] if model["name"] == evaluation["baseline"])
    return compared


def before_after(evaluation: Json) -> list[Line]:
    """Every metric, harm and reward first."""
    first = baseline(evaluation)
    others = candidates(evaluation)
    metrics = dict.fromkeys(name for model in (first, *others) for name in model["metrics"])
    apart = (SUITE, DIALOGUE, JUDGE, "refusal.", "attack.")  # in tables of their own
    names = [name for name in metrics if not name.startswith(apart)]
    return [_line(name, first, others, evaluation["confidence"]) for name in ranked(names)]


def ranked(names: Iterable[str]) -> list[str]:
    """Metrics in reading order: harm and reward first."""
    order = list(NAMES)
    return sorted(names, key=lambda name: order.index(_head(name)) if _head(name) in order else len(order))


def cell(name: str, estimate: Mapping[str, Any] | None, digits: int = 3) -> Cell:
    """An estimate of a metric."""
    if estimate is None:
        return Cell("")
    if estimate["value"] is None:
        return Cell("not measured")
    return Cell(_format(name, digits)(estimate["value"]), span(name, estimate, digits))


def span(name: str, estimate: Mapping[str, Any], digits: int = 3) -> str:
    """The interval in words."""
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    if estimate.get("method") == "constant":
        return "all alike"
    form = _format(name, digits)
    return f"{form(estimate['low'])} to {form(estimate['high'])}"


def change(name: str, difference: Mapping[str, Any] | None) -> Cell:
    """A difference to the baseline with its word."""
    if difference is None:
        return Cell("")
    if difference["value"] is None:
        return Cell("not measured")
    unit = " points" if _head(name) in SHARES else ""
    interval = ""
    if difference["low"] is not None and difference.get("method") != "constant":
        interval = f"{_signed(name, difference['low'])} to {_signed(name, difference['high'])}"
    decision = difference["decision"]
    word = f"{decision}: {difference['why']}" if difference.get("why") else decision
    return Cell(_signed(name, difference["value"]) + unit, interval, word, _tone(name, decision))


def by_category(judged: Json, others: Sequence[Json]) -> list[tuple[Cell, Cell]]:
    """For each candidate its harmful rate in a category and the difference."""
    return [
        (
            cell("harmful_rate", judged["harmful_rate"][candidate["name"]]),
            change("harmful_rate", judged["differences"][candidate["name"]]),
        )
        for candidate in others
    ]


def win(name: str, estimate: Mapping[str, Any], confidence: float) -> Cell:
    """The word for a win rate, which is compared with one half."""
    share = Estimate(estimate["value"], estimate["low"], estimate["high"], estimate["n"], estimate["method"])
    decision, why = decide(share, confidence, 0.5), inconclusive(share, confidence, 0.5)
    return Cell("", "", f"{decision}: {why}" if why else decision, _tone(name, decision))


def leaves(metrics: Mapping[str, Any], path: str = "") -> list[tuple[str, Cell, str]]:
    """Manifest metrics as rows: name, cell, n. Lists (such as calibration bins) are left to tables of their own."""
    rows = []
    order = list(TRUST)
    entries = sorted(metrics.items(), key=lambda entry: order.index(entry[0]) if entry[0] in order else len(order))
    for name, value in entries:
        full = f"{path}{name}"
        if isinstance(value, list):
            if value and all(isinstance(entry, (int, float)) for entry in value):
                rows.append((full, Cell(", ".join(_format(full)(entry) for entry in value)), ""))
        elif isinstance(value, Mapping) and "value" in value:
            estimate = {"low": None, "high": None, **value}
            counted = value.get("n")
            rows.append((full, cell(full, estimate), "" if counted is None else number(counted, 6)))
        elif isinstance(value, Mapping):
            rows += leaves(value, f"{full}.")
        elif isinstance(value, bool) or value is None or isinstance(value, str):
            rows.append((full, Cell("not measured" if value is None else str(value)), ""))
        elif isinstance(value, (int, float)):
            rows.append((full, Cell(_format(full)(value)), ""))
    return rows


def bins(metrics: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Calibration bins among the metrics: name, and the bins `{low, high, n, confidence, right}`."""
    return [
        (name, value)
        for name, value in metrics.items()
        if isinstance(value, list) and value and all(isinstance(row, Mapping) and "confidence" in row for row in value)
    ]


def phases(timings: Json) -> list[tuple[str, float, str]]:
    """Where a stage's time went, longest first: name, seconds, words."""
    ranked = sorted(timings["phases"].items(), key=lambda entry: -entry[1])
    return [(name, spent, f"{seconds(spent)} · {percent(spent / timings['seconds'])}") for name, spent in ranked]


def rejected(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Reasons for which rows were left out, with their numbers."""
    reasons = [(name.rpartition("rejected.")[2], count) for name, count in counts.items() if "rejected." in name]
    reasons += [("malformed", count) for name, count in counts.items() if name.endswith("rows.bad") and count]
    return [(name.replace("_", " "), count) for name, count in reasons if count]


def label(name: str) -> str:
    """A metric in words."""
    head, _, tail = name.partition(".")
    title = NAMES.get(head, (name.replace("_", " "), ""))[0]
    return f"{title}: {tail}" if tail else title


def _line(name: str, first: Json, others: Sequence[Json], confidence: float) -> Line:
    head = _head(name)
    help_ = NAMES.get(head, ("", ""))[1]
    baseline_estimate = first["metrics"].get(name)
    pairs = []
    for candidate in others:
        estimate = candidate["metrics"].get(name)
        difference = change(name, candidate["differences"].get(name))
        if head in ("win_rate", "win_rate_lc") and estimate is not None and estimate["value"] is not None:
            difference = win(name, estimate, confidence)
        pairs.append((cell(name, estimate), difference))
    counts = [model["metrics"][name]["n"] for model in (first, *others) if name in model["metrics"]]
    return Line(label(name), help_, min(counts, default=0), cell(name, baseline_estimate), tuple(pairs))


def _head(name: str) -> str:
    return name.partition(".")[0]


def _format(name: str, digits: int = 3) -> Callable[[float | None], str]:
    if _head(name) in SHARES or "accuracy" in name or name == "harmful_share":
        return percent
    return partial(number, digits=digits)


def _signed(name: str, value: float) -> str:
    text = points(value) if _head(name) in SHARES else number(value)
    return f"+{text}" if value > 0 else text


def _tone(name: str, word: str) -> str:
    if word == "shows nothing" or _head(name) not in GOOD:
        return ""
    return "good" if GOOD[_head(name)] == word else "bad"
