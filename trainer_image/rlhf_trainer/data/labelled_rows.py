"""Labelled answers as a moderation model takes them: split by prompt, as rows of tokens and a table of labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlhf_api.stages.moderation import Moderation
from rlhf_trainer.data.chat import Encoded, encode_row
from rlhf_trainer.data.checks import Encodings
from rlhf_trainer.data.label_names import label_names
from rlhf_trainer.data.load import Inputs, load_labelled
from rlhf_trainer.data.rows import LabelledAnswer
from rlhf_trainer.data.splits import canonical, split_by_prompt


@dataclass
class LabelledRows:
    """Answers as rows of tokens; training rows come first, then held-out ones."""

    names: tuple[str, ...]
    """[L] the labels."""
    encoded: list[Encoded]
    labels: Tensor
    """[N, L] float32: 1 true, 0 false, NaN not known."""
    trained: int
    """Training rows."""
    prompts: list[bytes]
    """[N] what each row answers."""

    @property
    def heldout(self) -> range:
        """Rows that are never trained on."""
        return range(self.trained, len(self.encoded))

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row) for row in self.encoded]

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of some rows."""
        return sum(self.lengths[row] for row in rows)

    def known(self, rows: Sequence[int]) -> int:
        """Labels that are known of some rows."""
        return int((~torch.isnan(self.labels[list(rows)])).sum())

    def answer_lengths(self, rows: Sequence[int]) -> list[int]:
        """Tokens of the answers of some rows, EOS included."""
        return [sum(self.encoded[row].mask) for row in rows]


def encode_labelled(
    context: Inputs, spec: Moderation, tokenizer: Any, seed: int
) -> tuple[LabelledRows, dict[str, int], list[str]]:
    """Rows of a moderation model's data.

    Returns:
        Encoded rows; counts; notes on labels that cannot be learned.

    Raises:
        InputError: data cannot be used, or no row tells of a label that the spec names.
    """
    encodings = Encodings(lambda row: encode_row(tokenizer, row.prompt, row.answer, spec.max_length, row.tools))
    rows, read = load_labelled(context, spec.data, encodings)
    names = label_names(spec.labels, rows)
    telling = [row for row in rows if any(math.isfinite(value) for value in _values(row, names))]
    train, heldout = split_by_prompt(telling, spec.holdout, seed)
    ordered = [*train, *heldout]
    encoded = [encodings[row] for row in ordered]
    labels = torch.tensor([_values(row, names) for row in ordered], dtype=torch.float32).reshape(-1, len(names))
    prompts = [canonical(row.prompt, row.tools) for row in ordered]
    data = LabelledRows(names, encoded, labels, len(train), prompts)
    counts = {
        **read.as_dict(),
        "rows.without_label": len(rows) - len(telling),
        "rows.train": len(train),
        "rows.heldout": len(heldout),
        "labels": len(names),
        "answers.cut_prompt": sum(row.cut_prompt > 0 for row in encoded),
        "answers.cut_answer": sum(row.cut_answer > 0 for row in encoded),
        "tokens.cut": sum(row.cut_prompt + row.cut_answer for row in encoded),
    }
    return data, counts, list(_unlearnable(names, labels[: len(train)]))


def _values(row: LabelledAnswer, names: Sequence[str]) -> list[float]:
    """[L] 1, 0 or NaN."""
    unnamed = 0.0 if row.complete else math.nan
    return [float(row.labels[name]) if name in row.labels else unnamed for name in names]


def _unlearnable(names: Sequence[str], labels: Tensor) -> Iterator[str]:
    for index, name in enumerate(names):
        positives, negatives = (int((labels[:, index] == side).sum()) for side in (1, 0))
        if not positives or not negatives:
            yield (
                f"label {name}: {positives} true and {negatives} false training rows; what one side alone shows cannot be "
                "learned"
            )
