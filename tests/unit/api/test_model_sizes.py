"""A configuration's sizes beside the shapes of the weights: differences are told, in every family's names."""

from __future__ import annotations

import pytest

from rlhf_api.capability import size_problems

LLAMA = {"vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 2, "intermediate_size": 6}
LLAMA_SHAPES = {
    "model.embed_tokens.weight": [10, 4],
    "model.layers.0.mlp.up_proj.weight": [6, 4],
    "model.layers.1.mlp.up_proj.weight": [6, 4],
    "model.norm.weight": [4],
}
FAMILIES = {
    "Llama": (LLAMA, LLAMA_SHAPES),
    "GPT-2": (
        {"vocab_size": 10, "n_embd": 4, "n_layer": 1},
        {"transformer.wte.weight": [10, 4], "transformer.h.0.mlp.c_fc.weight": [4, 16]},
    ),
    "OPT, its embeddings narrower": (
        {"vocab_size": 10, "hidden_size": 8, "word_embed_proj_dim": 4, "num_hidden_layers": 1},
        {"model.decoder.embed_tokens.weight": [10, 4], "model.decoder.layers.0.fc1.weight": [9, 8]},
    ),
    "MPT": (
        {"vocab_size": 10, "d_model": 4, "n_layers": 1},
        {"transformer.wte.weight": [10, 4], "transformer.blocks.0.ffn.up_proj.weight": [9, 4]},
    ),
    "GPT-NeoX": (
        {"vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 1},
        {"gpt_neox.embed_in.weight": [10, 4], "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": [9, 4]},
    ),
    "a layer that predicts further tokens": (
        LLAMA | {"num_nextn_predict_layers": 1},
        LLAMA_SHAPES | {"model.layers.2.eh_proj.weight": [4, 8]},
    ),
    "the same, which was left out": (LLAMA | {"num_nextn_predict_layers": 1}, LLAMA_SHAPES),
    "experts of another width": (
        LLAMA,
        LLAMA_SHAPES | {"model.layers.1.mlp.experts.0.up_proj.weight": [3, 4]},
    ),
    "nothing known": ({}, {"a.weight": [3, 4]}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_of_its_weights_is_taken(family: str) -> None:
    assert list(size_problems(*FAMILIES[family])) == []


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"])
@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_each_size_is_compared(field: str, change: int) -> None:
    (problem,) = size_problems(LLAMA | {field: LLAMA[field] + change}, LLAMA_SHAPES)
    assert problem.startswith(f"{field}: found {LLAMA[field] + change}; ")
    assert str(LLAMA[field]) in problem.partition(";")[2]
