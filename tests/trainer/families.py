"""Random models of the families that are known to work, four layers each; some attend within windows of four tokens."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True, "initializer_range": 0.1},
    "mistral": {"sliding_window": 4},
    "ministral3": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.1},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, **EXPERTS},
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, **MIXED},
    "phi3": {},
    "olmo2": {},
    "olmo3": MIXED,
    "stablelm": {},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "gpt_neox": {"hidden_dropout": 0.1},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        **EXPERTS,
    },
    "glm4": {"head_dim": 8},
    "exaone4": MIXED,
}
"""What a family's configuration has beyond SMALL, by `model_type`."""
NAMES = {
    "llama": "Llama, SmolLM2",
    "mistral": "Mistral",
    "ministral3": "Ministral 3",
    "mixtral": "Mixtral",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3-MoE",
    "gemma": "Gemma",
    "gemma3_text": "Gemma 3, text alone",
    "phi3": "Phi-3, Phi-4",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "stablelm": "StableLM",
    "smollm3": "SmolLM3",
    "gpt_neox": "GPT-NeoX, Pythia",
    "gpt_oss": "gpt-oss",
    "deepseek_v3": "DeepSeek-V3",
    "glm4": "GLM-4",
    "exaone4": "EXAONE 4",
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Those that whole suites are run over."""


def family(name: str, **more: Any) -> Any:
    """A random language model of four layers."""
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(configuration(name, **more)).eval()


def classifier(name: str, **more: Any) -> Any:
    """A random sequence classifier of four layers and one label."""
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(configuration(name, num_labels=1, **more)).eval()


def configuration(name: str, **more: Any) -> Any:
    """A configuration of a known family."""
    return CONFIG_MAPPING[name](**{**SMALL, **CONFIGS[name], **more})
