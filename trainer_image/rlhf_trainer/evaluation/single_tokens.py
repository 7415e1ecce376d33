"""A causal language model is asked a question and answers by one token: the probabilities of the labels it may say."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from rlhf_trainer.data.chat import FALLBACK_TEMPLATE, encode_prompt
from rlhf_trainer.data.rows import Message
from rlhf_trainer.data.template import ids_of
from rlhf_trainer.evaluation.answers import FORWARD_TOKENS, Answering
from rlhf_trainer.evaluation.labels import Leads, single_tokens
from rlhf_trainer.evaluation.plain import plain, start_of
from rlhf_trainer.generation.shared import last_states
from rlhf_trainer.models.lengths import row_length
from rlhf_trainer.models.load import check_logits


class SingleTokenJudge:
    """A causal language model whose reply is read at its first token.

    Args:
        model: Loaded.
        most_prompt_tokens: Longer dialogues lose their start; so do questions longer than the model's rows may be.
        leads: How the reply may begin, with the labels that may follow.

    Raises:
        InputError: its choices cannot be read: labels of several tokens, or logits that are more than its head's product.
    """

    def __init__(self, model: Answering, most_prompt_tokens: int, leads: Leads) -> None:
        self._model = model
        check_logits(model.model, f"judge ({model.path})")
        self._labels = single_tokens(model.tokenizer, leads)
        self._most = most_prompt_tokens
        self._longest = row_length(model.model, sys.maxsize)
        self._plain = model.tokenizer.chat_template == FALLBACK_TEMPLATE

    def dialogue(self, messages: Sequence[Message]) -> str:
        """A dialogue as the judge reads it: plain lines, without their start where they are too long."""
        tokenizer = self._model.tokenizer
        dialogue = plain(messages).strip().rpartition("\n\nAssistant:")[0]
        ids = ids_of(tokenizer, dialogue, plain=True)
        return str(tokenizer.decode(ids[-self._most :])) if len(ids) > self._most else dialogue

    def ids(self, text: str) -> list[int]:
        """Ids of a question with the reply's beginning."""
        tokenizer = self._model.tokenizer
        if self._plain:
            return [*start_of(tokenizer), *ids_of(tokenizer, f"{text}\n\n{self._labels.lead}", plain=True)]
        question = encode_prompt(tokenizer, [{"role": "user", "content": text}], written=True)
        return [*question, *ids_of(tokenizer, self._labels.lead, after="\n", plain=True)]

    @torch.no_grad()
    def log_probs(self, groups: Sequence[Sequence[list[int]]]) -> list[list[float]]:
        """Log-probability of each label after each question, nats; what a group's questions share is computed once."""
        model, fill = self._model.model, self._model.tokenizer.pad_token_id
        fitted = [[ids[-self._longest :] for ids in group] for group in groups]
        rows: list[list[float]] = []
        for states in last_states(model, fitted, fill, self._model.device, FORWARD_TOKENS):
            logs = model.get_output_embeddings()(torch.stack(states)).double().log_softmax(-1)
            rows += logs[:, list(self._labels.ids)].tolist()
        return rows
