"""Random models of the families that can be cut, four layers each; two of them attend within windows of four tokens."""

from __future__ import annotations

from typing import Any

import torch
from tiny import tiny_config
from transformers import (
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def family(name: str, **more: Any) -> Any:
    """A random model of four layers."""
    torch.manual_seed(3)
    if name == "llama":
        config = tiny_config(61, layers=4)
        for key, value in more.items():
            setattr(config, key, value)
        return LlamaForCausalLM(config).eval()
    if name == "mistral":
        return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4, **more)).eval()
    if name == "qwen2":
        windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
        return Qwen2ForCausalLM(Qwen2Config(**SMALL, **windows, **more)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8, **more)).eval()


FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
