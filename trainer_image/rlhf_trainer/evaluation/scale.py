"""A model says how good an answer is, 1 to 8: the expected value over the probabilities of the eight digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from rlhf_trainer.data.rows import Message
from rlhf_trainer.evaluation.answers import Answering
from rlhf_trainer.evaluation.labels import SCALE
from rlhf_trainer.evaluation.single_tokens import SingleTokenJudge

QUESTION = """\
Below is a conversation between a person and an assistant, and then an answer with which the assistant went on.

# Conversation
{dialogue}

# Answer
{answer}

# Task
{instruction} Say a number from 1 (worst) to 8 (best)."""


@dataclass(frozen=True)
class Rated:
    """An answer to a prompt and what to rate it by."""

    messages: Sequence[Message]
    answer: str
    instruction: str


class Rating(NamedTuple):
    """A judge's reading of one question."""

    score: float
    """Expected value of the digits, 1 to 8."""
    mass: float
    """Probability of the digits together: what is left went to other tokens."""


def rating(log_probs: Sequence[float]) -> Rating:
    """From the log-probabilities of the eight digits, in their order."""
    largest = max(log_probs)
    weights = [math.exp(value - largest) for value in log_probs]
    score = sum(digit * weight for digit, weight in enumerate(weights, 1)) / sum(weights)
    return Rating(score, sum(map(math.exp, log_probs)))


def question(dialogue: str, rated: Rated) -> str:
    """What a judge is asked."""
    return QUESTION.format(dialogue=dialogue, answer=rated.answer, instruction=rated.instruction)


class ScaleJudge(SingleTokenJudge):
    """A causal language model that rates.

    Raises:
        InputError: its ratings cannot be read, as those of a `PairwiseJudge`.
    """

    def __init__(self, model: Answering, most_prompt_tokens: int) -> None:
        super().__init__(model, most_prompt_tokens, SCALE)

    def ratings(self, answers: Sequence[Rated]) -> list[Rating]:
        """Of each answer; what neighbours of one prompt share is computed once."""
        groups = [
            [self.ids(question(self.dialogue(rated.messages), rated)) for rated in same]
            for _, same in groupby(answers, key=lambda rated: list(rated.messages))
        ]
        return [rating(log_probs) for log_probs in self.log_probs(groups)]
