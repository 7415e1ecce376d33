"""The policy that is trained, and the reference it is kept near."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rlhf_trainer.generation.logprobs import log_probs
from rlhf_trainer.models.freeze import norm_name, part

Inputs = Mapping[str, Tensor | None]
"""What a decoder takes: `input_ids` [B, L] or `inputs_embeds` [B, L, H], `attention_mask`, `position_ids`."""


class PolicyModule(nn.Module):
    """What the policy's engine trains: decoder and output head, log-probabilities inside, where ZeRO 3 has the weights."""

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head

    def forward(
        self, inputs: Inputs, predictors: Tensor, targets: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen tokens.

        Args:
            inputs: of the decoder.
            predictors: [N, 2] row and column of the state that predicts each token.
            targets: [N] tokens.
            temperature: as in sampling.

        Returns:
            [N] log-probabilities, [N] entropies (without gradient), nats, float32.
        """
        hidden = self.decoder(**inputs, use_cache=False).last_hidden_state
        return log_probs(hidden[predictors[:, 0], predictors[:, 1]], self.head, targets, temperature)


def frozen_copy(model: Any, trained_layers: int | None) -> tuple[Any, nn.Module]:
    """A policy's decoder and head as they are now, for the reference.

    Args:
        model: the causal language model, before anything is trained.
        trained_layers: its upper layers that will move; what lies below them is not copied. None: all will.

    Returns:
        (decoder, head), which no optimizer step changes.
    """
    decoder, head = getattr(model, model.base_model_prefix), model.get_output_embeddings()
    if trained_layers is None:
        duplicate = copy.deepcopy(model)
        return getattr(duplicate, duplicate.base_model_prefix), duplicate.get_output_embeddings()
    layers = len(decoder.layers)
    copied = part(decoder, 0, layers)
    cut = layers - trained_layers
    copied.layers = nn.ModuleList([*decoder.layers[:cut], *(copy.deepcopy(layer) for layer in decoder.layers[cut:])])
    norm = norm_name(decoder)
    setattr(copied, norm, copy.deepcopy(getattr(decoder, norm)))
    tied = head.weight is decoder.get_input_embeddings().weight
    return copied, head if tied else copy.deepcopy(head)


def has_dropout(module: nn.Module) -> bool:
    """Whether adapters have dropout (`models.dropout` turned off the model's own): two forwards in training mode then
    differ, and the ratio of one pass would not be 1."""
    return any(isinstance(child, nn.Dropout) and child.p > 0 for child in module.modules())
