"""`trainableLayers`: a decoder cut in two, the lower part run without gradients.

The final norm belongs to the upper part. Both halves are the model's own class with fewer layers, so that masks,
rotary embeddings and attention are the library's; they share the weights of the model they were cut from. Whether the
halves give what the whole gives is tried on a few tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_trainer.exits import InputError

NORMS = ("norm", "final_layer_norm", "ln_f", "norm_f")
"""Names of the norm after the last layer."""
TRIED_TOKENS = 12
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference between the states of the parts and of the whole, as a share of their norm: rounding only."""


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
        states: Tensor = self.decoder(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return states


def split(decoder: Any, trainable_layers: int, where: str = "trainableLayers") -> tuple[FrozenTrunk, Any]:
    """Cut a decoder (`model.model`) below its top layers.

    Args:
        decoder: A decoder of embeddings, layers and a final norm, with nothing between them.
        trainable_layers: Layers of the upper part.
        where: The spec's field, for messages.

    Returns:
        (lower part, frozen; upper part: called with `inputs_embeds`, it gives what the whole decoder would). The
        embeddings are frozen, also where the output head is tied to them.

    Raises:
        InputError: the architecture cannot be cut, or has no more layers than are to be trained.
    """
    kind = decoder.config.model_type
    if not _has_parts(decoder):
        raise InputError(
            f"{where}: models of type {kind!r} cannot be cut: expected embeddings, layers, a final norm, and nothing "
            "between them. Leave the field out, or use lora"
        )
    layers = len(decoder.layers)
    if trainable_layers >= layers:
        raise InputError(f"{where}: {trainable_layers} of a model of {layers} layers; expected fewer, or none given")
    lower, upper = _halves(decoder, layers - trainable_layers)
    if not _exact(decoder, lower, upper):
        raise InputError(
            f"{where}: models of type {kind!r} cannot be cut: the parts give other states than the whole model. Leave "
            "the field out, or use lora"
        )
    return FrozenTrunk(lower), upper


def cuts(decoder: Any) -> bool:
    """Whether a decoder cut in two gives what it gives whole: tried on a few tokens, not assumed of its kind."""
    if not _has_parts(decoder) or len(decoder.layers) == 0:
        return False
    return _exact(decoder, *_halves(decoder, len(decoder.layers) // 2))


def norm_name(decoder: Any) -> str:
    """Name of the norm after the last layer; empty where there is none of a known name."""
    return next((name for name in NORMS if isinstance(getattr(decoder, name, None), nn.Module)), "")


def _has_parts(decoder: Any) -> bool:
    layers = isinstance(getattr(decoder, "layers", None), nn.ModuleList)
    return layers and norm_name(decoder) != "" and _embeddings_name(decoder) != ""


def _embeddings_name(decoder: Any) -> str:
    embeddings = decoder.get_input_embeddings()
    return next((name for name, module in decoder.named_children() if module is embeddings), "")


def _halves(decoder: Any, cut: int) -> tuple[Any, Any]:
    layers = len(decoder.layers)
    lower, upper = part(decoder, 0, cut), part(decoder, cut, layers)
    setattr(lower, norm_name(decoder), nn.Identity())
    without_embeddings(upper)
    return lower, upper


def without_embeddings(upper: Any) -> None:
    """Take the embeddings out of a part that is called with states, in place."""
    delattr(upper, _embeddings_name(upper))


@torch.no_grad()
def _exact(decoder: Any, lower: Any, upper: Any) -> bool:
    parts = (decoder, lower, upper)
    training = [module.training for module in parts]
    device = next(decoder.parameters()).device
    ids = torch.arange(TRIED_TOKENS, device=device)[None] % decoder.config.vocab_size
    common = {
        "attention_mask": None,
        "position_ids": torch.arange(TRIED_TOKENS, device=device)[None],
        "use_cache": False,
    }
    for module in parts:
        module.eval()
    try:
        expected = decoder(input_ids=ids, **common).last_hidden_state
        states = lower(input_ids=ids, **common).last_hidden_state
        actual = upper(inputs_embeds=states, **common).last_hidden_state
    except TypeError:  # a decoder that counts positions itself takes none
        return False
    finally:
        for module, before in zip(parts, training, strict=True):
            module.train(before)
    limit = TOLERANCE.get(expected.dtype, 0.0)
    return bool(((actual - expected).norm(dim=-1) <= limit * expected.norm(dim=-1)).all())


def part(decoder: Any, start: int, stop: int) -> Any:
    """A decoder of the same class with some of the layers, sharing weights."""
    config = copy.deepcopy(decoder.config)
    config.num_hidden_layers = stop - start
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types[start:stop])
    piece = copy.copy(decoder)
    for name, value in list(vars(decoder).items()):  # its own tables of modules and hooks: they are changed below
        if isinstance(value, dict | set):
            vars(piece)[name] = copy.copy(value)
    piece.config = config
    piece.layers = nn.ModuleList(decoder.layers[start:stop])
    return piece.train(decoder.training)


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
