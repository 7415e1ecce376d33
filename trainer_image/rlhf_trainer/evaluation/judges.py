"""What judges answers: reward and cost models, and exact functions of the user's."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from rlhf_api.capability import read_traits
from rlhf_api.fields import CostScorer
from rlhf_api.product import first_model
from rlhf_api.template import Template
from rlhf_trainer import functions
from rlhf_trainer.context import StageContext
from rlhf_trainer.data.batches import buckets
from rlhf_trainer.data.chat import (
    Encoded,
    encode_answer,
    encode_prompt,
    encode_row,
    fit,
    prepare_tokenizer,
    same_tokenizer,
)
from rlhf_trainer.data.collate import pad
from rlhf_trainer.data.rows import Prompt
from rlhf_trainer.data.template import TemplateProblem
from rlhf_trainer.evaluation.named_judges import Named
from rlhf_trainer.evaluation.shards import Rows
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.lengths import row_length
from rlhf_trainer.models.scorer import load_scorer

FORWARD_TOKENS = 8192
"""Most tokens (padding included) of a forward."""


class AnswerJudge(Protocol):
    """Scores answers; NaN and infinities are no score."""

    def differs(self, answering: Any) -> str | None:
        """Why ids of a model's tokenizer mean something else to this judge, in words; None: it can take them."""

    def scores(self, prompts: Sequence[Prompt], rows: Rows, *, as_text: bool) -> list[float | None]:
        """One score a row; `prompts` are the rows' own. `as_text`: by the rows' text, not their ids."""


class FunctionJudge:
    """A user's function, given the text."""

    def __init__(self, name: str, folder: Path) -> None:
        self._function = functions.load(name, folder)

    def differs(self, answering: Any) -> str | None:  # noqa: ARG002 - it reads text only
        """It reads text only."""
        return None

    def scores(self, prompts: Sequence[Prompt], rows: Rows, *, as_text: bool) -> list[float | None]:  # noqa: ARG002
        """The function's scores of the answers' text."""
        scores = self._function([prompt.messages for prompt in prompts], [row["text"] for row in rows])
        return [_finite(score) for score in scores]


class ModelJudge:
    """A reward or cost model, given prompt and answer with its EOS: the ids exactly as rolled out where it knows them, else the
    text in its own tokens. As in PPO, an answer that was cut is scored at its last token: no EOS is made up."""

    def __init__(
        self,
        path: str,
        kind: Literal["reward", "cost"],
        dtype: str,
        device: torch.device,
        cache: Path,
        template: Template | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        self._model = load_scorer(path, dtype, kind=kind, cache=cache, labels=labels).to(device).eval()
        self._tokenizer = load_tokenizer(first_model(Path(path)), cache)
        prepare_tokenizer(self._tokenizer, template)
        self._most = min(row_length(member, sys.maxsize) for member in self._model.models)
        self._device = device

    def differs(self, answering: Any) -> str | None:
        """What `same_tokenizer` says of the two."""
        return same_tokenizer(answering, self._tokenizer)

    @torch.no_grad()
    def scores(self, prompts: Sequence[Prompt], rows: Rows, *, as_text: bool) -> list[float | None]:
        """The combined score of the members."""
        scores: list[float | None] = [None] * len(rows)
        every = [self._row(prompt, row, as_text) for prompt, row in zip(prompts, rows, strict=True)]
        encoded = {index: row for index, row in enumerate(every) if row is not None}
        numbers = list(encoded)
        for bucket in buckets([len(row) for row in encoded.values()], FORWARD_TOKENS):
            batch = [numbers[position] for position in bucket]
            # not PAD, which may lie beyond the embeddings of a model that lacks it
            padded = pad([encoded[index] for index in batch], self._tokenizer.eos_token_id)
            ids, mask = padded.input_ids.to(self._device), padded.attention_mask.to(self._device)
            combined, _ = self._model.combined(ids, mask)
            for index, score in zip(batch, combined.double().tolist(), strict=True):
                scores[index] = _finite(score)
        return scores

    def _row(self, prompt: Prompt, row: dict[str, Any], as_text: bool) -> Encoded | None:
        """None: this judge's template takes neither the answer nor its prompt, which `prepare` does not let through."""
        if not as_text:
            return self._scored(row["prompt_ids"], row["ids"])
        try:
            return encode_row(self._tokenizer, prompt.messages, row["text"], self._most, prompt.tools)
        except TemplateProblem:  # an answer that this judge's template does not take is scored all the same
            try:
                prompt_ids = encode_prompt(self._tokenizer, prompt.messages, tools=prompt.tools)
            except TemplateProblem:
                return None
            return self._scored(prompt_ids, encode_answer(self._tokenizer, row["text"]))

    def _scored(self, prompt: Sequence[int], answer: Sequence[int]) -> Encoded:
        return fit([*prompt], [*answer], self._most)


def describe(judge: Named, context: StageContext) -> dict[str, Any]:
    """A judge as `evaluation.json` has it: `{"name", "kind", "source"}`, and of a moderation model the `labels` that make
    its cost."""
    described = {"name": judge.name, "kind": judge.kind, "source": judge.scorer.key}
    if not isinstance(judge.scorer, CostScorer) or judge.scorer.function is not None:
        return described
    traits = read_traits(Path(context.input(judge.scorer).path))
    labels = judge.scorer.labels or (traits.label_names if traits is not None else ())
    return {**described, "labels": list(labels)} if labels else described


def load(judge: Named, context: StageContext, dtype: str) -> AnswerJudge:
    """Load a judge.

    Raises:
        InputError: its model or function cannot be used.
    """
    if judge.scorer.function is not None:
        return FunctionJudge(judge.scorer.function, Path(context.file.directories.job))
    entry = context.input(judge.scorer)
    labels = judge.scorer.labels if isinstance(judge.scorer, CostScorer) else ()
    kind: Literal["reward", "cost"] = (
        "reward" if judge.kind == "reward" else "cost"
    )  # a refusal's sign is read as a cost's
    return ModelJudge(entry.path, kind, dtype, context.device, context.storage / "inputs", entry.template, labels)


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None
