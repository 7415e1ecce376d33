"""Frozen decoders run together: the results of each alone, the layers they share run and held once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import tiny_config
from transformers import LlamaModel

from rlhf_trainer.models.freeze import split
from rlhf_trainer.ppo.shared_trunks import SharedDecoders

IDS = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
POSITIONS = torch.tensor([[0, 1, 2, 3], [0, 1, 1, 1]])


def decoder(seed: int = 0, layers: int = 4) -> LlamaModel:
    torch.manual_seed(seed)
    return LlamaModel(tiny_config(20, layers=layers)).eval()


def moved(model: LlamaModel, top: int) -> LlamaModel:
    """A copy whose upper layers and final norm were trained further."""
    trained = copy.deepcopy(model)
    with torch.no_grad():
        for module in (*trained.layers[len(trained.layers) - top :], trained.norm):
            for weight in module.parameters():
                weight.add_(torch.randn_like(weight) * 0.1)
    return trained


def alone(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK, position_ids=POSITIONS, use_cache=False).last_hidden_state


def check(decoders: dict[str, Any], layers: int) -> SharedDecoders:
    expected = {name: alone(model) for name, model in decoders.items()}
    shared = SharedDecoders(decoders)
    outputs = shared(IDS, MASK, POSITIONS)
    assert shared.layers == layers
    for name, hidden in expected.items():
        torch.testing.assert_close(outputs[name][MASK > 0], hidden[MASK > 0], atol=1e-5, rtol=1e-5)
    return shared


def test_equal_models_run_once_and_end_in_their_own_norms() -> None:
    original = decoder()
    copied = copy.deepcopy(original)
    with torch.no_grad():
        copied.norm.weight.mul_(2)
    check({"one": original, "other": copied}, layers=4)
    assert original.layers[3].mlp.up_proj.weight.data_ptr() == copied.layers[3].mlp.up_proj.weight.data_ptr()


def test_branches_part_where_weights_first_differ() -> None:
    base = decoder()
    check({"base": base, "deep": moved(base, 1), "shallow": moved(base, 3)}, layers=4 + 1 + 3)


def test_a_policys_frozen_layers_ride_along() -> None:
    base = decoder()
    lower, _ = split(copy.deepcopy(base), 2)
    shared = check({"reference": base, "policy": lower.decoder, "cost": moved(base, 2)}, layers=4 + 2)
    only = shared(IDS, MASK, POSITIONS, ["policy"])
    assert list(only) == ["policy"]
    assert not only["policy"].requires_grad


def test_unrelated_models_share_nothing() -> None:
    check({"one": decoder(0), "other": decoder(1), "small": decoder(2, layers=3)}, layers=4 + 4 + 3)


def test_a_model_that_computes_otherwise_is_kept_apart_though_its_weights_are_equal() -> None:
    original = decoder()
    copied = copy.deepcopy(original)
    copied.config.rms_norm_eps = 1e-3
    for module in copied.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-3
    check({"one": original, "other": copied}, layers=8)


def test_weights_of_other_types_are_not_mixed() -> None:
    model = decoder()
    assert SharedDecoders({"one": model, "half": copy.deepcopy(model).bfloat16()}).layers == 8


def test_none_of_the_weights_can_be_trained() -> None:
    model = decoder()
    SharedDecoders({"one": model})
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_they_are_left_in_does_not_matter(mode: bool) -> None:
    model = decoder()
    model.config.attention_dropout = 0.5
    for layer in model.layers:
        layer.self_attn.attention_dropout = 0.5
    shared = SharedDecoders({"one": model})
    expected = alone(model)
    model.train(mode)
    torch.testing.assert_close(shared(IDS, MASK, POSITIONS)["one"][MASK > 0], expected[MASK > 0])
