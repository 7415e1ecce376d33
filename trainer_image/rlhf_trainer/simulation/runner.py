"""One simulation: models answer and judge in shards, by all ranks, each once however often the stage is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_api.digest import digest_of
from rlhf_api.fields import ModelRef
from rlhf_api.stages import STAGE_TYPES
from rlhf_api.stages.simulate import Simulate
from rlhf_trainer import functions
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.data.spoken import spoken_text
from rlhf_trainer.evaluation.answers import Answering
from rlhf_trainer.evaluation.pairwise import Compared, PairwiseJudge
from rlhf_trainer.evaluation.shards import Rows, Shards
from rlhf_trainer.generation.sample import Sampling, sample
from rlhf_trainer.models.lengths import prompt_room
from rlhf_trainer.models.vocabulary import end_ids
from rlhf_trainer.simulation.methods import Method
from rlhf_trainer.simulation.prompt_format import Chat, answer_text, ask, chat_of
from rlhf_trainer.simulation.rows import Answered
from rlhf_trainer.statistics.choices import Choice, agree

SIZE = 64
"""Prompts a shard."""


class Writer:
    """A model that answers dialogues with phrases in them.

    Args:
        context: the stage's.
        spec: how it answers.
        reference: the model.
        report: given the share of a call's answers that is made, 0 to 1.
    """

    def __init__(
        self, context: StageContext, spec: Simulate, reference: ModelRef, report: Callable[[float], object]
    ) -> None:
        entry, cache = context.input(reference), context.storage / "inputs"
        with context.metrics.phase("load"):
            self.model = Answering(entry.path, spec.dtype, context.device, cache, entry.template)
        self.chat: Chat = chat_of(self.model.tokenizer, spec.chat)
        self._spec = spec
        self._seed = context.seed
        self._report = report

    def answers(self, dialogues: Sequence[list[int]], numbers: Sequence[int], *, step: int = 0) -> Rows:
        """`{row, text, ids, finished, cut}` for each prompt's ids; an answer's random numbers are those of its number."""
        how, tokenizer = self._spec.generation, self.model.tokenizer
        room = prompt_room([self.model.model], how.max_prompt_tokens, how.max_new_tokens)
        fitted = [ids[-room:] for ids in dialogues]
        stop = self._next_turn if self.chat == "plain" else None
        sampling = Sampling(how.temperature, how.max_new_tokens, end_ids(self.model.model, tokenizer), stop)
        sampled = sample(
            self.model.model, fitted, sampling, seed=self._seed, step=step, rows=list(numbers), report=self._report
        )
        rows = []
        for number, dialogue, ids, answer in zip(numbers, dialogues, fitted, sampled, strict=True):
            text, ended = answer_text(spoken_text(tokenizer, answer.spoken), self.chat)
            finished = answer.finished or ended
            cut = len(dialogue) - len(ids)
            rows.append({"row": number, "text": text, "ids": answer.ids, "finished": finished, "cut": cut})
        return rows

    def _next_turn(self, ids: list[int]) -> bool:
        """Whether a plain dialogue goes on with another's turn; `:` ends its header."""
        text: str = self.model.tokenizer.decode(ids[-16:])
        return ":" in text and answer_text(text, "plain")[1]


class Simulation:
    """Answers, and where the method has one the judge's choices.

    Args:
        context: the stage's.
        spec: a method that answers prompts (not red-teaming).
        prompts: what is answered.
    """

    def __init__(self, context: StageContext, spec: Simulate, prompts: Sequence[Prompt]) -> None:
        self.context = context
        self.spec = spec
        self.prompts = prompts
        self.method = Method(spec, context.seed)
        self.chat: Chat | None = None
        steps = 2 if self.method.judged is not None else 1
        self.shards = Shards(context, shard_key(context, spec), len(prompts), steps, SIZE, "simulating")

    def run(self) -> None:
        """Compute every shard. A collective.

        Raises:
            Stopped: asked to stop.
            InputError: a model cannot be used.
        """
        judge, reference = self._answer(), self.method.judge
        if reference is not None:
            self._choose(judge or self._judge(Writer(self.context, self.spec, reference, self.shards.report)))

    def _answer(self) -> PairwiseJudge | None:
        """Let the model answer. Gives it as the judge where it is that too: if it cannot be, nothing is sampled."""
        writer = Writer(self.context, self.spec, self.spec.model, self.shards.report)
        self.chat = writer.chat
        reference = self.method.judge
        judge = self._judge(writer) if reference is not None and reference.key == self.spec.model.key else None
        self.shards.run("answers", "generate", lambda shard: self._answered(writer, shard), measure=lengths)
        return judge

    def _judge(self, writer: Writer) -> PairwiseJudge:
        return PairwiseJudge(writer.model, self.spec.generation.max_prompt_tokens)

    def _choose(self, judge: PairwiseJudge) -> None:
        self.shards.run("choices", "score", lambda shard: self._judged(judge, shard), measure=agreement)

    def numbers(self, shard: int) -> Iterator[tuple[int, Prompt]]:
        """Row numbers of a shard with their prompts."""
        for index in self.shards.span(shard):
            for sample_index in range(self.spec.generation.samples):
                yield index * self.spec.generation.samples + sample_index, self.prompts[index]

    def _answered(self, writer: Writer, shard: int) -> Rows:
        dialogues, numbers, unmarked = [], [], []
        for number, prompt in self.numbers(shard):
            request = self.method.request(number, prompt.response_type)
            for side, (last, earlier) in enumerate(request.phrases):
                prompted = ask(writer.model.tokenizer, prompt.messages, writer.chat, last, earlier)
                dialogues.append(prompted.ids)
                unmarked.append(prompted.unmarked)
                numbers.append(number * self.method.answers + side)
        rows = writer.answers(dialogues, numbers)
        return [{**row, "unmarked": count} for row, count in zip(rows, unmarked, strict=True)]

    def _judged(self, judge: PairwiseJudge, shard: int) -> Rows:
        pairs = []
        for number, prompt, texts, _ in self._grouped(shard):
            instruction = self.method.request(number).instruction
            pairs.append(Compared(prompt.messages, texts[0], texts[1], str(instruction)))
        choices = judge.both_orders(pairs)
        return [
            {"row": number, "log_odds": [choice.log_odds for choice in both], "mass": [choice.mass for choice in both]}
            for (number, *_), both in zip(self._grouped(shard), choices, strict=True)
        ]

    def _grouped(self, shard: int) -> Iterator[tuple[int, Prompt, tuple[str, ...], tuple[int, ...]]]:
        """(number, prompt, texts, tokens) of each row of a shard."""
        rows = self.shards.rows("answers", shard)
        count = self.method.answers
        for index, (number, prompt) in enumerate(self.numbers(shard)):
            own_rows = rows[index * count : (index + 1) * count]
            yield number, prompt, tuple(row["text"] for row in own_rows), tuple(len(row["ids"]) for row in own_rows)

    def answered(self) -> Iterator[Answered]:
        """Every row in the prompts' order. Reads the shards of all ranks."""
        for shard in range(self.shards.count()):
            judged = self.shards.rows("choices", shard) if self.method.judged is not None else []
            for index, (number, prompt, texts, tokens) in enumerate(self._grouped(shard)):
                request = self.method.request(number, prompt.response_type)
                choices = _choices(judged[index]) if judged else None
                yield Answered(number, prompt, request, texts, tokens, choices)


def lengths(rows: Rows) -> dict[str, float]:
    """Metrics of answers."""
    if not rows:
        return {}
    return {
        "length": sum(len(row["ids"]) for row in rows) / len(rows),
        "missing_eos": sum(not row["finished"] for row in rows) / len(rows),
    }


def agreement(rows: Rows) -> dict[str, float]:
    """Metrics of choices: whether both orders choose the same answer, which place they lean to, what was left."""
    if not rows:
        return {}
    odds = [row["log_odds"] for row in rows]
    return {
        "order_agreement": sum(agree(*both) for both in odds) / len(rows),
        "order_bias": sum(first + second for first, second in odds) / (2 * len(rows)),
        "label_mass": sum(sum(row["mass"]) for row in rows) / (2 * len(rows)),
    }


def _choices(row: Mapping[str, Any]) -> tuple[Choice, Choice]:
    first, second = (Choice(odds, mass) for odds, mass in zip(row["log_odds"], row["mass"], strict=True))
    return first, second


def shard_key(context: StageContext, spec: Simulate) -> str:
    """Digest of all that answers and choices depend on: not of the audit, which is drawn from what there is."""
    named = [cost.function for cost in spec.red_team.costs if cost.function] if spec.red_team is not None else []
    folder = Path(context.file.directories.job)
    return digest_of(
        {
            "spec": spec.model_dump(mode="json", exclude={"audit", "seed"}),
            "seed": context.seed,
            "inputs": {key: entry.digest for key, entry in context.file.inputs.items()},
            "functions": {name: functions.source_digest(name, folder) for name in named},
            "recipe": STAGE_TYPES["simulate"].recipe,
            "size": SIZE,
        }
    )
