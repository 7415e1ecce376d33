"""One evaluation: models answer, the baseline weighs the candidates' answers, judges score them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_api.digest import digest_of
from rlhf_api.fields import ModelRef, RulesRef
from rlhf_api.stages import STAGE_TYPES
from rlhf_api.stages.evaluate import Evaluate, Generation
from rlhf_api.template import Template
from rlhf_trainer import functions
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.chat import prepare_tokenizer, same_tokenizer
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation.answers import Answering, divergence
from rlhf_trainer.evaluation.classes import Classes
from rlhf_trainer.evaluation.judged import Judged
from rlhf_trainer.evaluation.judges import load
from rlhf_trainer.evaluation.named_judges import Named, judges_of
from rlhf_trainer.evaluation.names import model_names
from rlhf_trainer.evaluation.parts import Part, Stepping
from rlhf_trainer.evaluation.sets import Sets, items_of
from rlhf_trainer.evaluation.shards import SIZE, Rows, Shards
from rlhf_trainer.evaluation.suites import Examinee
from rlhf_trainer.evaluation.tasks import LoadedTask
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.lengths import folder_row_length
from rlhf_trainer.models.load import check_logits
from rlhf_trainer.ppo.snapshots import folders
from rlhf_trainer.rules.grader import Question
from rlhf_trainer.rules.product import Weights
from rlhf_trainer.rules.reward import class_names, load_rules
from rlhf_trainer.statistics.intervals import Floats


class Evaluation:
    """What is computed in shards, by all ranks, and put together again."""

    def __init__(
        self,
        context: StageContext,
        spec: Evaluate,
        prompts: Sequence[Prompt],
        suites: Sequence[LoadedTask] = (),
        parts: Sequence[Part] = (),
    ) -> None:
        self.context = context
        self.spec = spec
        self.prompts = prompts
        self.judges = judges_of(spec)
        self.names = model_names([spec.baseline, *spec.candidates])
        self.baseline, self.candidates = self.names[0], self.names[1:]
        self.notes: list[str] = []
        self.measures_kl = spec.generation.temperature > 0
        if not self.measures_kl:
            self.notes.append("Answers are greedy (temperature 0), which are no samples: KL cannot be estimated.")
        self.ruled = Path(context.input(spec.rule_based).path) if spec.rule_based is not None else None
        self.snapshots = self._snapshots() if self.ruled is not None else {}
        steps = len(self.names) * (1 + len(self.judges)) + 2 * len(self.candidates) * self.measures_kl
        steps += len(self.names) + 2 * len(self.snapshots) if self.ruled is not None else 0
        self.suites = suites
        self.parts = parts
        documents = [suite.documents for suite in self.suites for _ in self.names]
        documents += items_of(parts, len(self.names), len(self.judges))
        self.stepping = [part for part in parts if isinstance(part, Stepping)]
        documents += [items for part in self.stepping for items in part.step_items(len(self.names), context.world)]
        self.shards = Shards(context, shard_key(context, spec), len(prompts), steps, documents=documents)
        self.sets = Sets(self.shards, parts, self.judges, self.names)
        self.generation = self._fitting(spec.generation)

    def run(self) -> None:
        """Compute every shard. A collective.

        Raises:
            Stopped: asked to stop.
            InputError: a model or function cannot be used.
        """
        self.sets.check(self._tokenizer)
        for name, reference in zip(self.candidates, self.spec.candidates, strict=True):
            self._answer(name, reference, weigh=[name])
        self._answer(self.baseline, self.spec.baseline, weigh=self.candidates)
        for judge in self.judges:
            self._judge(judge)
        for part in self.stepping:
            part.run(self.context, self.shards, self.names)
        for name, (_, path) in self.snapshots.items():
            self._sample(name, str(path))
        if self.spec.rule_based is not None:
            self._classify(self.spec.rule_based)

    def _fitting(self, how: Generation) -> Generation:
        """Prompts of as many tokens as every model takes with an answer: the baseline weighs what a candidate wrote."""
        most, cache = how.max_prompt_tokens + how.max_new_tokens, self.context.storage / "inputs"
        paths = [self.context.input(reference).path for reference in (self.spec.baseline, *self.spec.candidates)]
        shortest = min(folder_row_length(path, most, cache) for path in paths)
        return how.model_copy(update={"max_prompt_tokens": max(1, shortest - how.max_new_tokens)})

    def _snapshots(self) -> dict[str, tuple[str, Path]]:
        """Earlier policies of candidates by a name of their own: the candidate's name, and the folder."""
        return {
            f"{name}@{step}": (name, path)
            for name, reference in zip(self.candidates, self.spec.candidates, strict=True)
            for step, path in folders(Path(self.context.input(reference).path)).items()
        }

    def _sample(self, name: str, path: str, template: Template | None = None) -> Answering:
        """Sample a model's answers to the evaluation's own prompts."""
        with self.context.metrics.phase("load"):
            model = Answering(path, self.spec.dtype, self.context.device, self.context.storage / "inputs", template)
        if self.measures_kl and name in self.names:
            check_logits(model.model, name)  # before minutes of answers

        def sampled(shard: int) -> Rows:
            span = self.shards.span(shard)
            prompts = self.prompts[span.start : span.stop]
            return model.answers(prompts, span.start, self.generation, self.context.seed, self.shards.report)

        self.shards.run(f"answers/{name}", "generate", sampled)
        return model

    def _answer(self, name: str, reference: ModelRef, weigh: Sequence[str]) -> None:
        """Sample a model's answers; then its log-probabilities of the answers of the models in `weigh`."""
        entry, how = self.context.input(reference), self.spec.generation
        model = self._sample(name, entry.path, entry.template)
        self._examine(name, model)
        self.sets.answer(name, model, self.generation)
        if not self.measures_kl:
            return
        for author in weigh:
            if author != name and (why := same_tokenizer(self._tokenizer(author), model.tokenizer)) is not None:
                self._unweighed(author, why)
                continue

            def weighed(shard: int, author: str = author) -> Rows:
                log_probs = model.log_probs(self.shards.rows(f"answers/{author}", shard), how.temperature)
                return [{"log_probs": values} for values in log_probs]

            self.shards.run(f"log_probs/{author}/{name}", "weigh", weighed)

    def _examine(self, name: str, model: Answering) -> None:
        """Give a model every task of the suites."""
        if not self.suites:
            return
        examinee = Examinee(model.model, model.tokenizer)
        for loaded in self.suites:

            def examined(shard: int, loaded: LoadedTask = loaded) -> Rows:
                return examinee.rows(loaded, self.shards.span(shard, loaded.documents))

            self.shards.run(f"suites/{loaded.suite.name}/{name}", "score", examined, items=loaded.documents)

    def _unweighed(self, candidate: str, why: str) -> None:
        self.notes.append(f"KL of {candidate} to {self.baseline} is not defined: their tokenizers differ ({why}).")
        self.shards.run(f"log_probs/{candidate}/{self.baseline}", "weigh", _nothing)

    def _tokenizer(self, name: str) -> Any:
        reference = [self.spec.baseline, *self.spec.candidates][self.names.index(name)]
        entry = self.context.input(reference)
        tokenizer = load_tokenizer(entry.path, self.context.storage / "inputs")
        prepare_tokenizer(tokenizer, entry.template)
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
            self.sets.score(judge, ready, name, as_text=why is not None)

    def _classify(self, rules: RulesRef) -> None:
        """Grade every answer to a prompt with a response type."""
        with self.context.metrics.phase("load"):
            book = load_rules(self.context, rules, "rules", self.spec.dtype)
        book.check([prompt.response_type for prompt in self.prompts], "prompts", weighed=False)
        for name in (*self.names, *self.snapshots):

            def graded(shard: int, name: str = name) -> Rows:
                rows = self.shards.rows(f"answers/{name}", shard)
                kinds = [self.prompts[row["prompt"]].response_type for row in rows]
                questions = [
                    Question(self.prompts[row["prompt"]].messages, row["text"], book.policy.graded(kind))
                    for row, kind in zip(rows, kinds, strict=True)
                    if kind is not None
                ]
                verdicts = iter(book.grader.grade(questions))
                by_row = (None if kind is None else next(verdicts) for kind in kinds)
                return [{"grades": {}, "tokens": 0} if verdict is None else verdict.as_json() for verdict in by_row]

            self.shards.run(f"grades/{name}", "grade", graded)

    def classes_of_snapshots(self) -> dict[str, list[Classes]]:
        """What rules say of the last policies of each candidate that has several, the last one last."""
        named: dict[str, list[str]] = {}
        for name, (candidate, _) in self.snapshots.items():
            named.setdefault(candidate, []).append(name)
        return {
            candidate: [classes for name in (*names, candidate) if (classes := self._classes(name)) is not None]
            for candidate, names in named.items()
        }

    def _classes(self, name: str) -> Classes | None:
        if self.ruled is None:
            return None
        policy, samples = Weights.read(self.ruled).policy, self.spec.generation.samples
        kinds = [prompt.response_type for prompt in self.prompts]
        grades = [row["grades"] for row in self.shards.all(f"grades/{name}")]
        flat = class_names(policy, [kind for kind in kinds for _ in range(samples)], grades)
        return Classes(policy, kinds, [flat[at : at + samples] for at in range(0, len(flat), samples)])

    def judged(self) -> list[Judged]:
        """Everything measured, baseline first. Reads the shards of all ranks."""
        return [self._judged(name) for name in self.names]

    def _judged(self, name: str) -> Judged:
        rows = list(self.shards.all(f"answers/{name}"))
        scores = {judge.metric: self._scores(judge, name) for judge in self.judges}
        kl = self._kl(name)
        samples = self.spec.generation.samples
        return Judged(
            name=name,
            texts=[[row["text"] for row in rows[at : at + samples]] for at in range(0, len(rows), samples)],
            lengths=self._grid([len(row["ids"]) for row in rows]),
            ended=self._grid([row["finished"] for row in rows]),
            rewards={judge.name: scores[judge.metric] for judge in self.judges if judge.kind == "reward"},
            costs={judge.name: scores[judge.metric] for judge in self.judges if judge.kind == "cost"},
            refusals={judge.name: scores[judge.metric] for judge in self.judges if judge.kind == "refusal"},
            kl=None if kl is None else self._grid([k1 for k1, _ in kl]),
            kl_k3=None if kl is None else self._grid([k3 for _, k3 in kl]),
            classes=self._classes(name),
            suites={loaded.suite.name: self._suite(loaded, name) for loaded in self.suites},
            measures=[part.measures(name, self.sets) for part in self.parts],
        )

    def _suite(self, loaded: LoadedTask, name: str) -> dict[str, Floats]:
        """A model's metrics of a task's documents, [D] each."""
        rows = list(self.shards.all(f"suites/{loaded.suite.name}/{name}", loaded.documents))
        return {metric: np.array([row[metric] for row in rows], dtype=np.float64) for metric in loaded.metrics}

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


def shard_key(context: StageContext, spec: Evaluate) -> str:
    """Digest of all that answers and scores depend on: not of gates, groups, intervals and how many answers are shown, which can
    be changed without sampling again."""
    named = [judge.scorer.function for judge in judges_of(spec) if judge.scorer.function is not None]
    folder = Path(context.file.directories.job)
    return digest_of(
        {
            "spec": spec.model_dump(
                mode="json", exclude={"gates", "groups", "confidence", "resamples", "show", "seed"}
            ),
            "seed": context.seed,
            "inputs": {key: entry.digest for key, entry in context.file.inputs.items()},
            "functions": {name: functions.source_digest(name, folder) for name in named},
            "recipe": STAGE_TYPES["evaluate"].recipe,
            "size": SIZE,
        }
    )


def _nothing(_shard: int) -> Rows:
    return []
