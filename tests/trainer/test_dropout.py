"""Dropout and jitter off, whatever they are called: two forwards in training mode are equal."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from rlhf_trainer.models.dropout import silence

SIZE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
NOISY = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **SIZE,
            ffn_dim=48,
            word_embed_proj_dim=32,
            dropout=0.3,
            attention_dropout=0.3,
            activation_dropout=0.3,
            layerdrop=0.3,
        )
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**SIZE, intermediate_size=48, attention_dropout=0.3, hidden_dropout=0.3)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, intermediate_size=48, attention_dropout=0.3)),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**SIZE, intermediate_size=48, num_key_value_heads=2, num_local_experts=4, router_jitter_noise=0.5)
    ),
}


@pytest.mark.parametrize("name", NOISY)
def test_two_forwards_in_training_mode_are_equal_once_silenced(name: str) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = NOISY[name]()
    model.train()
    ids = torch.arange(3, 15)[None]
    first, second = (model(input_ids=ids).logits for _ in range(2))
    assert not torch.equal(first, second)
    silence(model)
    first, second = (model(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, model.eval()(input_ids=ids).logits)
    assert model.training is False
