"""Which of two answers a model prefers, by the probabilities of the labels (A) and (B), in both orders."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlhf_trainer.data.chat import encode_prompt
from rlhf_trainer.data.template import ids_of
from rlhf_trainer.evaluation.answers import FORWARD_TOKENS, Answering
from rlhf_trainer.evaluation.labels import PAIRS, single_tokens
from rlhf_trainer.evaluation.probe_rows import NO_PROBES, TwoAnswers
from rlhf_trainer.generation.shared import last_states
from rlhf_trainer.models.lengths import row_length
from rlhf_trainer.models.load import check_logits

QUESTION = """\
{question}

(A) {first}
(B) {second}

Choose A or B."""


@dataclass(frozen=True)
class Preference:
    """What a model says of two answers, as the mean over both orders."""

    log_odds: float
    """Of the first answer against the second, nats."""
    mass: float
    """Probability that the reply goes on with A or B at all."""

    @property
    def probability(self) -> float:
        """Of the first answer, of the two."""
        odds = math.exp(-abs(self.log_odds))
        return (1 if self.log_odds >= 0 else odds) / (1 + odds)


class TwoAnswersReader:
    """Reads the preferences of a causal language model.

    Args:
        model: Loaded.

    Raises:
        InputError: A and B are no single tokens, or the logits are more than the head's product.
    """

    def __init__(self, model: Answering) -> None:
        self._model = model
        check_logits(model.model, f"probabilities of A and B ({model.path})")
        self._labels = single_tokens(model.tokenizer, PAIRS, str(model.path), NO_PROBES)
        self._longest = row_length(model.model, sys.maxsize)

    def encode(self, asked: TwoAnswers, *, swapped: bool) -> list[int]:
        """Ids of a question with the reply's beginning; what the model has no positions for is cut from the start."""
        first, second = (asked.second, asked.first) if swapped else (asked.first, asked.second)
        text = QUESTION.format(question=asked.question, first=first, second=second)
        tokenizer = self._model.tokenizer
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": text}])
        return [*prompt, *ids_of(tokenizer, self._labels.lead, after="\n", plain=True)][-self._longest :]

    @torch.no_grad()
    def preferences(self, groups: Sequence[Sequence[TwoAnswers]]) -> list[list[Preference]]:
        """Of each question of each group; what the questions of a group share is computed once."""
        rows = [
            [self.encode(asked, swapped=swapped) for asked in group for swapped in (False, True)] for group in groups
        ]
        model, device = self._model.model, self._model.device
        states = last_states(model, rows, self._model.tokenizer.pad_token_id, device, FORWARD_TOKENS)
        return [self._of_group(torch.stack(of_group)) for of_group in states]

    def _of_group(self, states: torch.Tensor) -> list[Preference]:
        """From [2 Q, H]: both orders of a question beside each other."""
        logs = self._model.model.get_output_embeddings()(states).double().log_softmax(-1)
        labels = logs[:, list(self._labels.ids)].tolist()
        preferences = []
        for (a, b), (swapped_a, swapped_b) in zip(labels[::2], labels[1::2], strict=True):
            mass = (math.exp(a) + math.exp(b) + math.exp(swapped_a) + math.exp(swapped_b)) / 2
            preferences.append(Preference(((a - b) + (swapped_b - swapped_a)) / 2, mass))
        return preferences
