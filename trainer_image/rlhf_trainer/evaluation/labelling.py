"""A moderation model at work: which of its labels are true of answers, or of prompts before they are answered."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf_api.template import Template
from rlhf_trainer.data.batches import buckets
from rlhf_trainer.data.chat import Encoded, encode_row, prepare_tokenizer
from rlhf_trainer.data.collate import pad
from rlhf_trainer.data.rows import Message, Tool
from rlhf_trainer.exits import InputError
from rlhf_trainer.models.classifiers import read_classifier
from rlhf_trainer.models.files import load_tokenizer
from rlhf_trainer.models.lengths import row_length
from rlhf_trainer.models.moderation import LabelRule
from rlhf_trainer.models.scorer import ScorerModel

FORWARD_TOKENS = 8192
"""Most tokens (padding included) of a forward."""


@dataclass(frozen=True)
class LabelledText:
    """What a moderation model says of a prompt and its answer."""

    probabilities: tuple[float, ...]
    """Of each label, in the model's order."""
    labels: tuple[str, ...]
    """Those that are true: whose probability is at least its threshold."""
    cut: int
    """Tokens of prompt and answer that the model did not read: its rows may be no longer."""


class Labeller:
    """A moderation model.

    Args:
        path: Its folder, or that of any classifier whose labels are each true or false.
        dtype: Of the weights.
        device: Where it runs.
        most: Tokens of prompt and answer together that are read at most.
        template: What a job fixes of its chat template.

    Raises:
        InputError: it is no such model.
    """

    def __init__(
        self,
        path: Path,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
        most: int = sys.maxsize,
        template: Template | None = None,
    ) -> None:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; expected a moderation model's (config.json, *.safetensors)")
        classifier = read_classifier(path, path, dtype)
        rule = LabelRule.of(path, classifier)
        if rule is None:
            raise InputError(
                f"{path}: found a classifier whose labels are not each true or false of a row; expected a moderation "
                "model (a moderation stage makes one)"
            )
        self.rule = rule
        self._model = ScorerModel([classifier], rule.cost((), path)).to(device).eval()
        self._tokenizer = load_tokenizer(path)
        prepare_tokenizer(self._tokenizer, template)
        self._most = min(row_length(classifier, most), FORWARD_TOKENS)
        self._device = device

    def encode(self, prompt: Sequence[Message], answer: str, tools: Sequence[Tool] = ()) -> Encoded:
        """A prompt with its answer as the model learned from them; a prompt alone is one with an empty answer.

        Raises:
            TemplateProblem: the chat template does not take the messages.
        """
        return encode_row(self._tokenizer, prompt, answer, self._most, tools)

    @torch.no_grad()
    def label(self, rows: Sequence[Encoded]) -> list[LabelledText]:
        """The labels of rows; a row's result does not depend on the rows beside it but for rounding."""
        labelled: dict[int, LabelledText] = {}
        for bucket in buckets([len(row) for row in rows], FORWARD_TOKENS):
            labelled |= zip(bucket, self._forward([rows[index] for index in bucket]), strict=True)
        return [labelled[index] for index in range(len(rows))]

    def _forward(self, rows: Sequence[Encoded]) -> Iterator[LabelledText]:
        padded = pad(rows, self._tokenizer.eos_token_id)  # not PAD, which may lie beyond the embeddings
        ids, mask = padded.input_ids.to(self._device), padded.attention_mask.to(self._device)
        probabilities = self._model.scores(ids, mask).double().sigmoid().T.tolist()
        for row, values in zip(rows, probabilities, strict=True):
            pairs = zip(self.rule.labels, self.rule.thresholds, values, strict=True)
            true = tuple(name for name, threshold, value in pairs if value >= threshold)
            yield LabelledText(tuple(values), true, row.cut_prompt + row.cut_answer)
