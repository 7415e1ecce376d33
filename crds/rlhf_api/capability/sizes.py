"""Does a configuration describe the weights beside it: sizes that the shapes of tensors tell in every family. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in)\.weight$")
LAYER = re.compile(r"^(?:\w+\.)*?(?:layers|h|blocks|block)\.(\d+)\.")
FEED_FORWARD = re.compile(r"\.\d+\.mlp\.(?:up_proj|gate_proj)\.weight$")
WIDTHS = ("word_embed_proj_dim", "hidden_size", "n_embd", "n_embed", "d_model")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def size_problems(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Sizes of `config.json` that are not the weights', each in a sentence.

    Args:
        config: of a model that is no composite and not quantised.
        shapes: of its tensors, by name.
    """
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    embeddings = next((name for name in matrices if EMBEDDINGS.search(name)), None)
    if embeddings is not None:
        rows, width = matrices[embeddings]
        yield from _differs(config, ("vocab_size",), rows, f"{embeddings} has so many rows")
        yield from _differs(config, WIDTHS, width, f"{embeddings} has so many columns")
    layers = {int(match[1]) for name in shapes if (match := LAYER.match(name)) is not None}
    if layers:
        further = config.get("num_nextn_predict_layers")  # heads that predict further tokens lie behind the layers
        allowed = {max(layers) + 1, max(layers) + 1 - (further if type(further) is int else 0)}
        name = _named(config, DEPTHS)
        if name is not None and config[name] not in allowed:
            yield f"{name}: found {config[name]}; the weights have {max(layers) + 1} layers"
    feed_forward = next((name for name in matrices if FEED_FORWARD.search(name)), None)
    if feed_forward is not None:
        yield from _differs(
            config, ("intermediate_size",), matrices[feed_forward][0], f"{feed_forward} has so many rows"
        )


def _differs(config: Mapping[str, Any], names: Sequence[str], size: int, why: str) -> Iterator[str]:
    name = _named(config, names)
    if name is not None and config[name] != size:
        yield f"{name}: found {config[name]}; expected {size} ({why})"


def _named(config: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some fields that is a whole number."""
    return next((name for name in names if type(config.get(name)) is int), None)
