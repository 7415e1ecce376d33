"""What a model's configuration says: how long its rows may be, and whether its layers attend to all tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf_api.capability.traits import row_lengths
from rlhf_trainer.models.explained import explained
from rlhf_trainer.models.files import folder


def row_length(model: Any, longest: int) -> int:
    """Tokens that a row may have, at most `longest`: the model's positions, or less where rows beyond would change one
    another (dynamic and longrope)."""
    return _shortest(model.config, longest)


def folder_row_length(path: str, longest: int, cache: Path) -> int:
    """`row_length` of a model that is not loaded.

    Raises:
        InputError: its configuration cannot be read.
    """
    from transformers import AutoConfig

    with folder(path, cache) as model_folder, explained(path, "configuration"):
        return _shortest(AutoConfig.from_pretrained(str(model_folder), trust_remote_code=False), longest)


def _shortest(config: Any, longest: int) -> int:
    lengths = row_lengths(config.get_text_config().to_dict())
    return min(length for length in (*lengths, longest) if length is not None)


def prompt_room(models: Iterable[Any], most: int, max_new_tokens: int) -> int:
    """Tokens of a prompt, at most `most`, that leave room for its answer in the rows of all models; at least 1."""
    return max(1, min(row_length(model, most + max_new_tokens) for model in models) - max_new_tokens)


def attends_everywhere(config: Any) -> bool:
    """Whether every layer keeps keys and values of all tokens (no state-space or linear-attention layers)."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or []
    return all(kind in ("full_attention", "sliding_attention", "chunked_attention") for kind in kinds)
