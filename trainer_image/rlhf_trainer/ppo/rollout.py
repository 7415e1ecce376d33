"""One step's answers: which prompts, sampled on which rank, gathered so that every rank knows them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_api.stages.ppo import Rollout as Spec
from rlhf_trainer import distributed
from rlhf_trainer.data.batches import order
from rlhf_trainer.data.rows import Messages
from rlhf_trainer.data.spoken import spoken_text
from rlhf_trainer.generation.sample import Answer, Sampling, sample
from rlhf_trainer.models.vocabulary import end_ids


@dataclass(frozen=True)
class Rollout:
    """Answers of a step over all ranks, in an order that depends on the step alone."""

    messages: list[Messages]
    prompts: list[list[int]]
    answers: list[list[int]]
    finished: list[bool]
    """Ended by an end id."""
    texts: list[str]
    """Answers without special tokens."""
    kinds: list[str | None]
    """What rules expect of an answer: the response types of their prompts."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and answer."""
        return [len(p) + len(a) for p, a in zip(self.prompts, self.answers, strict=True)]

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return sum(map(len, self.answers))


class Prompts:
    """Encoded prompts, and which a step takes."""

    def __init__(
        self,
        messages: Sequence[Messages],
        ids: Sequence[list[int]],
        spec: Spec,
        seed: int,
        kinds: Sequence[str | None] | None = None,
    ) -> None:
        self._messages = list(messages)
        self._kinds = list(kinds) if kinds is not None else [None] * len(self._messages)
        self._ids = list(ids)
        self._spec = spec
        self._seed = seed

    def step(self, step: int) -> list[int]:
        """Indices of a step's prompts, each `samples` times: a function of the step alone, so that a run resumes.

        Every prompt comes once before any comes again, in an order of the pass's own; a step may span two passes.
        """
        count = len(self._ids)
        indices = []
        for position in range(step * self._spec.prompts, (step + 1) * self._spec.prompts):
            index = order(count, position // count, self._seed)[position % count]
            indices += [index] * self._spec.samples
        return indices

    def sample(
        self,
        model: Any,
        tokenizer: Any,
        step: int,
        rank: int,
        world: int,
        report: Callable[[float], object] | None = None,
    ) -> Rollout:
        """Answer a step's prompts. A collective: each rank samples its share, all get the whole.

        Args:
            model: the policy, its weights whole on this rank.
            tokenizer: its tokenizer.
            step: from 0.
            rank: of this process.
            world: number of ranks.
            report: given the share of this rank's answers that is made, 0 to 1.
        """
        chosen = self.step(step)
        by_length = sorted(range(len(chosen)), key=lambda row: (-len(self._ids[chosen[row]]), row))
        mine = by_length[rank::world]
        sampling = Sampling(self._spec.temperature, self._spec.max_new_tokens, end_ids(model, tokenizer))
        sampled = (
            sample(
                model,
                [self._ids[chosen[row]] for row in mine],
                sampling,
                seed=self._seed,
                step=step,
                rows=mine,
                report=report,
            )
            if mine
            else []
        )
        answers: dict[int, Answer] = {}
        for part in distributed.gather(dict(zip(mine, sampled, strict=True))):
            answers |= part
        ordered = [answers[row] for row in range(len(chosen))]
        return Rollout(
            messages=[self._messages[index] for index in chosen],
            prompts=[self._ids[index] for index in chosen],
            answers=[answer.ids for answer in ordered],
            finished=[answer.finished for answer in ordered],
            texts=[spoken_text(tokenizer, answer.spoken) for answer in ordered],
            kinds=[self._kinds[index] for index in chosen],
        )
