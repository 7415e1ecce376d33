"""A model made ready for training as its spec says: adapters, frozen layers, and the way back to a whole product."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_api.job import Execution
from rlhf_api.stages.common import Lora, Optimizer
from rlhf_trainer.models.adapters import add_lora, merged
from rlhf_trainer.models.freeze import FrozenTrunk, split, whole_state


@dataclass
class TrainableModel:
    """What of a model is trained."""

    model: Any
    """The whole model: causal language model or sequence classifier."""
    decoder: Any
    """Its decoder, or the upper part of it: called with `input_ids`, or with `inputs_embeds` from the trunk."""
    head: nn.Module
    """Its output head: logits or scores."""
    trunk: FrozenTrunk | None
    """The frozen lower layers, outside the engine; None where all layers are in `decoder`."""
    lora: Lora | None
    prefixes: Mapping[str, str]
    notes: list[str] = field(default_factory=list)
    """What is left as it was though the spec may mean it, in sentences."""

    def product(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The product's weights.

        Args:
            state: `Engine.state_dict()` of a module with the attributes `decoder` and `head`.

        Returns:
            Whole weights under the model's own names, adapters merged; {} where `state` is empty (ranks but 0).
        """
        if not state:
            return {}
        weights = whole_state(self.model, state, self.prefixes)
        return merged(weights, self.lora) if self.lora is not None else weights


def make_trainable(
    model: Any, spec: Optimizer, execution: Execution, *, seed: int, device: torch.device, layers: int | None = None
) -> TrainableModel:
    """Freeze, cut and adapt a model, in place.

    Args:
        model: Causal language model or sequence classifier; moved to the device.
        spec: `trainableLayers` and `lora`.
        execution: Gradient checkpointing and ZeRO stage.
        seed: Of the adapters.
        device: Where it trains.
        layers: Upper layers to train; by default the spec's `trainableLayers`.

    Raises:
        InputError: the model cannot be cut or adapted so.
    """
    layers = layers or spec.trainable_layers
    model.to(device).train()
    base = str(model.base_model_prefix)
    decoder = getattr(model, base)
    output = model.get_output_embeddings()
    head: nn.Module = output if output is not None else model.score
    name = next(key for key, module in model.named_modules() if module is head)
    notes: list[str] = []
    if spec.lora is not None:
        notes = add_lora(decoder, spec.lora, seed=seed, top=layers)
        if output is not None:
            head.requires_grad_(False)
    trunk, offset = None, ""
    if layers is not None:
        tied = output is not None and output.weight is decoder.get_input_embeddings().weight
        trunk, decoder = split(decoder, layers)
        offset = f"+{len(trunk.decoder.layers)}."  # type: ignore[arg-type]  # a list of modules, loosely typed upstream
        if tied:
            head = _frozen_copy(head) if execution.zero == 3 else head
    if execution.gradient_checkpointing:
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    prefixes = {"decoder.": f"{base}.", "decoder.layers.": f"{base}.layers.{offset}", "head.": f"{name}."}
    return TrainableModel(model, decoder, head, trunk, spec.lora, prefixes, notes)


def _frozen_copy(head: nn.Module) -> nn.Module:
    """A head of its own: ZeRO 3 would take the shared weight away from the embeddings below the cut."""
    return copy.deepcopy(head).requires_grad_(False)
