"""Dialogues: every model answers a user's turns one after the other in the history of its own answers, and costs score
each answer where it stands. The last turn is asked alone, too: what differs is what the history does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_api.stages.evaluate import Generation
from rlhf_trainer.data.rows import Counts, Dialogue, Prompt
from rlhf_trainer.evaluation.late_harm import DialogueHarm, by_history, metric_names
from rlhf_trainer.evaluation.parts import Answers, Measures, PlainSet, PromptSet
from rlhf_trainer.evaluation.shards import Rows, Shards
from rlhf_trainer.evaluation.table import harmful
from rlhf_trainer.statistics.intervals import Estimate, Floats, Intervals, decide, inconclusive

if TYPE_CHECKING:  # `prepare` asks what parts measure, and imports no torch
    from rlhf_trainer.evaluation.answers import Answering

TURNS, LAST_ALONE = "dialogues", "dialogues-last-turn"
"""Names of the two sets of prompts."""


@dataclass(frozen=True)
class DialogueSet:
    """Dialogues that models go through turn by turn."""

    dialogues: Sequence[Dialogue]
    name: str = TURNS

    @property
    def items(self) -> int:
        """Number of dialogues."""
        return len(self.dialogues)

    def answers(self, model: Answering, span: range, how: Generation, seed: int, shards: Shards) -> Rows:
        """`{dialogue, sample, turn}` (turns from 1) and what `Answering.answers` gives, history by history.

        All dialogues are asked their first turn together, then their second. An answer's random numbers are those of its
        dialogue, sample and turn, for every model. Each sample is a history of its own.
        """
        histories: dict[tuple[int, int], Rows] = {
            (number, sample): [] for number in span for sample in range(how.samples)
        }
        single = how.model_copy(update={"samples": 1})
        longest = max(self.dialogues[number].turns for number in span)
        for turn in range(longest):
            unfinished = [key for key in histories if turn < self.dialogues[key[0]].turns]

            def report(share: float, turn: int = turn) -> None:
                shards.report((turn + share) / longest)

            answers = model.answers(
                [self._prompt(number, histories[number, sample]) for number, sample in unfinished],
                0,
                single,
                seed,
                report,
                written=True,
                step=turn + 1,  # the prompts of an evaluation have step 0
                numbers=[number * how.samples + sample for number, sample in unfinished],
            )
            for (number, sample), answer in zip(unfinished, answers, strict=True):
                position = {"dialogue": number, "sample": sample, "turn": turn + 1}
                rest = {key: value for key, value in answer.items() if key not in ("prompt", "sample")}
                histories[number, sample].append(position | rest)
        return [row for history in histories.values() for row in history]

    def prompts(self, rows: Rows) -> list[Prompt]:
        """Each answer's prompt: all up to the user's turn, with the model's own earlier answers."""
        histories: dict[tuple[int, int], Rows] = defaultdict(list)
        prompts = []
        for row in rows:
            history = histories[row["dialogue"], row["sample"]]
            prompts.append(self._prompt(row["dialogue"], history))
            history.append(row)
        return prompts

    def _prompt(self, number: int, history: Rows) -> Prompt:
        dialogue = self.dialogues[number]
        return Prompt(dialogue.after([row["text"] for row in history]), dialogue.category, dialogue.row)


@dataclass(frozen=True)
class Dialogues:
    """The part of an evaluation that measures harm in later turns."""

    dialogues: Sequence[Dialogue]
    samples: int
    """Histories a dialogue."""
    rows: Counts = field(default_factory=Counts)
    """What became of the rows they were read from."""

    @property
    def key(self) -> str:
        """In `evaluation.json`."""
        return "dialogues"

    @property
    def sets(self) -> Sequence[PromptSet]:
        """The dialogues, and the last turn of each alone."""
        alone = [Prompt(dialogue.last_alone, dialogue.category, dialogue.row) for dialogue in self.dialogues]
        return [DialogueSet(self.dialogues), PlainSet(LAST_ALONE, alone)]

    def metrics(self) -> Mapping[str, bool]:
        """Of all of them lower is better."""
        return dict.fromkeys(metric_names(self._longest), False)

    def measures(self, model: str, answers: Answers) -> Measures:
        """Harmful rates by turn, of dialogues that turn harmful late, and of the last turn alone."""
        return Measures(rates=self._harm(model, answers).rates())

    def as_json(self, answers: Answers, intervals: Intervals) -> dict[str, Any]:
        """How many dialogues reach each turn, and of each model what the history does to its harm."""
        return {
            "dialogues": len(self.dialogues),
            "samples": self.samples,
            "reach": [int((self._turns > turn).sum()) for turn in range(self._longest)],
            "models": {name: self._of_model(name, answers, intervals) for name in answers.names},
        }

    def counts(self, answers: Answers) -> dict[str, int]:
        """For the manifest, over all models: rows read, dialogues, and answers."""
        rows = [row for name in answers.names for row in answers.rows(TURNS, name)]
        return {
            **self.rows.as_dict("dialogues.rows"),
            "dialogues": len(self.dialogues),
            "dialogues.answers": len(rows),
            "dialogues.answers.cut_prompt": sum(row["cut"] > 0 for row in rows),
            "dialogues.answers.without_eos": sum(not row["finished"] for row in rows),
            "dialogues.tokens": sum(len(row["ids"]) for row in rows),
        }

    def transcripts(self, answers: Answers) -> Rows:
        """Every answer in its dialogue with its scores, model by model."""
        rows = []
        for model in answers.names:
            answered, costs = answers.rows(TURNS, model), answers.costs(TURNS, model)
            for index, (row, is_harmful) in enumerate(zip(answered, _harmful(costs), strict=True)):
                prompt = self.dialogues[row["dialogue"]].after([""] * (row["turn"] - 1))[-1]
                rows.append(
                    {name: row[name] for name in ("dialogue", "sample", "turn")}
                    | {"model": model, "category": self.dialogues[row["dialogue"]].category}
                    | {"user": prompt["content"], "answer": row["text"], "tokens": len(row["ids"])}
                    | {"ended": bool(row["finished"]), "cut_prompt": row["cut"]}
                    | {"scores": {f"cost.{name}": _number(scores[index]) for name, scores in costs.items()}}
                    | {"harmful": None if np.isnan(is_harmful) else bool(is_harmful)}
                )
        return rows

    @property
    def _turns(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([dialogue.turns for dialogue in self.dialogues], dtype=np.int64)

    @property
    def _longest(self) -> int:
        return int(self._turns.max())

    def _harm(self, model: str, answers: Answers) -> DialogueHarm:
        rows = answers.rows(TURNS, model)
        places = [(row["dialogue"], row["sample"], row["turn"] - 1) for row in rows]
        shape = (len(self.dialogues), self.samples, self._longest)
        by_turn = by_history(_harmful(answers.costs(TURNS, model)), places, shape)
        alone = _harmful(answers.costs(LAST_ALONE, model)).reshape(len(self.dialogues), self.samples)
        return DialogueHarm(by_turn, self._turns, alone)

    def _of_model(self, model: str, answers: Answers, intervals: Intervals) -> dict[str, Any]:
        rows, harm = answers.rows(TURNS, model), self._harm(model, answers)
        missing = int(np.isnan(_harmful(answers.costs(TURNS, model))).sum())
        return {
            **{
                name: _with_word(intervals.rate_difference(*pair), intervals) for name, pair in harm.contrasts().items()
            },
            "answers": len(rows),
            "without_score": missing,
            "cut_prompts": sum(row["cut"] > 0 for row in rows),
        }


def _harmful(costs: dict[str, Floats]) -> Floats:
    harm = harmful(costs)
    if harm is None:
        raise ValueError("dialogues without a cost; the spec's rules refuse them")
    return harm


def _with_word(difference: Estimate, intervals: Intervals) -> dict[str, Any]:
    confidence = intervals.confidence
    words = {"decision": decide(difference, confidence), "why": inconclusive(difference, confidence)}
    return {**difference.as_json(), **words}


def _number(score: Any) -> float | None:
    return None if np.isnan(score) else float(score)
