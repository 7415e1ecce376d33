"""The prompt sets of an evaluation's parts in shards: models answer them, judges score the answers, parts read both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf_api.stages.evaluate import Generation
from rlhf_trainer.evaluation.answers import Answering
from rlhf_trainer.evaluation.judges import AnswerJudge
from rlhf_trainer.evaluation.named_judges import Named
from rlhf_trainer.evaluation.parts import OWN, Part, Probe, PromptSet
from rlhf_trainer.evaluation.shards import Rows, Shards
from rlhf_trainer.statistics.intervals import Floats


def items_of(parts: Sequence[Part], models: int, judges: int) -> list[int]:
    """Items of each run of shards that `Sets` makes."""
    sets = [prompt_set.items for part in parts for prompt_set in part.sets for _ in range(models * (1 + judges))]
    return sets + [part.items for part in parts if isinstance(part, Probe) for _ in range(models)]


class Sets:
    """`rlhf_trainer.evaluation.parts.Answers` over the shards of an evaluation.

    Args:
        shards: Of the evaluation.
        parts: Of the evaluation; the names of their sets differ.
        judges: Of the evaluation.
        names: Of its models, baseline first.
    """

    def __init__(self, shards: Shards, parts: Sequence[Part], judges: Sequence[Named], names: Sequence[str]) -> None:
        self._shards = shards
        self._listed = [prompt_set for part in parts for prompt_set in part.sets]
        self._probes = [part for part in parts if isinstance(part, Probe)]
        self._judges = judges
        self.names = names

    def check(self, tokenizer: Callable[[str], Any]) -> None:
        """Refuse models that cannot be probed, before anything is sampled.

        Args:
            tokenizer: Gives a model's by its name.

        Raises:
            InputError: as `Probe.check`.
        """
        for name in self.names if self._probes else ():
            for probe in self._probes:
                probe.check(tokenizer(name), name)

    def answer(self, name: str, model: Answering, how: Generation) -> None:
        """Sample a model's answers to every set, and read what probes ask it. A collective."""
        for prompt_set in self._listed:

            def sampled(shard: int, prompt_set: PromptSet = prompt_set) -> Rows:
                span = self._shards.span(shard, prompt_set.items)
                return prompt_set.answers(model, span, how, self._shards.context.seed, self._shards)

            self._shards.run(_answers(prompt_set.name, name), "generate", sampled, items=prompt_set.items)

        for probe in self._probes:

            def read(shard: int, probe: Probe = probe) -> Rows:
                return probe.probe(model, self._shards.span(shard, probe.items))

            self._shards.run(f"{probe.probed}/{name}", "score", read, items=probe.items)

    def score(self, judge: Named, ready: AnswerJudge, name: str, *, as_text: bool) -> None:
        """Score a model's answers to every set. A collective."""
        for prompt_set in self._listed:

            def scored(shard: int, prompt_set: PromptSet = prompt_set) -> Rows:
                rows = self._shards.rows(_answers(prompt_set.name, name), shard)
                scores = ready.scores(prompt_set.prompts(rows), rows, as_text=as_text)
                return [{"score": score} for score in scores]

            self._shards.run(_scores(prompt_set.name, judge.metric, name), "score", scored, items=prompt_set.items)

    def rows(self, prompt_set: str, model: str) -> Rows:
        """A model's answers to a set, of all shards."""
        if prompt_set == OWN:
            return list(self._shards.all(f"answers/{model}"))
        return list(self._shards.all(_answers(prompt_set, model), self._items(prompt_set)))

    def scores(self, prompt_set: str, metric: str, model: str) -> Floats:
        """[rows] what a judge said of each of them; NaN: no score."""
        if prompt_set == OWN:
            rows = self._shards.all(f"scores/{metric}/{model}")
        else:
            rows = self._shards.all(_scores(prompt_set, metric, model), self._items(prompt_set))
        return np.array([np.nan if row["score"] is None else row["score"] for row in rows], dtype=np.float64)

    def step_rows(self, name: str) -> Rows:
        """What a part's own step kept of the evaluation's own prompts under a name."""
        return list(self._shards.all(name))

    def costs(self, prompt_set: str, model: str) -> dict[str, Floats]:
        """[rows] of every cost, by its name."""
        return {
            judge.name: self.scores(prompt_set, judge.metric, model) for judge in self._judges if judge.kind == "cost"
        }

    def asked(self, name: str, model: str, items: int) -> Rows:
        """What a model was asked beside prompts, of all shards."""
        return list(self._shards.all(f"{name}/{model}", items))

    def _items(self, name: str) -> int:
        return next(prompt_set.items for prompt_set in self._listed if prompt_set.name == name)


def _answers(prompt_set: str, model: str) -> str:
    return f"sets/{prompt_set}/answers/{model}"


def _scores(prompt_set: str, metric: str, model: str) -> str:
    return f"sets/{prompt_set}/{metric}/{model}"
