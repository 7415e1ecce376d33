"""LoRA: adapters in the layers, off for the reference, merged in products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_api.stages.common import Lora
from rlhf_trainer.exits import InputError

ADAPTER = "default"


def add_lora(decoder: Any, lora: Lora, *, seed: int, top: int | None = None, where: str = "lora") -> list[str]:
    """Put adapters into a decoder's linear layers, in place; everything but the adapters is frozen.

    Args:
        decoder: `model.model`: its `layers` are adapted, embeddings and head are not.
        lora: Rank, scale, dropout and which layers.
        seed: Of the adapters' first weights (the second start at 0: at first nothing changes).
        top: Adapt only so many of the upper layers.
        where: The spec's field, for messages.

    Returns:
        What gets no adapter though it is a large part of the layers, in sentences.

    Raises:
        InputError: the model has no linear layers, or a name in `targets` is none of them.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = _layers(decoder)
    linear = {id(module) for module in layers[-top if top else 0 :].modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in layers.named_modules() if id(module) in linear]
    layer_kinds = sorted({name.rpartition(".")[2] for name in names})
    if not layer_kinds:
        raise InputError(
            f"{where}: models of type {decoder.config.model_type!r} have no linear layers that adapters could be put "
            "into; leave the field out"
        )
    unknown = sorted(set(lora.targets) - set(layer_kinds))
    if unknown:
        raise InputError(f"{where}.targets: {', '.join(unknown)} is no linear layer; found {', '.join(layer_kinds)}")
    targets = set(lora.targets or layer_kinds)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=[name for name in names if name.rpartition(".")[2] in targets],
        bias="none",
    )
    decoder.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Into the bare layers: beside a configuration, peft takes some names for those of stacked experts as well.
        inject_adapter_in_model(config, layers, adapter_name=ADAPTER)
    dtype = next(decoder.parameters()).dtype
    for name, parameter in decoder.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return _experts(layers, where)


def _layers(decoder: Any) -> nn.ModuleList:
    """The list of layers: the longest list of modules in the decoder."""
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())


def _experts(layers: nn.Module, where: str) -> list[str]:
    """Experts are held as one tensor for all of a layer's, which is no linear layer."""
    stacked = [weight for weight in layers.parameters() if weight.dim() == 3]
    if not stacked:
        return []
    share = sum(weight.numel() for weight in stacked) / sum(weight.numel() for weight in layers.parameters())
    return [f"{where}: the experts get no adapters and stay frozen: {share:.0%} of the layers' weights"]


@contextmanager
def disable_adapters(module: nn.Module) -> Iterator[None]:
    """Run the module without its adapters meanwhile: a policy's reference needs no second model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    before = [layer.disable_adapters for layer in layers]
    # The flag alone: `enable_adapters` would also set requires_grad, which an optimizer has already read.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def merged(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Weights with the adapters added in: W + (alpha / rank) B A, under the names of the model without adapters.

    Args:
        state: Whole weights of an adapted module.
        lora: Gives the scale.

    Returns:
        The same names and shapes as the module had before `add_lora`.
    """
    scale = lora.alpha / lora.rank
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        stem, base, rest = name.partition(".base_layer.")
        if not base:
            weights[name] = value
            continue
        if rest == "weight":
            a = state[f"{stem}.lora_A.{ADAPTER}.weight"].float()
            b = state[f"{stem}.lora_B.{ADAPTER}.weight"].float()
            value = (value.float() + scale * (b @ a)).to(value.dtype)
        weights[f"{stem}.{rest}"] = value
    return weights
