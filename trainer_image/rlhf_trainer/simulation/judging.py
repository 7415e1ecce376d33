"""A model chooses between two answers, in both orders: the log-odds of `A` against `B`, and a soft label of their mean."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from rlhf_trainer.data.chat import FALLBACK_TEMPLATE, encode_prompt
from rlhf_trainer.data.rows import Message
from rlhf_trainer.data.template import ids_of
from rlhf_trainer.evaluation.answers import FORWARD_TOKENS, Answering
from rlhf_trainer.evaluation.option_labels import labels_of
from rlhf_trainer.generation.shared import last_states
from rlhf_trainer.models.lengths import row_length
from rlhf_trainer.models.load import check_logits
from rlhf_trainer.simulation.choices import Choice
from rlhf_trainer.simulation.prompt_format import plain, start_of

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


class PairwiseJudge:
    """A causal language model that chooses.

    Args:
        model: loaded.
        most_prompt_tokens: longer dialogues lose their start; so do questions longer than the model's rows may be.

    Raises:
        InputError: its choices cannot be read: no single tokens for A and B, or logits that are more than its head's
            product.
    """

    def __init__(self, model: Answering, most_prompt_tokens: int) -> None:
        self._model = model
        check_logits(model.model, f"judge ({model.path})")
        self._labels = labels_of(model.tokenizer)
        self._most = most_prompt_tokens
        self._longest = row_length(model.model, sys.maxsize)
        self._plain = model.tokenizer.chat_template == FALLBACK_TEMPLATE

    def both_orders(self, pairs: Sequence[Compared]) -> list[tuple[Choice, Choice]]:
        """(first answer as A, first answer as B) of each pair; what neighbours of one prompt share is computed once."""
        groups = [
            [self.encode(pair, swapped)[-self._longest :] for pair in same for swapped in (False, True)]
            for _, same in groupby(pairs, key=lambda pair: list(pair.messages))
        ]
        choices = self._choose(groups)
        return list(zip(choices[::2], choices[1::2], strict=True))

    def encode(self, pair: Compared, swapped: bool) -> list[int]:
        """Ids of a question with the reply's beginning."""
        tokenizer = self._model.tokenizer
        answers = (pair.second, pair.first) if swapped else (pair.first, pair.second)
        dialogue = plain(pair.messages).strip().rpartition("\n\nAssistant:")[0]
        ids = ids_of(tokenizer, dialogue, plain=True)
        if len(ids) > self._most:
            dialogue = tokenizer.decode(ids[-self._most :])
        text = QUESTION.format(dialogue=dialogue, first=answers[0], second=answers[1], instruction=pair.instruction)
        if self._plain:
            return [*start_of(tokenizer), *ids_of(tokenizer, f"{text}\n\n{self._labels.lead}", plain=True)]
        question = encode_prompt(tokenizer, [{"role": "user", "content": text}], written=True)
        return [*question, *ids_of(tokenizer, self._labels.lead, after="\n", plain=True)]

    @torch.no_grad()
    def _choose(self, groups: Sequence[Sequence[list[int]]]) -> list[Choice]:
        model, fill = self._model.model, self._model.tokenizer.pad_token_id
        choices = []
        for states in last_states(model, groups, fill, self._model.device, FORWARD_TOKENS):
            logs = model.get_output_embeddings()(torch.stack(states)).double().log_softmax(-1)
            first, second = logs[:, self._labels.first].tolist(), logs[:, self._labels.second].tolist()
            choices += [Choice(a - b, math.exp(a) + math.exp(b)) for a, b in zip(first, second, strict=True)]
        return choices
