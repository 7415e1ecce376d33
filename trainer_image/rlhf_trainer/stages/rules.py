"""`rules`: a grader's answers to a policy's questions, weighed so that completions rank as the policy says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rlhf_api.digest import digest_of
from rlhf_api.stages import STAGE_TYPES
from rlhf_api.stages.rules import Rules
from rlhf_trainer import distributed, functions
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.load import load_completions
from rlhf_trainer.data.rows import Completion, Counts, Prompt
from rlhf_trainer.data.splits import opening
from rlhf_trainer.evaluation.judges import load
from rlhf_trainer.evaluation.named_judges import Named
from rlhf_trainer.evaluation.shards import SIZE, Rows, Shards
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.readers import readers
from rlhf_trainer.inspection.templates import checks_of
from rlhf_trainer.reporting.collect import FIT
from rlhf_trainer.rules import fit_report
from rlhf_trainer.rules.completions import check_completions, check_rank_apart, check_scales
from rlhf_trainer.rules.grader import Asking, Grader, Question
from rlhf_trainer.rules.hinge_fit import Descent
from rlhf_trainer.rules.parser import read_policy
from rlhf_trainer.rules.policy import Policy
from rlhf_trainer.rules.probabilities import Grades, classify
from rlhf_trainer.rules.product import Model, Weights
from rlhf_trainer.rules.ranking import labels, ranked
from rlhf_trainer.rules.weights import Fits, fit_type


def run(context: StageContext) -> None:
    """Grade, score, fit and publish.

    Raises:
        InputError: policy, completions or models cannot be used.
        GuardTripped: a grade is not a finite number.
        Stopped: asked to stop; what was graded is kept.
    """
    spec = context.spec(Rules)
    policy = read_policy(Path(context.input(spec.policy).path))
    rows, counts = load_completions(context, spec.completions, *checks_of(context, readers(spec, "completions")))
    gold: list[Completion] = []
    gold_counts = Counts()
    if spec.gold:
        gold, gold_counts = load_completions(context, spec.gold, *checks_of(context, readers(spec, "gold")))
    check_completions(policy, rows, labelled=spec.features == "labels")
    check_completions(policy, gold, labelled=True)
    by_prompt = spec.pairs == "prompt"
    check_scales(rows, by_prompt=by_prompt)
    check_rank_apart(policy, rows, by_prompt=by_prompt)
    grading = Grading(context, spec, policy, rows, gold)
    grading.run()
    distributed.barrier()  # every rank's shards are in place

    def build(folder: Path) -> Facts:
        grades = list(grading.shards.all("grades"))
        fits = fitted(context, spec, policy, rows, grading)
        product = Weights(policy, reward_of(context, spec), grader_of(context, spec), asking(spec), fits.weights)
        product.write(folder)
        trusted = trust(policy, gold, grades[len(rows) :])
        content = {
            "version": "1",
            "features": spec.features,
            "pairs": spec.pairs,
            "types": fits.types,
            "grader": trusted,
        }
        (folder / FIT).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        counted = {**counts.as_dict(), **(gold_counts.as_dict("gold") if gold else {})}
        return facts(spec, counted, fits, trusted, [row for row in grades if row["grades"]])

    context.publish(build)


def fitted(context: StageContext, spec: Rules, policy: Policy, rows: Sequence[Completion], grading: Grading) -> Fits:
    """Weights of every response type that has ranked pairs, with their evidence.

    Raises:
        InputError: none has.
    """
    grades = [row["grades"] for row in grading.shards.all("grades")]
    rewards = np.array([row["score"] for row in grading.shards.all("scores")], dtype=np.float64)
    seeds = [context.seed * 1009 + number for number in range(spec.seeds)]
    how = Descent(spec.iterations, spec.learning_rate, spec.weight_decay)
    fits = Fits({})
    for kind in policy.types:
        numbers = [number for number, row in enumerate(rows) if row.response_type == kind]
        if not numbers:
            fits.notes.append(f"{kind}: no completion of this response type: it has no weights")
            continue
        mine = [rows[number] for number in numbers]
        labelled = spec.features == "labels"
        features = labels(policy, mine, kind) if labelled else columns([grades[number] for number in numbers])
        group = ranked(policy, rows, kind, features, rewards[numbers], by_prompt=spec.pairs == "prompt")
        fit_type(fits, policy, mine, group, seeds, spec.holdout, how)
    if not fits.weights:
        raise InputError(
            "completions: no pair is left to fit on beside those held out; lower holdout, or give more prompts"
        )
    return fits


def facts(
    spec: Rules, counts: dict[str, int], fits: Fits, trusted: dict[str, Any] | None, graded: Sequence[dict[str, Any]]
) -> Facts:
    """What the stage says of its product; `graded`: what the grader said of the completions it was asked about."""
    metrics: dict[str, Any] = {"error_rate": {kind: evidence["heldout"] for kind, evidence in fits.types.items()}}
    notes = [*said_of(spec), *fits.notes]
    if trusted is not None:
        metrics["grader"] = trusted["mean"]
        notes += trusted["notes"]
    if graded:
        metrics["answered"] = float(np.mean([row["answered"] for row in graded]))
        notes += fit_report.answered_words(metrics["answered"])
    counted = {
        **counts,
        "graded": len(graded),
        "graded.cut": sum(row["cut"] > 0 for row in graded),
        "tokens": sum(row["tokens"] for row in graded),
        "classes.uniform": fits.uniform,
    }
    return Facts(counted, metrics, notes)


class Grading:
    """What is computed of each completion, in shards, by all ranks: the grader's answers and the reward."""

    def __init__(
        self,
        context: StageContext,
        spec: Rules,
        policy: Policy,
        rows: Sequence[Completion],
        gold: Sequence[Completion],
    ) -> None:
        self._context = context
        self._spec = spec
        self._policy = policy
        self._rows = [*rows, *gold]
        self._fitted = len(rows)
        self.shards = Shards(context, shard_key(context, spec, policy), len(self._rows), 2)

    def run(self) -> None:
        """Grade and score what is not there yet. A collective.

        Raises:
            Stopped: asked to stop; what was done is kept.
            InputError: a model or function cannot be used.
        """
        self._grade()  # one model at a time: the grader is gone when the reward is loaded
        self._score()

    def _grade(self) -> None:
        context, spec = self._context, self._spec
        with context.metrics.phase("load"):
            grader = load_grader(context, spec, self._policy) if spec.grader is not None else None
        self.shards.run("grades", "grade", lambda shard: self._grades(grader, shard))

    def _score(self) -> None:
        with self._context.metrics.phase("load"):
            judge = load(Named(self._spec.reward, "reward"), self._context, self._spec.dtype)
        self.shards.run("scores", "score", lambda shard: self._scores(judge, shard))

    def _grades(self, grader: Grader | None, shard: int) -> Rows:
        nothing: dict[str, Any] = {"grades": {}, "answered": 0.0, "cut": 0, "tokens": 0}
        graded = [dict(nothing) for _ in self.shards.span(shard)]
        if grader is None:
            return graded
        selected = [
            (index, self._rows[number])
            for index, number in enumerate(self.shards.span(shard))
            if self._spec.features == "grader" or number >= self._fitted
        ]
        questions = [
            Question(row.prompt, row.answer, self._policy.graded(row.response_type), str(row.row))
            for _, row in selected
        ]
        for (index, _), answer in zip(selected, grader.grade(questions), strict=True):
            graded[index] = answer.as_json()
        return graded

    def _scores(self, judge: Any, shard: int) -> Rows:
        numbers = [number for number in self.shards.span(shard) if number < self._fitted]
        rows = [self._rows[number] for number in numbers]
        prompts = [Prompt(row.prompt, None, row.row) for row in rows]
        scores = judge.scores(prompts, [{"text": row.answer} for row in rows], as_text=True) if rows else []
        for row, score in zip(rows, scores, strict=True):
            if score is None:
                raise InputError(f"{row.row}: the reward {self._spec.reward.key} gives no finite score to it")
        return [{"score": score} for score in scores]


def load_grader(context: StageContext, spec: Rules, policy: Policy) -> Grader:
    """The stage's grader.

    Raises:
        InputError: it cannot be used.
    """
    if spec.grader is None:
        raise ValueError("this stage has no grader")
    entry, cache = context.input(spec.grader), context.storage / "inputs"
    return Grader(
        entry.path,
        policy,
        asking(spec),
        dtype=spec.dtype,
        device=context.device,
        cache=cache,
        template=entry.template,
    )


def asking(spec: Rules) -> Asking:
    """How the stage asks."""
    return Asking(tuple(spec.yes_words), tuple(spec.no_words), spec.max_tokens)


def reward_of(context: StageContext, spec: Rules) -> Model:
    """The reward that weights are bound to."""
    if spec.reward.function is not None:
        return Model(spec.reward.key, functions.source_digest(spec.reward.function, Path(context.file.directories.job)))
    return Model(spec.reward.key, context.input(spec.reward).digest)


def grader_of(context: StageContext, spec: Rules) -> Model | None:
    """The grader that weights are bound to; None where they were fitted on labels."""
    if spec.grader is None or spec.features == "labels":
        return None
    return Model(spec.grader.key, context.input(spec.grader).digest)


def shard_key(context: StageContext, spec: Rules, policy: Policy) -> str:
    """Digest of all that grades and scores depend on: not of how weights are fitted."""
    fitted = {"holdout", "seeds", "iterations", "learning_rate", "weight_decay", "seed", "pairs"}
    return digest_of(
        {
            "spec": spec.model_dump(mode="json", exclude=fitted),
            "policy": policy.digest,
            "reward": reward_of(context, spec).digest,
            "inputs": {key: entry.digest for key, entry in context.file.inputs.items()},
            "recipe": STAGE_TYPES["rules"].recipe,
            "size": SIZE,
        }
    )


def columns(rows: Sequence[dict[str, float]]) -> Grades:
    """Grades by proposition."""
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def trust(policy: Policy, gold: Sequence[Completion], graded: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The grader on the gold rows, by proposition and by class; None where there are none."""
    if not gold:
        return None
    grades = [row["grades"] for row in graded]
    labels_of = [row.propositions or {} for row in gold]
    prompts = [opening(row) for row in gold]
    measures = fit_report.grader_trust(
        grades, labels_of, [row["answered"] for row in graded], policy.questions, prompts
    )
    classes: dict[str, Any] = {}
    for kind in policy.types:
        numbers = [number for number, row in enumerate(gold) if row.response_type == kind]
        if numbers:
            names = list(policy.classes[kind])
            places = classify(policy, kind, columns([grades[number] for number in numbers])).classes
            labelled = [policy.class_of(kind, gold[number].propositions or {}) for number in numbers]
            classes[kind] = fit_report.class_trust(
                [names[class_index] for class_index in places], labelled, [prompts[number] for number in numbers]
            )
    return {**measures, "classes": classes, "notes": fit_report.grader_words(measures)}


def said_of(spec: Rules) -> list[str]:
    """What a reader must know of how the weights were fitted."""
    notes = []
    if spec.features == "labels":
        notes.append("Features are labels, true or false: the weights were fitted without a grader's errors.")
    if spec.pairs == "responseType":
        notes.append(
            "Pairs join completions of different prompts within a response type: they rank answers that no one prompt "
            "got, a reward model's scores of different prompts are compared, and as pairs share completions, their "
            "intervals are too narrow: read the spread over splits."
        )
    return notes
