"""A model chooses between two answers, in both orders: the log-odds of `A` against `B`, and a soft label of their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rlhf_trainer.data.rows import Message
from rlhf_trainer.data.template import Tokenizer
from rlhf_trainer.evaluation import labels
from rlhf_trainer.evaluation.answers import Answering
from rlhf_trainer.evaluation.labels import Labels, single_tokens
from rlhf_trainer.evaluation.single_tokens import SingleTokenJudge
from rlhf_trainer.statistics.choices import Choice

QUESTION = """\
Below is a conversation between a person and an assistant, and then two answers with which the assistant could go on.

# Conversation
{dialogue}

# Answer A
{first}

# Answer B
{second}

# Task
{instruction} Say A or B."""


@dataclass(frozen=True)
class Compared:
    """Two answers to a prompt and what to choose by."""

    messages: Sequence[Message]
    first: str
    second: str
    instruction: str


def labels_of(tokenizer: Tokenizer) -> Labels:
    """The labels' tokens.

    Raises:
        InputError: no form of A and B is one token each, so that their probabilities cannot be read at one place.
    """
    return single_tokens(tokenizer, labels.PAIRS)


def question(dialogue: str, pair: Compared, swapped: bool) -> str:
    """What a judge is asked; `swapped`: the second answer stands as A."""
    first, second = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    return QUESTION.format(dialogue=dialogue, first=first, second=second, instruction=pair.instruction)


class PairwiseJudge(SingleTokenJudge):
    """A causal language model that chooses.

    Args:
        model: loaded.
        most_prompt_tokens: longer dialogues lose their start; so do questions longer than the model's rows may be.

    Raises:
        InputError: its choices cannot be read: no single tokens for A and B, or logits that are more than its head's
            product.
    """

    def __init__(self, model: Answering, most_prompt_tokens: int) -> None:
        super().__init__(model, most_prompt_tokens, labels.PAIRS)

    def both_orders(self, pairs: Sequence[Compared]) -> list[tuple[Choice, Choice]]:
        """(first answer as A, first answer as B) of each pair; what neighbours of one prompt share is computed once."""
        groups = [
            [self.encode(pair, swapped) for pair in same for swapped in (False, True)]
            for _, same in groupby(pairs, key=lambda pair: list(pair.messages))
        ]
        choices = [Choice(a - b, math.exp(a) + math.exp(b)) for a, b in self.log_probs(groups)]
        return list(zip(choices[::2], choices[1::2], strict=True))

    def encode(self, pair: Compared, swapped: bool) -> list[int]:
        """Ids of a question with the reply's beginning."""
        return self.ids(question(self.dialogue(pair.messages), pair, swapped))
