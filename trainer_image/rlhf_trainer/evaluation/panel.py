"""The further judges of an evaluation: each is loaded once and asked about the answers of all models, in shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rlhf_api.stages.evaluate import Evaluate
from rlhf_api.stages.judges import Judge
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.evaluation import opinions
from rlhf_trainer.evaluation.parts import Answers, Measures, PromptSet
from rlhf_trainer.evaluation.shards import Rows, Shards
from rlhf_trainer.statistics.intervals import Intervals

if TYPE_CHECKING:  # `prepare` asks for names of metrics, and imports no torch
    from rlhf_trainer.evaluation.asked import Asked

USAGE = ("requests", "prompt_tokens", "completion_tokens")


class Panel:
    """A part of the evaluation (`rlhf_trainer.evaluation.parts.Part`) with steps of its own.

    Args:
        spec: Of the stage; has judges.
        prompts: The evaluation's own.
    """

    key = "further_judges"
    sets: Sequence[PromptSet] = ()

    def __init__(self, spec: Evaluate, prompts: Sequence[Prompt]) -> None:
        self._spec = spec
        self._prompts = prompts
        self._shape = (len(prompts), spec.generation.samples)

    def metrics(self) -> Mapping[str, bool]:
        """Names of what judges measure, and whether higher is better."""
        return {judge.metric: judge.asks != "guard" for judge in self._spec.judges}

    def step_items(self, models: int, world: int) -> list[int]:
        """Of each call of `Shards.run`, how many items it is about; where one of `world` ranks computes all of them, as
        many times more."""
        names = [str(number) for number in range(models)]
        return [
            len(self._prompts) * (1 if judge.url is None else world)
            for judge in self._spec.judges
            for _ in _questions(judge, names)
        ]

    def run(self, context: StageContext, shards: Shards, names: Sequence[str]) -> None:
        """Ask every judge. A collective.

        Raises:
            InputError: a judge cannot be used.
            Stopped: asked to stop.
        """
        from rlhf_trainer.evaluation.asked import load

        for judge in self._spec.judges:
            with context.metrics.phase("load"):
                ask_judge = load(judge, context, self._spec, shards.report)
            for models in _questions(judge, names):
                ask = partial(self._ask, ask_judge, shards, models)
                shards.run(_shard_name(judge, models), "score", ask, alone=judge.url is not None)

    def measures(self, model: str, answers: Answers) -> Measures:
        """Of pairs the win rate over the baseline, else what a judge says of the model's own answers."""
        number = list(answers.names).index(model)
        shares, means, rates = {}, {}, {}
        for judge in self._spec.judges:
            if judge.asks == "pairs":
                if number:
                    shares[judge.metric] = opinions.win_rate(self._pairs(judge, answers), number)
                continue
            rows = answers.step_rows(_shard_name(judge, (model,)))
            if judge.asks == "scale":
                means[judge.metric] = opinions.grid([row["score"] for row in rows], self._shape)
            else:
                rates[judge.metric] = opinions.grid([row["harmful"] for row in rows], self._shape)
        return Measures(rates=rates, means=means, shares=shares)

    def as_json(self, answers: Answers, intervals: Intervals) -> list[dict[str, Any]]:
        """What each judge is, what it was asked, and what its choices are worth."""
        return [self._as_json(judge, answers, intervals) for judge in self._spec.judges]

    def _as_json(self, judge: Judge, answers: Answers, intervals: Intervals) -> dict[str, Any]:
        names = list(answers.names)
        if judge.asks == "pairs":
            worth = opinions.summary(self._pairs(judge, answers), names, intervals)
        else:
            rows = {name: answers.step_rows(_shard_name(judge, (name,))) for name in names}
            worth = opinions.readings(rows, "score" if judge.asks == "scale" else "harmful")
        return {
            "name": judge.name,
            "asks": judge.asks,
            "metric": judge.metric,
            "source": judge.source,
            "instruction": judge.instruction,
            **worth,
            **(self._usage(judge, answers) if judge.url is not None else {}),
        }

    def _usage(self, judge: Judge, answers: Answers) -> dict[str, int]:
        """Requests and tokens, as the server counts them."""
        tasks = _questions(judge, list(answers.names))
        used = [row["usage"] for models in tasks for row in answers.step_rows(_shard_name(judge, models))]
        return {name: sum(usage[name] for usage in used if usage) for name in USAGE}

    def _ask(self, ask_judge: Asked, shards: Shards, models: Sequence[str], shard: int) -> Rows:
        answers = [shards.rows(f"answers/{name}", shard) for name in models]
        prompts = [self._prompts[row["prompt"]] for row in answers[0]]
        texts = [[row["text"] for row in rows] for rows in answers]
        replies = ask_judge(prompts, *texts)
        return [
            {"prompt": row["prompt"], "sample": row["sample"], **reply}
            for row, reply in zip(answers[0], replies, strict=True)
        ]

    def _pairs(self, judge: Judge, answers: Answers) -> opinions.Pairs:
        names = list(answers.names)
        return {
            (i, j): opinions.of_rows(answers.step_rows(_shard_name(judge, (names[i], names[j]))), self._shape)
            for i, j in combinations(range(len(names)), 2)
        }


def _questions(judge: Judge, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Whose answers a judge is asked about together: two models', or one's."""
    return combinations(names, 2 if judge.asks == "pairs" else 1)


def _shard_name(judge: Judge, models: Sequence[str]) -> str:
    return "/".join(("judges", judge.name, *models))
