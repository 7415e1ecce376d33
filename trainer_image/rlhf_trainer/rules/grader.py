"""A language model that answers the policy's questions about a completion: phi = P(yes) / (P(yes) + P(no)).

All questions about one completion begin alike: the conversation, and the template up to the question. That beginning is
computed once, and each question's rest is computed after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_api.template import Template
from rlhf_trainer.data.chat import encode_prompt, prepare_tokenizer
from rlhf_trainer.data.rows import Message, Messages
from rlhf_trainer.data.template import SHOWN, ids_of
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.generation.shared import common, last_states
from rlhf_trainer.models.lengths import row_length
from rlhf_trainer.models.load import check_logits, load_policy
from rlhf_trainer.models.vocabulary import fit_vocabulary
from rlhf_trainer.rules.policy import Policy

FORWARD_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Most tokens (padding included) of a forward."""


@dataclass(frozen=True)
class Asking:
    """How the grader is asked: part of what a rule's weights were fitted with."""

    yes_words: tuple[str, ...]
    no_words: tuple[str, ...]
    max_tokens: int
    """Most tokens of what it reads."""


@dataclass(frozen=True)
class Question:
    """A completion to be graded."""

    prompt: Messages
    answer: str
    propositions: tuple[str, ...]
    """What is asked of it."""
    where: str = ""
    """Its row, where it has one."""

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.where or f"the answer {self.answer[:SHOWN]!r}"


@dataclass(frozen=True)
class Grades:
    """What the grader said of one completion."""

    probabilities: dict[str, float]
    """phi by proposition."""
    answered: float
    """Mean of P(yes) + P(no): how much of what the grader would say is an answer at all."""
    cut: int
    """Tokens cut from the start of the conversation, and of a question that repeats a long answer."""
    tokens: int
    """Tokens computed: the conversation once, and every question."""

    def as_json(self) -> dict[str, Any]:
        """As shards keep it."""
        return {"grades": self.probabilities, "answered": self.answered, "cut": self.cut, "tokens": self.tokens}


@dataclass(frozen=True)
class _Laid:
    """A completion's questions as ids, which begin alike."""

    rows: list[list[int]]
    cut: int
    """Ids that each lost at its start."""
    tokens: int
    """What all have in common, once, and the rest of each."""


class Grader:
    """A causal language model in evaluation mode, and what it is asked.

    Raises:
        InputError: the model cannot be used, or its tokenizer has no single token for yes and no.
    """

    def __init__(
        self,
        path: str | Path,
        policy: Policy,
        asking: Asking,
        *,
        dtype: str,
        device: torch.device,
        cache: Path | None,
        template: Template | None = None,
    ) -> None:
        self.model, self.tokenizer = load_policy(path, dtype, cache)
        self.notes = prepare_tokenizer(self.tokenizer, template)
        fit_vocabulary(self.model, self.tokenizer)
        check_logits(self.model, f"grader ({path})")
        self.model.requires_grad_(False)
        self.model.to(device).eval()
        self._policy = policy
        self._most = row_length(self.model, asking.max_tokens)
        self._bound = "maxTokens" if self._most == asking.max_tokens else "the grader's positions"
        self._device = device
        self._yes, self._no = answer_tokens(self.tokenizer, asking)

    @torch.no_grad()
    def grade(self, questions: Sequence[Question], *, apart: bool = False) -> list[Grades]:
        """Grade completions.

        Args:
            questions: completions with what is asked of each.
            apart: compute each question by itself, from the conversation's start; what a model without a plain cache of
                keys and values gets in any case.

        Raises:
            InputError: a question alone is longer than the tokens that the grader may read, or with the answer of a row
                that it repeats; or its chat template refuses the conversation of a row.
            GuardTripped: reason `NaN`: a grade is not a finite number.
        """
        laid = [self._lay(question) for question in questions]
        groups = (
            [[row] for encoded in laid for row in encoded.rows]
            if apart
            else [encoded.rows for encoded in laid if encoded.rows]
        )
        states = last_states(self.model, groups, self._fill, self._device, FORWARD_TOKENS[self._device.type])
        scores = iter([row for group in states for row in self._scores(torch.stack(group))])
        grades = []
        for question, encoded in zip(questions, laid, strict=True):
            log_probs = [next(scores).double() for _ in encoded.rows]
            phi = {
                name: float(torch.sigmoid(s[0] - s[1]))
                for name, s in zip(question.propositions, log_probs, strict=True)
            }
            _check_finite(question, phi)
            answered = float(torch.stack(log_probs).exp().sum(1).mean()) if log_probs else 0.0
            grades.append(Grades(phi, answered, encoded.cut, encoded.tokens))
        return grades

    def _lay(self, question: Question) -> _Laid:
        rows = [self._encode(question, name, question.answer) for name in question.propositions]
        if not rows:
            return _Laid([], 0, 0)
        shared = common(rows) if len(rows) > 1 else len(rows[0]) - 1
        longest, most = max(map(len, rows)), self._most
        cut = max(0, longest - most)
        if longest - shared < most:
            return _Laid([row[cut:] for row in rows], cut, sum(map(len, rows)) - (len(rows) - 1) * shared - cut)
        self._check_question(question, rows, shared)
        rows = [row[-most:] for row in rows]
        return _Laid(rows, cut, sum(map(len, rows)))

    def _encode(self, question: Question, proposition: str, repeated: str) -> list[int]:
        """Ids of a conversation and what is asked of it; `repeated` is the answer where the question has it again."""
        answer: Message = {"role": "assistant", "content": question.answer}
        request: Message = {"role": "user", "content": self._policy.question_for(proposition, repeated)}
        try:
            return encode_prompt(self.tokenizer, [*question.prompt, answer, request], written=not question.where)
        except InputError as error:
            raise InputError(f"{question.name}: {error}") from error

    def _check_question(self, question: Question, rows: Sequence[Sequence[int]], shared: int) -> None:
        """Refuse a question that is too long by itself, or for a row's answer. One that is too long because it repeats an
        answer that a policy just wrote loses its start: no answer ends a stage."""
        most = self._most
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        name = question.propositions[longest]
        count = len(rows[longest]) - shared
        if not question.where:
            count -= len(rows[longest]) - len(self._encode(question, name, ""))
        if count >= most:
            how = "Raise maxTokens" if self._bound == "maxTokens" else "Give a grader that has more"
            raise InputError(
                f"the grader's question {name} takes {count} tokens after the conversation; expected fewer "
                f"than {self._bound}, {most}. {how}, or ask shorter"
            )

    @property
    def _fill(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def _scores(self, hidden: Tensor) -> Tensor:
        """[R, 2] log-probability of yes and of no after states [R, H]."""
        logits = torch.log_softmax(self.model.get_output_embeddings()(hidden).float(), dim=-1)
        return torch.stack([logits[:, ids].logsumexp(-1) for ids in (self._yes, self._no)], dim=1).cpu()


def _check_finite(question: Question, phi: Mapping[str, float]) -> None:
    """A NaN would be kept as nothing, and the first class be taken for its most probable one."""
    for proposition, value in phi.items():
        if not math.isfinite(value):
            raise GuardTripped(
                f"{question.name}: the grader's answer to {proposition} is not a finite number. Its weights are damaged "
                "or dtype is too narrow for them; give another grader, or dtype: float32",
                reason="NaN",
            )


def answer_tokens(tokenizer: Any, asking: Asking) -> tuple[list[int], list[int]]:
    """Ids that mean yes, and as many that mean no: the words whose opposite is a single token too.

    Raises:
        InputError: there are none; the message shows what the words become.
    """
    yes: list[int] = []
    no: list[int] = []
    tried = []
    for word, opposite in zip(asking.yes_words, asking.no_words, strict=True):
        first, second = (ids_of(tokenizer, text, after="\n", plain=True) for text in (word, opposite))
        tried.append(f"{word!r} {first}, {opposite!r} {second}")
        if len(first) == len(second) == 1 and first[0] not in yes and second[0] not in no:
            yes += first
            no += second
    if not yes or set(yes) & set(no):
        raise InputError(
            f"the grader's tokenizer has no single token for yes and no: {'; '.join(tried)}. Expected at least one pair "
            "of one id each; set yesWords and noWords to words that it has"
        )
    return yes, no
