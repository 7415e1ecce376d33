"""`evaluate`: candidates against a baseline on the same prompts with the same random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rlhf_api.contract import GATE_FAILED
from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer import distributed
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.load import load_prompts
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation import attacked, gates, groups, refusals, table
from rlhf_trainer.evaluation.classes import measured as measured_by
from rlhf_trainer.evaluation.classes import spread
from rlhf_trainer.evaluation.dialogues import Dialogues
from rlhf_trainer.evaluation.distributions import distributions
from rlhf_trainer.evaluation.judged import Judged, Measured
from rlhf_trainer.evaluation.judges import describe
from rlhf_trainer.evaluation.load_parts import load_parts, metrics_of_parts
from rlhf_trainer.evaluation.own_choices import own_choices
from rlhf_trainer.evaluation.runner import Evaluation
from rlhf_trainer.evaluation.shards import Rows
from rlhf_trainer.evaluation.suites import load_suites, metrics_of
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.inspection.readers import readers
from rlhf_trainer.inspection.templates import checks_of
from rlhf_trainer.rules.product import Weights
from rlhf_trainer.statistics.intervals import Intervals


def run(context: StageContext) -> None:
    """Evaluate and publish; then fail if a gate was not kept: the evidence stays.

    Raises:
        InputError: no prompts, a gate on a metric that there is not, an input that cannot be used.
        GuardTripped: a gate was not kept (reason GateFailed); the product is in place.
    """
    spec = context.spec(Evaluate)
    rules = Weights.read(Path(context.input(spec.rule_based).path)).policy if spec.rule_based is not None else None
    suites = load_suites(context, spec)
    prompts, counts = load_prompts(context, spec.prompts, *checks_of(context, readers(spec, "prompts")))
    if not prompts:
        raise InputError("prompts: no prompt is left to answer; expected at least one row with a prompt")
    parts = load_parts(context, spec, prompts, context.seed, lambda field: checks_of(context, readers(spec, field)))
    parts += own_choices(suites)
    gates.check_names(
        spec, measured_by(rules) if rules is not None else [], metrics_of(suites) | metrics_of_parts(parts)
    )
    evaluation = Evaluation(context, spec, prompts, suites, parts)
    evaluation.notes += refusals.notes(spec, prompts)
    evaluation.run()
    distributed.barrier()  # every rank's shards are in place
    failure: str | None = None
    if context.rank == 0:
        judged = evaluation.judged()
        content, measured = tabulate(evaluation, judged)
        failure = "; ".join(verdict["text"] for verdict in content["gates"] if not verdict["passed"]) or None
    failure = distributed.broadcast(failure)

    def build(folder: Path) -> Facts:
        (folder / "evaluation.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        _write(folder / "samples.jsonl", sample_rows(prompts, spec.generation.samples, judged))
        if suites:
            _write(folder / "documents.jsonl", document_rows(judged))
        dialogues = next((part for part in parts if isinstance(part, Dialogues)), None)
        if dialogues is not None:
            _write(folder / "dialogues.jsonl", dialogues.transcripts(evaluation.sets))
        if spec.attacks:
            _write(folder / "attacked.jsonl", attacked.rows(parts, evaluation.sets))
        answers = [row for name in evaluation.names for row in evaluation.shards.all(f"answers/{name}")]
        return Facts(
            counts={
                **counts.as_dict(),
                "prompts": len(prompts),
                "answers": len(answers),
                "answers.cut_prompt": sum(row["cut"] > 0 for row in answers),
                "answers.without_eos": sum(not row["finished"] for row in answers),
                "answers.empty": sum(not row["text"].strip() for row in answers),
                "tokens": sum(len(row["ids"]) for row in answers),
                **(dialogues.counts(evaluation.sets) if dialogues is not None else {}),
            },
            metrics={
                f"{model.name}.{metric}": estimate.as_json()
                for model in measured
                for metric, estimate in model.metrics.items()
            },
            notes=content["notes"],
            failure=failure,
        )

    context.publish(build)
    if failure is not None:
        raise GuardTripped(failure, reason=GATE_FAILED)


def tabulate(evaluation: Evaluation, judged: Sequence[Judged]) -> tuple[dict[str, Any], list[Measured]]:
    """`evaluation.json` and the measurements it is made of."""
    spec, context = evaluation.spec, evaluation.context
    intervals = Intervals(spec.confidence, spec.resamples, context.seed)
    weights = reward_weights(judged)
    measured = [table.measure(model, judged[0], intervals, weights) for model in judged]
    higher = metrics_of(evaluation.suites) | metrics_of_parts(evaluation.parts)
    members = groups.members_of(spec, evaluation.candidates)
    grouped = groups.measure(members, judged, measured, intervals, weights)
    verdicts = gates.check(spec.gates, groups.held(members, measured[1:], grouped), higher)
    references = dict(zip(evaluation.names, [spec.baseline, *spec.candidates], strict=True))
    content = {
        "version": table.VERSION,
        "prompts": len(evaluation.prompts),
        "samples_per_prompt": spec.generation.samples,
        "generation": spec.generation.model_dump(mode="json"),
        "confidence": spec.confidence,
        "resamples": spec.resamples,
        "seed": context.seed,
        "judges": [describe(judge, context) for judge in evaluation.judges],
        "baseline": evaluation.baseline,
        "models": [
            {
                **table.as_json(model, intervals),
                "source": references[model.name].key,
                "digest": context.input(references[model.name]).digest,
            }
            for model in measured
        ],
        "win_rate_weights": weights,
        "distributions": distributions(table.scores(judged), evaluation.baseline),
        **groups.as_json(grouped, intervals),
        "categories": table.categories(judged, judged[0], [p.category for p in evaluation.prompts], intervals),
        **({"suites": [suite.as_json() for suite in evaluation.suites]} if evaluation.suites else {}),
        **{part.key: part.as_json(evaluation.sets, intervals) for part in evaluation.parts},
        "gates": [verdict.as_json() for verdict in verdicts],
        "snapshots": {name: spread(classes, intervals) for name, classes in evaluation.classes_of_snapshots().items()},
        "notes": [*evaluation.notes, *table.missing_scores(judged)],
        "shown": shown(len(evaluation.prompts), spec.show, context.seed),
    }
    return content, measured


def reward_weights(judged: Sequence[Judged]) -> dict[str, float]:
    """1 over each reward's spread over all answers, so that in their sum none counts for its scale; 1 for a reward
    alone or one that does not vary."""
    weights = {}
    for name in judged[0].rewards:
        spread = float(np.nanstd(np.concatenate([model.rewards[name].ravel() for model in judged])))
        alone = len(judged[0].rewards) == 1
        weights[name] = 1.0 if alone or not spread > 0 else 1 / spread
    return weights


def shown(prompts: int, count: int, seed: int) -> list[int]:
    """Prompts whose answers the report shows, drawn by the seed: nobody picks them."""
    drawn = np.random.default_rng([seed, prompts]).permutation(prompts)[:count]
    return sorted(int(index) for index in drawn)


def sample_rows(prompts: Sequence[Prompt], samples: int, judged: Sequence[Judged]) -> Rows:
    """`samples.jsonl`: every answer with its scores, prompt by prompt, baseline first."""
    rows = []
    for index, prompt in enumerate(prompts):
        for model in judged:
            harm = table.harmful(model.costs)
            for sample in range(samples):
                cell = (index, sample)
                scores = {f"reward.{name}": _number(grid[cell]) for name, grid in model.rewards.items()}
                scores |= {f"cost.{name}": _number(grid[cell]) for name, grid in model.costs.items()}
                scores |= {f"refusal.{name}": _number(grid[cell]) for name, grid in model.refusals.items()}
                rows.append(
                    {
                        "prompt": index,
                        "sample": sample,
                        "model": model.name,
                        "category": prompt.category,
                        "messages": list(prompt.messages),
                        **({"tools": list(prompt.tools)} if prompt.tools else {}),
                        **({"expect": prompt.expect} if prompt.expect is not None else {}),
                        "answer": model.texts[index][sample],
                        "tokens": int(model.lengths[cell]),
                        "ended": bool(model.ended[cell]),
                        "kl": None if model.kl is None else _number(model.kl[cell]),
                        "scores": scores,
                        "class": None if model.classes is None else model.classes.names[index][sample],
                        "harmful": None if harm is None or np.isnan(harm[cell]) else bool(harm[cell]),
                    }
                )
    return rows


def document_rows(judged: Sequence[Judged]) -> Rows:
    """`documents.jsonl`: what every model made of every document of a suite."""
    return [
        {"suite": suite, "document": number, "model": model.name}
        | {metric: float(values[number]) for metric, values in metrics.items()}
        for model in judged
        for suite, metrics in model.suites.items()
        for number in range(len(next(iter(metrics.values()))))
    ]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
