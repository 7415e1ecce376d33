"""`evaluate`: candidates against a baseline on the same prompts with the same random numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rlhf_api.fields import ModelRef
from rlhf_api.stages.evaluate import Evaluate
from rlhf_trainer import gang
from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.data.chat import prepare_tokenizer, same_tokenizer
from rlhf_trainer.data.load import load_prompts
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation import gates, table
from rlhf_trainer.evaluation.answers import Answering, divergence
from rlhf_trainer.evaluation.judges import Named, load
from rlhf_trainer.evaluation.shards import Rows, Shards
from rlhf_trainer.evaluation.statistics import Floats, Intervals
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.models.load import load_tokenizer

log = logging.getLogger(__name__)


class Evaluation:
    """One run of the stage: models answer, the baseline weighs the candidates' answers, judges score them all."""

    def __init__(self, context: StageContext, spec: Evaluate, prompts: Sequence[Prompt]) -> None:
        self.context = context
        self.spec = spec
        self.prompts = prompts
        self.judges = [Named(judge, "reward") for judge in spec.rewards]
        self.judges += [Named(judge, "cost") for judge in spec.costs]
        self.names = model_names([spec.baseline, *spec.candidates])
        self.baseline, self.candidates = self.names[0], self.names[1:]
        self.notes: list[str] = []
        self.measures_kl = spec.generation.temperature > 0
        if not self.measures_kl:
            self.notes.append("Answers are greedy (temperature 0), which are no samples: KL cannot be estimated.")
        steps = len(self.names) * (1 + len(self.judges)) + 2 * len(self.candidates) * self.measures_kl
        self.shards = Shards(context, len(prompts), steps)

    def run(self) -> None:
        """Compute every shard. A collective.

        Raises:
            Stopped: asked to stop.
            InputError: a model or function cannot be used.
        """
        for name, reference in zip(self.candidates, self.spec.candidates, strict=True):
            self._answer(name, reference, weigh=[name])
        self._answer(self.baseline, self.spec.baseline, weigh=self.candidates)
        for judge in self.judges:
            self._judge(judge)

    def _answer(self, name: str, reference: ModelRef, weigh: Sequence[str]) -> None:
        """Sample a model's answers; then its log-probabilities of the answers of the models in `weigh`."""
        path, cache = self.context.input(reference).path, self.context.storage / "inputs"
        with self.context.metrics.phase("load"):
            model = Answering(path, self.spec.dtype, self.context.device, cache)
        how = self.spec.generation

        def sampled(shard: int) -> Rows:
            span = self.shards.span(shard)
            return model.answers(self.prompts[span.start : span.stop], span.start, how, self.context.seed)

        self.shards.run(f"answers/{name}", "generate", sampled)
        if not self.measures_kl:
            return
        for other in weigh:
            if other != name and (why := same_tokenizer(self._tokenizer(other), model.tokenizer)) is not None:
                self._unweighed(other, why)
                continue

            def weighed(shard: int, other: str = other) -> Rows:
                found = model.log_probs(self.shards.rows(f"answers/{other}", shard), how.temperature)
                return [{"log_probs": values} for values in found]

            self.shards.run(f"log_probs/{other}/{name}", "weigh", weighed)

    def _unweighed(self, candidate: str, why: str) -> None:
        self.notes.append(f"KL of {candidate} to {self.baseline} is not defined: their tokenizers differ ({why}).")
        self.shards.run(f"log_probs/{candidate}/{self.baseline}", "weigh", _nothing)

    def _tokenizer(self, name: str) -> Any:
        reference = [self.spec.baseline, *self.spec.candidates][self.names.index(name)]
        tokenizer = load_tokenizer(self.context.input(reference).path, self.context.storage / "inputs")
        prepare_tokenizer(tokenizer)
        return tokenizer

    def _judge(self, judge: Named) -> None:
        with self.context.metrics.phase("load"):
            ready = load(judge, self.context, self.spec.dtype)
        for name in self.names:
            why = ready.differs(self._tokenizer(name))
            if why is not None:
                self.notes.append(
                    f"{judge.name} has another tokenizer than {name} ({why}): it read the text of the answers, not their tokens."
                )

            def scored(shard: int, name: str = name, as_text: bool = why is not None) -> Rows:
                rows = self.shards.rows(f"answers/{name}", shard)
                scores = ready.scores([self.prompts[row["prompt"]] for row in rows], rows, as_text=as_text)
                return [{"score": score} for score in scores]

            self.shards.run(f"scores/{judge.metric}/{name}", "score", scored)

    def judged(self) -> list[table.Judged]:
        """Everything measured, baseline first. Reads the shards of all ranks."""
        return [self._judged(name) for name in self.names]

    def _judged(self, name: str) -> table.Judged:
        rows = list(self.shards.all(f"answers/{name}"))
        scores = {judge.metric: self._scores(judge, name) for judge in self.judges}
        kl = self._kl(name)
        samples = self.spec.generation.samples
        return table.Judged(
            name=name,
            texts=[[row["text"] for row in rows[at : at + samples]] for at in range(0, len(rows), samples)],
            lengths=self._grid([len(row["ids"]) for row in rows]),
            ended=self._grid([row["finished"] for row in rows]),
            rewards={judge.name: scores[judge.metric] for judge in self.judges if judge.kind == "reward"},
            costs={judge.name: scores[judge.metric] for judge in self.judges if judge.kind == "cost"},
            kl=None if kl is None else self._grid([k1 for k1, _ in kl]),
            kl_k3=None if kl is None else self._grid([k3 for _, k3 in kl]),
        )

    def _scores(self, judge: Named, name: str) -> Floats:
        return self._grid([row["score"] for row in self.shards.all(f"scores/{judge.metric}/{name}")])

    def _kl(self, name: str) -> list[tuple[float, float]] | None:
        if name == self.baseline or not self.measures_kl:
            return None
        ours = self.shards.all(f"log_probs/{name}/{name}")
        theirs = list(self.shards.all(f"log_probs/{name}/{self.baseline}"))
        if not theirs:
            return None
        return [divergence(a["log_probs"], b["log_probs"]) for a, b in zip(ours, theirs, strict=True)]

    def _grid(self, values: Sequence[float | None]) -> Floats:
        """[P, S]; None becomes NaN."""
        flat = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        return flat.reshape(len(self.prompts), self.spec.generation.samples)

    def sample_rows(self, judged: Sequence[table.Judged]) -> Rows:
        """`samples.jsonl`: every answer with its scores, prompt by prompt, baseline first."""
        rows = []
        for index, prompt in enumerate(self.prompts):
            for model in judged:
                harm = table.harmful(model.costs)
                for sample in range(self.spec.generation.samples):
                    place = (index, sample)
                    scores = {f"reward.{name}": _number(found[place]) for name, found in model.rewards.items()}
                    scores |= {f"cost.{name}": _number(found[place]) for name, found in model.costs.items()}
                    rows.append(
                        {
                            "prompt": index,
                            "sample": sample,
                            "model": model.name,
                            "category": prompt.category,
                            "messages": list(prompt.messages),
                            "answer": model.texts[index][sample],
                            "tokens": int(model.lengths[place]),
                            "ended": bool(model.ended[place]),
                            "kl": None if model.kl is None else _number(model.kl[place]),
                            "scores": scores,
                            "harmful": None if harm is None or np.isnan(harm[place]) else bool(harm[place]),
                        }
                    )
        return rows


def run(context: StageContext) -> None:
    """Evaluate and publish; then fail if a gate was not kept: the evidence stays.

    Raises:
        InputError: no prompts, a gate on a metric that there is not, an input that cannot be used.
        GuardTripped: a gate was not kept (reason GateFailed); the product is in place.
    """
    spec = context.spec(Evaluate)
    check_gates(spec)
    prompts, counts = load_prompts(context, spec.prompts)
    if not prompts:
        raise InputError("prompts: no prompt is left to answer; expected at least one row with a prompt")
    evaluation = Evaluation(context, spec, prompts)
    evaluation.run()
    gang.barrier()  # every rank's shards are in place
    failure: str | None = None
    if context.rank == 0:
        judged = evaluation.judged()
        content, measured = tabulate(evaluation, judged)
        failure = "; ".join(verdict["text"] for verdict in content["gates"] if not verdict["passed"]) or None
    failure = gang.broadcast(failure)

    def build(folder: Path) -> Facts:
        (folder / "evaluation.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in evaluation.sample_rows(judged))
        (folder / "samples.jsonl").write_bytes(b"".join(lines))
        answers = [row for name in evaluation.names for row in evaluation.shards.all(f"answers/{name}")]
        return Facts(
            counts={
                **counts.as_dict(),
                "prompts": len(prompts),
                "answers": len(answers),
                "answers.cut_prompt": sum(row["cut"] > 0 for row in answers),
                "answers.empty": sum(not row["text"].strip() for row in answers),
                "tokens": sum(len(row["ids"]) for row in answers),
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
        raise GuardTripped(f"gates: {failure}", reason="GateFailed")


def check_gates(spec: Evaluate) -> None:
    """Refuse gates on metrics that this evaluation cannot have, before anything is computed.

    Raises:
        InputError: names the gate and what there is.
    """
    found = gates.unknown(spec.gates, [judge.label for judge in spec.rewards], [judge.label for judge in spec.costs])
    if found:
        index, metric, there = found[0]
        compare = " to compare with the baseline" if spec.gates[index].compare == "difference" else ""
        raise InputError(
            f"gates[{index}].metric: found {metric!r}; this evaluation has{compare} {', '.join(there)}",
            reason="UnknownMetric",
        )


def tabulate(evaluation: Evaluation, judged: Sequence[table.Judged]) -> tuple[dict[str, Any], list[table.Measured]]:
    """`evaluation.json` and the measurements it is made of."""
    spec, context = evaluation.spec, evaluation.context
    intervals = Intervals(spec.confidence, spec.resamples, context.seed)
    weights = reward_weights(judged)
    measured = [table.measure(model, judged[0], intervals, weights) for model in judged]
    verdicts = gates.check(spec.gates, measured[1:])
    references = dict(zip(evaluation.names, [spec.baseline, *spec.candidates], strict=True))
    content = {
        "version": table.VERSION,
        "prompts": len(evaluation.prompts),
        "samples_per_prompt": spec.generation.samples,
        "generation": spec.generation.model_dump(mode="json"),
        "confidence": spec.confidence,
        "resamples": spec.resamples,
        "seed": context.seed,
        "judges": [{"name": judge.name, "kind": judge.kind, "source": judge.scorer.key} for judge in evaluation.judges],
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
        "categories": table.categories(judged, judged[0], [p.category for p in evaluation.prompts], intervals),
        "gates": [verdict.as_json() for verdict in verdicts],
        "notes": [*evaluation.notes, *table.missing_scores(judged)],
        "shown": shown(len(evaluation.prompts), spec.show, context.seed),
    }
    return content, measured


def model_names(references: Sequence[ModelRef]) -> list[str]:
    """What models go by: the stage's or input's name; `input-NAME` where an input is called as a stage is."""
    plain = [str(reference.input or reference.stage) for reference in references]
    return [
        f"{reference.key.replace(':', '-')}" if plain.count(name) > 1 else name
        for name, reference in zip(plain, references, strict=True)
    ]


def reward_weights(judged: Sequence[table.Judged]) -> dict[str, float]:
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


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _nothing(_shard: int) -> Rows:
    return []
