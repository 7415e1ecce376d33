"""How long a model's rows may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rlhf_api.capability.traits import row_lengths


def row_length(model: Any, longest: int) -> int:
    """Tokens that a row may have, at most `longest`: the model's positions, or less where rows beyond would change one
    another (dynamic and longrope)."""
    lengths = row_lengths(model.config.get_text_config().to_dict())
    return min(length for length in (*lengths, longest) if length is not None)


def prompt_room(models: Iterable[Any], most: int, max_new_tokens: int) -> int:
    """Tokens of a prompt, at most `most`, that leave room for its answer in the rows of all models; at least 1."""
    return max(1, min(row_length(model, most + max_new_tokens) for model in models) - max_new_tokens)
