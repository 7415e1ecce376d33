"""A language model that answers the policy's questions about a completion: phi = P(yes) / (P(yes) + P(no)).

All questions about one completion begin alike: the conversation, and the template up to the question. That beginning is
computed once, and each question's rest is computed after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_trainer.data.batches import buckets
from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer
from rlhf_trainer.data.rows import Messages
from rlhf_trainer.data.template import ids_of
from rlhf_trainer.exits import InputError
from rlhf_trainer.generation.cache import attends_everywhere, right_aligned
from rlhf_trainer.generation.prefix import PrefixCache
from rlhf_trainer.models.load import check_logits, fit_vocabulary, load_policy
from rlhf_trainer.rules.policy import Policy

FORWARD_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Most tokens (padding included) of a forward."""


@dataclass(frozen=True)
class Asking:
    """How the grader is asked: part of what a rule's weights were fitted with."""

    yes_words: tuple[str, ...]
    no_words: tuple[str, ...]
    max_tokens: int
    """Tokens of what it reads."""


@dataclass(frozen=True)
class Question:
    """A completion to be graded."""

    prompt: Messages
    answer: str
    propositions: tuple[str, ...]
    """What is asked of it."""


@dataclass(frozen=True)
class Grades:
    """What the grader said of one completion."""

    probabilities: dict[str, float]
    """phi by proposition."""
    answered: float
    """Mean of P(yes) + P(no): how much of what the grader would say is an answer at all."""
    cut: int
    """Tokens cut from the start of the conversation."""
    tokens: int
    """Tokens computed: the conversation once, and every question."""

    def as_json(self) -> dict[str, Any]:
        """As shards keep it."""
        return {"grades": self.probabilities, "answered": self.answered, "cut": self.cut, "tokens": self.tokens}


@dataclass(frozen=True)
class _Laid:
    """A completion's questions as ids: what they have in common, and the rest of each."""

    prefix: list[int]
    rests: list[list[int]]
    cut: int


class Grader:
    """A causal language model in evaluation mode, and what it is asked.

    Raises:
        InputError: the model cannot be used, or its tokenizer has no single token for yes and no.
    """

    def __init__(
        self, path: str | Path, policy: Policy, asking: Asking, *, dtype: str, device: torch.device, cache: Path | None
    ) -> None:
        self.model, self.tokenizer = load_policy(path, dtype, cache)
        self.notes = prepare_tokenizer(self.tokenizer)
        fit_vocabulary(self.model, self.tokenizer)
        check_logits(self.model, f"grader ({path})")
        self.model.requires_grad_(False)
        self.model.to(device).eval()
        self._policy = policy
        self._asking = asking
        self._device = device
        self._yes, self._no = answer_tokens(self.tokenizer, asking)
        self._shares = attends_everywhere(self.model.config)

    @torch.no_grad()
    def grade(self, questions: Sequence[Question], *, apart: bool = False) -> list[Grades]:
        """Grade completions.

        Args:
            questions: completions with what is asked of each.
            apart: compute each question by itself, from the conversation's start; what a model without a plain cache of
                keys and values gets in any case.

        Raises:
            InputError: a question alone is longer than the tokens that the grader may read.
        """
        laid = [self._lay(question) for question in questions]
        logits = self._apart(laid) if apart or not self._shares else self._together(laid)
        found = []
        for question, one, rows in zip(questions, laid, logits, strict=True):
            yes, no = rows[:, 0].double(), rows[:, 1].double()
            phi = torch.sigmoid(yes - no).tolist()
            answered = float((yes.exp() + no.exp()).mean()) if len(rows) else 0.0
            tokens = len(one.prefix) + sum(map(len, one.rests))
            found.append(Grades(dict(zip(question.propositions, phi, strict=True)), answered, one.cut, tokens))
        return found

    def _lay(self, question: Question) -> _Laid:
        said = {"role": "assistant", "content": question.answer}
        rows = []
        for name in question.propositions:
            asked = {"role": "user", "content": self._policy.asked(name, question.answer)}
            rows.append(encode_prompt(self.tokenizer, [*question.prompt, said, asked]))  # type: ignore[list-item]
        if not rows:
            return _Laid([], [], 0)
        shared = min(_common(rows), min(map(len, rows)) - 1)
        rests = [row[shared:] for row in rows]
        longest, most = max(map(len, rests)), self._asking.max_tokens
        if longest >= most:
            name = question.propositions[[len(rest) for rest in rests].index(longest)]
            raise InputError(
                f"the grader's question {name} takes {longest} tokens after the conversation; expected fewer than "
                f"maxTokens, {most}. Raise maxTokens, or ask shorter"
            )
        cut = max(0, shared + longest - most)
        return _Laid(rows[0][cut:shared], rests, cut)

    # -- forwards -----------------------------------------------------------------------------------------------------

    def _together(self, laid: Sequence[_Laid]) -> list[Tensor]:
        """[questions, 2] log-probabilities of yes and no for each completion, its beginning computed once."""
        found = [torch.zeros(len(one.rests), 2) for one in laid]
        there = [index for index, one in enumerate(laid) if one.rests]
        budget = FORWARD_TOKENS[self._device.type]
        for group in buckets([len(laid[index].prefix) for index in there], budget):
            members = [there[place] for place in group]
            cache = PrefixCache(int(self.model.config.get_text_config().num_hidden_layers))
            ids, mask = right_aligned([laid[index].prefix for index in members], self._fill, self._device)
            self._hidden(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
            asked = [(place, number) for place, index in enumerate(members) for number in range(len(laid[index].rests))]
            rests = [laid[members[place]].rests[number] for place, number in asked]
            for chunk in buckets([len(rest) for rest in rests], budget):
                rows = torch.tensor([asked[one][0] for one in chunk], device=self._device)
                cache.rows = rows
                rest, seen = _left_aligned([rests[one] for one in chunk], self._fill, self._device)
                starts = mask.sum(-1)[rows, None]
                positions = starts + torch.arange(rest.shape[1], device=self._device)
                hidden = self._hidden(rest, torch.cat((mask[rows], seen), 1), positions, cache)
                scores = self._scores(hidden[torch.arange(len(chunk)), seen.sum(-1) - 1])
                for one, score in zip(chunk, scores, strict=True):
                    place, number = asked[one]
                    found[members[place]][number] = score
        return found

    def _apart(self, laid: Sequence[_Laid]) -> list[Tensor]:
        """The same, each question by itself."""
        found = [torch.zeros(len(one.rests), 2) for one in laid]
        asked = [(index, number) for index, one in enumerate(laid) for number in range(len(one.rests))]
        rows = [[*laid[index].prefix, *laid[index].rests[number]] for index, number in asked]
        for chunk in buckets([len(row) for row in rows], FORWARD_TOKENS[self._device.type]):
            ids, mask = _left_aligned([rows[one] for one in chunk], self._fill, self._device)
            hidden = self._hidden(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), None)
            scores = self._scores(hidden[torch.arange(len(chunk)), mask.sum(-1) - 1])
            for one, score in zip(chunk, scores, strict=True):
                found[asked[one][0]][asked[one][1]] = score
        return found

    @property
    def _fill(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def _hidden(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: PrefixCache | None) -> Tensor:
        """[B, T, H] states of the new tokens."""
        found: Tensor = getattr(self.model, self.model.base_model_prefix)(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return found

    def _scores(self, hidden: Tensor) -> Tensor:
        """[R, 2] log-probability of yes and of no after states [R, H]."""
        logits = torch.log_softmax(self.model.get_output_embeddings()(hidden).float(), dim=-1)
        return torch.stack([logits[:, ids].logsumexp(-1) for ids in (self._yes, self._no)], dim=1).cpu()


def answer_tokens(tokenizer: Any, asking: Asking) -> tuple[list[int], list[int]]:
    """Ids that mean yes, and as many that mean no: the words whose opposite is a single token too.

    Raises:
        InputError: there are none; the message shows what the words become.
    """
    yes: list[int] = []
    no: list[int] = []
    told = []
    for word, opposite in zip(asking.yes_words, asking.no_words, strict=True):
        first, second = (ids_of(tokenizer, one, after="\n", plain=True) for one in (word, opposite))
        told.append(f"{word!r} {first}, {opposite!r} {second}")
        if len(first) == len(second) == 1 and first[0] not in yes and second[0] not in no:
            yes += first
            no += second
    if not yes or set(yes) & set(no):
        raise InputError(
            f"the grader's tokenizer has no single token for yes and no: {'; '.join(told)}. Expected at least one pair "
            "of one id each; set yesWords and noWords to words that it has"
        )
    return yes, no


def _common(rows: Sequence[list[int]]) -> int:
    """Ids that all rows begin with."""
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False)))


def _left_aligned(rows: Sequence[list[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """([B, W] ids, [B, W] mask), padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask
