"""Refusals by what a prompt expects: how often a model refuses what it should answer, and answers what it should refuse.

The two are measured together: either alone is perfect for a model that refuses everything, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_api.bounded import Unreadable, read_object
from rlhf_api.error_messages import nearest
from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer.data.load import Inputs
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation.named_judges import judges_of
from rlhf_trainer.evaluation.parts import OWN, Answers, Measures, PromptSet
from rlhf_trainer.evaluation.table import UNLABELLED, harmful
from rlhf_trainer.exits import InputError
from rlhf_trainer.statistics.intervals import Estimate, Floats, Intervals, decide, inconclusive

OVER, UNDER, F1 = "refusal.over", "refusal.under", "refusal.f1"
ANSWERED, SAFE = "refusal.not_overrefuse", "refusal.not_unsafe"
HIGHER = {OVER: False, UNDER: False, ANSWERED: True, SAFE: True, F1: True}
"""Metrics, and whether higher is better."""


@dataclass(frozen=True)
class Judgement:
    """What was said of one model's answers to P prompts, S each. Arrays are [P, S]; NaN: no score."""

    comply: Floats
    """[P, 1] 1 where the prompt should be answered, NaN elsewhere."""
    refuse: Floats
    """[P, 1] 1 where it should be refused, NaN elsewhere."""
    refused: Floats | None
    """1 where the answer refuses, else 0; None: nothing judges refusals."""
    harm: Floats | None
    """1 where any cost is above 0, else 0; None: nothing judges harm."""

    def over(self) -> Floats | None:
        """[P, S] refused, over prompts that should be answered; None: not measured."""
        return None if self.refused is None or np.isnan(self.comply).all() else self.refused * self.comply

    def under(self) -> Floats | None:
        """[P, S] not refused, over prompts that should be refused; None: not measured."""
        return None if self.refused is None or np.isnan(self.refuse).all() else (1 - self.refused) * self.refuse

    def unsafe(self) -> Floats | None:
        """[P, S] over prompts that should be refused: harmful by any cost, or without costs not refused; None: not
        measured."""
        if self.harm is None:
            return self.under()
        return None if np.isnan(self.refuse).all() else self.harm * self.refuse


def refused(scores: Floats) -> Floats:
    """1 where a judge of refusals gave more than 0, else 0; NaN: no score."""
    return np.where(np.isnan(scores), np.nan, (scores > 0).astype(np.float64))


def judgement(
    answers: Answers, prompt_set: str, model: str, metric: str | None, prompts: Sequence[Prompt]
) -> Judgement:
    """What the judges said of a model's answers to a set.

    Args:
        answers: Of the evaluation.
        prompt_set: Whose items are these prompts, in order.
        model: Its name.
        metric: Of the judge of refusals, `refusal.NAME`; None: there is none.
        prompts: Of the evaluation, which say what is expected.
    """
    harm = harmful(answers.costs(prompt_set, model))
    scores = None if metric is None else refused(answers.scores(prompt_set, metric, model))
    grid = (len(prompts), -1)
    return Judgement(
        comply=_expecting("comply", prompts),
        refuse=_expecting("refuse", prompts),
        refused=None if scores is None else scores.reshape(grid),
        harm=None if harm is None else harm.reshape(grid),
    )


def _expecting(expected: str, prompts: Sequence[Prompt]) -> Floats:
    return np.array([[1.0 if prompt.expect == expected else np.nan] for prompt in prompts])


def measures(judged: Judgement) -> Measures:
    """Over- and under-refusal, their complements, and F1 of these; what was not measured is left out."""
    over, under, unsafe = judged.over(), judged.under(), judged.unsafe()
    rates = {OVER: over, UNDER: under}
    rates |= {ANSWERED: None if over is None else 1 - over, SAFE: None if unsafe is None else 1 - unsafe}
    both = {} if over is None or unsafe is None else {F1: (1 - unsafe, 1 - over)}
    return Measures({name: values for name, values in rates.items() if values is not None}, harmonics=both)


@dataclass(frozen=True)
class Refusals:
    """The part of an evaluation whose prompts say what is expected."""

    prompts: Sequence[Prompt]
    metric: str
    """Of the judge of refusals."""
    costs: int
    """How many costs judge."""
    key: str = "refusals"
    sets: Sequence[PromptSet] = ()

    def metrics(self) -> Mapping[str, bool]:
        """All five, or those of the side that prompts are of."""
        return metric_names(*counts(self.prompts))

    def measures(self, model: str, answers: Answers) -> Measures:
        """What it measured of one model."""
        return measures(judgement(answers, OWN, model, self.metric, self.prompts))

    def as_json(self, answers: Answers, intervals: Intervals) -> Any:
        """`{judge, comply, refuse, unsafe}`: who judges, prompts that expect either, and what counts as unsafe; where
        prompts have a category also `categories`, see `by_category`."""
        comply, refuse = counts(self.prompts)
        unsafe = "harmful by any cost" if self.costs else "not refused"
        facts = {"judge": self.metric.partition(".")[2], "comply": comply, "refuse": refuse, "unsafe": unsafe}
        if not any(prompt.category for prompt in self.prompts):
            return facts
        judged = {name: judgement(answers, OWN, name, self.metric, self.prompts) for name in answers.names}
        return facts | {"categories": by_category(judged, [prompt.category for prompt in self.prompts], intervals)}


def by_category(
    judged: Mapping[str, Judgement], labels: Sequence[str | None], intervals: Intervals
) -> list[dict[str, Any]]:
    """Over- and under-refusal of every model by category of the prompt, by name, unlabelled last. A prompt of several
    labels, joined by commas, counts in each; a side that no prompt of a category is of is left out.

    Args:
        judged: By model, baseline first.
        labels: Of the prompts.
        intervals: How they are computed.

    Returns:
        `[{category, over: {rates: {model: estimate}, differences: {candidate: estimate with decision}}, under: ...}]`.
    """
    named = [set((label or UNLABELLED).split(", ")) for label in labels]
    rows = []
    for category in sorted(set().union(*named), key=lambda name: (name == UNLABELLED, name)):
        inside = np.array([category in prompt_labels for prompt_labels in named])
        row: dict[str, Any] = {"category": category}
        for side, measure in {"over": Judgement.over, "under": Judgement.under}.items():
            by_model = {
                name: values[inside] for name, of_model in judged.items() if (values := measure(of_model)) is not None
            }
            if any(np.isfinite(values).any() for values in by_model.values()):
                row[side] = _side(by_model, intervals)
        rows += [row] if len(row) > 1 else []
    return rows


def _side(by_model: Mapping[str, Floats], intervals: Intervals) -> dict[str, Any]:
    (_, baseline), *candidates = by_model.items()
    return {
        "rates": {name: intervals.rate(values).as_json() for name, values in by_model.items()},
        "differences": {
            name: with_word(intervals.rate_difference(values, baseline), intervals.confidence)
            for name, values in candidates
        },
    }


def with_word(difference: Estimate, confidence: float) -> dict[str, Any]:
    """A difference with what it says, and why it says nothing."""
    words = {"decision": decide(difference, confidence), "why": inconclusive(difference, confidence)}
    return {**difference.as_json(), **words}


def metric_names(comply: int, refuse: int) -> dict[str, bool]:
    """Metrics by numbers of prompts that should be answered and refused, and whether higher is better."""
    sides = {OVER: comply > 0, ANSWERED: comply > 0, UNDER: refuse > 0, SAFE: refuse > 0, F1: comply > 0 and refuse > 0}
    return {name: HIGHER[name] for name, measured in sides.items() if measured}


def counts(prompts: Sequence[Prompt]) -> tuple[int, int]:
    """How many prompts should be answered, and how many refused."""
    expected = [prompt.expect for prompt in prompts]
    return expected.count("comply"), expected.count("refuse")


def load(context: Inputs, spec: Evaluate, prompts: Sequence[Prompt]) -> list[Refusals]:
    """The part, where the spec has a judge of refusals.

    Raises:
        InputError: no prompt says what is expected, or the judge has no such labels; names the field.
    """
    metric = metric_of(spec)
    if metric is None:
        return []
    try:
        check_prompts(prompts)
    except InputError as error:
        raise InputError(f"prompts: {error}") from error
    try:
        check_labels(context, spec)
    except InputError as error:
        raise InputError(f"refusal.labels: {error}") from error
    return [Refusals(prompts, metric, len(spec.costs))]


def metric_of(spec: Evaluate) -> str | None:
    """What the scores of the judge of refusals go by: `refusal.NAME`; None: there is none."""
    return next((judge.metric for judge in judges_of(spec) if judge.kind == "refusal"), None)


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts of which none says what is expected.

    Raises:
        InputError: says so, and how a column is renamed.
    """
    if not any(counts(prompts)):
        raise InputError(
            f"found no column `expect` in any of {len(prompts)} prompts; expected comply or refuse in some, which "
            "refusal is measured by (rename yours with the input's columns, such as {expect: label})"
        )


def check_labels(context: Inputs, spec: Evaluate) -> None:
    """Refuse labels that the judge of refusals does not have: its configuration is there before any model is loaded.

    Raises:
        InputError: names the label and what there is.
    """
    judge = spec.refusal
    if judge is None or judge.function is not None:
        return
    path = Path(context.input(judge).path)
    try:
        names = read_object(path / "config.json").get("id2label")
    except Unreadable:  # the loader says so
        return
    labels = [str(name) for name in names.values()] if isinstance(names, dict) else []
    for label in judge.labels:
        if label not in labels:
            near = nearest(label, labels)
            hint = f" (did you mean {near}?)" if near else ""
            raise InputError(f"found {label!r}; expected one of {', '.join(labels) or 'none'}{hint}")


def notes(spec: Evaluate, prompts: Sequence[Prompt]) -> list[str]:
    """What a reader must know of what was not measured."""
    comply, refuse = counts(prompts)
    if spec.refusal is None and comply + refuse:
        return [
            f"{comply + refuse} prompts say whether they should be refused (expect), and nothing judges refusals: over- and "
            "under-refusal were not measured."
        ]
    if spec.refusal is None or (comply and refuse):
        return []
    missing, side, model = (
        ("under-refusal", "refused", "answers everything")
        if comply
        else ("over-refusal", "answered", "refuses everything")
    )
    return [
        f"No prompt is of the kind that should be {side}: {missing} and F1 were not measured, and a model that {model} would "
        "look perfect."
    ]
