"""Pairs as a reward or cost model takes them: split by prompt, as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_api.fields import DataRef
from rlhf_api.stages.preference import CostModel, Preference
from rlhf_trainer.data.chat import Encoded, encode_row
from rlhf_trainer.data.checks import Encodings
from rlhf_trainer.data.conversion import Check
from rlhf_trainer.data.load import Inputs, load_pairs, load_safety_pairs
from rlhf_trainer.data.rows import Counts, Pair, SafetyPair
from rlhf_trainer.data.shared_prefix import SharedPrefixPair
from rlhf_trainer.data.splits import opening, split_by_prompt


@dataclass
class Pairs:
    """Pairs as rows of tokens; `encoded[2 i]` is the answer of pair i that should score higher, `encoded[2 i + 1]` the
    other. Training pairs come first, then held-out ones, then those of the spec's `test`."""

    encoded: list[Encoded]
    trained: int
    """Training pairs."""
    certainty: Tensor
    """[P] probability that the order is right (rewards)."""
    signs: Tensor
    """[P, 2] +1 harmful, -1 safe (costs)."""
    tested: int = 0
    """Pairs of `test`."""
    shares_prefix: bool = False
    """Whether a pair is computed as one sequence, its prompt once."""

    @property
    def heldout(self) -> range:
        """Pairs of the data that are never trained on."""
        return range(self.trained, len(self) - self.tested)

    @property
    def test(self) -> range:
        """Pairs of `test`."""
        return range(len(self) - self.tested, len(self))

    @cached_property
    def sequences(self) -> list[SharedPrefixPair]:
        """Each pair as one sequence."""
        return [SharedPrefixPair(*self.encoded[2 * index : 2 * index + 2]) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.encoded) // 2

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens a pair takes in a forward: as one sequence, or twice its longer row."""
        if self.shares_prefix:
            return [len(sequence) for sequence in self.sequences]
        return [2 * max(len(self.encoded[2 * i]), len(self.encoded[2 * i + 1])) for i in range(len(self))]

    def tokens(self, pairs: Sequence[int]) -> int:
        """Tokens of both rows of some pairs."""
        return sum(len(self.encoded[2 * i]) + len(self.encoded[2 * i + 1]) for i in pairs)

    def answer_lengths(self, pairs: Sequence[int]) -> NDArray[np.float64]:
        """[2, P] tokens of the answers, EOS included."""
        return np.array([[sum(self.encoded[2 * i + side].mask) for i in pairs] for side in (0, 1)], dtype=np.float64)


def encode_pairs(
    context: Inputs, spec: Preference, tokenizer: Any, seed: int
) -> tuple[Pairs, dict[str, int], list[tuple[str, str]]]:
    """Pairs of a reward or cost model's data and tests.

    Returns:
        Encoded pairs; counts; each held-out and test pair's two answers with their prompts (to tell answers apart).

    Raises:
        InputError: data cannot be used.
    """
    encodings = Encodings(
        lambda row: [encode_row(tokenizer, row.prompt, text, spec.max_length, row.tools) for text in _texts(row)]
    )
    rows, read = _pairs(context, spec, spec.data, encodings)
    train, heldout = split_by_prompt(rows, spec.holdout, seed)
    test, tested = _pairs(context, spec, spec.test, encodings) if spec.test else ([], Counts())
    ordered, trained = [*train, *heldout, *test], len(train)
    encoded = [answer for row in ordered for answer in encodings[row]]
    signs = [(row.harmful_sign, row.safer_sign) if isinstance(row, SafetyPair) else (0, 0) for row in ordered]
    certainty = [row.weight if isinstance(row, Pair) else 1.0 for row in ordered]
    data = Pairs(
        encoded,
        trained,
        torch.tensor(certainty, dtype=torch.float32),
        torch.tensor(signs, dtype=torch.float32).reshape(-1, 2),
        len(test),
    )
    test_counts = {}
    if test:
        openings = {opening(row) for row in train}
        test_counts = {**tested.as_dict("test"), "test.seen_prompts": sum(opening(row) in openings for row in test)}
    counts = {
        **read.as_dict(),
        "rows.train": trained,
        "rows.heldout": len(heldout),
        **test_counts,
        "answers.cut_prompt": sum(row.cut_prompt > 0 for row in encoded),
        "answers.cut_answer": sum(row.cut_answer > 0 for row in encoded),
        "tokens.cut": sum(row.cut_prompt + row.cut_answer for row in encoded),
    }
    answers = [(repr((row.prompt, row.tools)), text) for row in ordered[trained:] for text in _texts(row)]
    return data, counts, answers


def _pairs(context: Inputs, spec: Preference, refs: Sequence[DataRef], check: Check) -> tuple[list[Any], Counts]:
    """Pairs of the kind that the model learns from."""
    load = load_safety_pairs if isinstance(spec, CostModel) else load_pairs
    return load(context, refs, check)


def _texts(row: Pair | SafetyPair) -> tuple[str, str]:
    return (row.better, row.worse) if isinstance(row, Pair) else (row.harmful, row.safer)
