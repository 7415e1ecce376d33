"""`trainableLayers`: a decoder cut in two, the lower part run without gradients.

The final norm belongs to the upper part. Both halves are the model's own class with fewer layers, so that masks,
rotary embeddings and attention are the library's; they share the weights of the model they were cut from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_trainer.exits import InputError

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s whose decoder is: embeddings, layers, final norm, and nothing between them."""


class FrozenTrunk(nn.Module):
    """Embeddings and lower layers."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor) -> Tensor:
        """States at the boundary.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T]; None for packed rows, told apart by their positions.
            position_ids: [B, T].

        Returns:
            [B, T, H], to be given to the upper part as `inputs_embeds`. No gradients.
        """
        found: Tensor = self.decoder(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return found


def split(decoder: Any, trainable_layers: int, where: str = "trainableLayers") -> tuple[FrozenTrunk, Any]:
    """Cut a decoder (`model.model`) below its top layers.

    Args:
        decoder: A decoder of one of the SUPPORTED kinds.
        trainable_layers: Layers of the upper part.
        where: The spec's field, for messages.

    Returns:
        (lower part, frozen; upper part: called with `inputs_embeds`, it gives what the whole decoder would). The
        embeddings are frozen, also where the output head is tied to them.

    Raises:
        InputError: the architecture cannot be cut, or has no more layers than are to be trained.
    """
    kind = decoder.config.model_type
    layers = len(getattr(decoder, "layers", ()))
    if kind not in SUPPORTED:
        raise InputError(
            f"{where}: models of type {kind!r} cannot be cut; supported: {', '.join(SUPPORTED)}. "
            "Leave the field out, or use lora"
        )
    if trainable_layers >= layers:
        raise InputError(f"{where}: {trainable_layers} of a model of {layers} layers; expected fewer, or none given")
    cut = layers - trainable_layers
    lower = part(decoder, 0, cut)
    lower.norm = nn.Identity()
    upper = part(decoder, cut, layers)
    del upper.embed_tokens
    return FrozenTrunk(lower), upper


def part(decoder: Any, start: int, stop: int) -> Any:
    """A decoder of the same class with some of the layers, sharing weights."""
    config = copy.deepcopy(decoder.config)
    config.num_hidden_layers = stop - start
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types[start:stop])
    with torch.device("meta"):
        part = type(decoder)(config)
    for name, module in decoder.named_children():
        setattr(part, name, module)
    part.layers = nn.ModuleList(decoder.layers[start:stop])
    if decoder.training:
        return part.train()
    return part.eval()


def whole_state(model: nn.Module, trained: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """The whole model's weights: those it was loaded with, and the trained ones in their places.

    Args:
        model: The model that was cut.
        trained: State of the trained module.
        prefixes: The trained module's name prefix -> the model's: {"decoder.": "model."}. A prefix that ends in
            `layers.` may carry an offset: {"decoder.layers.": "model.layers.+24."}.

    Raises:
        KeyError: a trained weight has no place in the model.
    """
    state = dict(model.state_dict())
    for name, value in trained.items():
        target = _rename(name, prefixes)
        if target not in state:
            raise KeyError(f"{name}: no weight {target} in {type(model).__name__}")
        state[target] = value
    return state


def _rename(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix in sorted(prefixes, key=len, reverse=True):
        if not name.startswith(prefix):
            continue
        rest, target = name[len(prefix) :], prefixes[prefix]
        head, plus, offset = target.rpartition("+")
        if not plus:
            return target + rest
        index, _, tail = rest.partition(".")
        return f"{head}{int(index) + int(offset.rstrip('.'))}.{tail}"
    return name
