"""Models, data and jobs of the GPU script: random weights, made without network."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
JUDGES = """def distinct(prompts, answers):
    return [len(set(answer)) / 10 for answer in answers]


def long(prompts, answers):
    return [len(answer) / 10 - 1 for answer in answers]
"""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Size:
    """How large the models are and how long the rows."""

    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_heads: int
    dtype: str
    prompt: int
    """Words of a prompt: a token each, but for the first letter."""
    answer: int
    batch: int
    steps: int


SMALL = Size(512, 128, 4, 256, 4, 2, "float32", 8, 16, 8, 24)
SIZES = {
    # The shape of Qwen2.5-1.5B.
    "full": Size(151_936, 1536, 28, 8960, 12, 2, "bfloat16", 128, 384, 32, 6),
    "tiny": Size(512, 64, 2, 128, 4, 2, "bfloat16", 6, 10, 8, 3),
}


def write_model(folder: Path, size: Size, device: str) -> None:
    """Save a random Llama and its tokenizer: bytes and letters with a space before them."""
    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, size.dtype))
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([PAD, START, END, *alphabet])}
    merges = [("Ġ", letter) for letter in LETTERS]
    for space, letter in merges:
        vocabulary[space + letter] = len(vocabulary)
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=START, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def write_data(folder: Path, size: Size, rows: int) -> None:
    """chat.jsonl, pairs.jsonl and prompts.jsonl of random letters; judges.py."""
    (folder / "judges.py").write_text(JUDGES)
    draw = random.Random(0)

    def letters(count: int) -> str:
        return " ".join(draw.choice(LETTERS) for _ in range(count))

    with (
        (folder / "chat.jsonl").open("w") as chat,
        (folder / "pairs.jsonl").open("w") as pairs,
        (folder / "prompts.jsonl").open("w") as prompts,
    ):
        for row in range(rows):
            prompt, answer, alternative = letters(size.prompt), letters(size.answer), letters(size.answer)
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            chat.write(json.dumps({"messages": turns}) + "\n")
            prompts.write(json.dumps({"prompt": prompt}) + "\n")
            pair = {
                "prompt": prompt,
                "response_0": answer,
                "response_1": alternative,
                "better_response_id": row % 2,
                "safer_response_id": (row // 2) % 2,
                "is_response_0_safe": row % 3 > 0,
                "is_response_1_safe": row % 2 > 0,
            }
            pairs.write(json.dumps(pair) + "\n")


def whole_job(folder: Path, size: Size) -> dict[str, Any]:
    """Every trained stage, few steps each, and an evaluation."""
    length = size.prompt + size.answer + 32
    common = {"dtype": size.dtype, "batchSize": size.batch, "maxSteps": size.steps, "learningRate": 1e-5}
    trained = {"model": {"stage": "sft"}, "data": [{"input": "pairs"}], "maxLength": length, **common}
    stages: list[dict[str, Any]] = [
        {
            "name": "sft",
            "sft": {"model": {"input": "base"}, "data": [{"input": "chat"}], "maxLength": length, **common},
        },
        {"name": "reward", "rewardModel": trained},
        {"name": "cost", "costModel": trained},
        {
            "name": "ppo",
            "ppo": {
                "policy": {"stage": "sft"},
                "rewards": [{"stage": "reward"}],
                "costs": [{"stage": "cost"}],
                "prompts": [{"input": "prompts"}],
                "steps": size.steps,
                "rollout": {"prompts": size.batch, "maxNewTokens": size.answer},
                "dtype": size.dtype,
                "learningRate": 1e-6,
                "critics": {"learningRate": 1e-6},
            },
        },
        {
            "name": "evaluate",
            "evaluate": {
                "candidates": [{"stage": "ppo"}],
                "baseline": {"stage": "sft"},
                "prompts": [{"input": "prompts"}],
                "rewards": [{"stage": "reward"}],
                "costs": [{"stage": "cost"}],
                "generation": {"maxNewTokens": size.answer},
            },
        },
    ]
    return _job("gpu-whole", folder, stages)


def resumed_job(folder: Path) -> dict[str, Any]:
    """SFT and PPO on the small model in float32, checkpoints in between."""
    size = SMALL
    often = {"execution": {"checkpointEvery": 3}}
    optimizer = {"learningRate": 1e-3}
    sft = {
        "model": {"input": "base"},
        "data": [{"input": "chat"}],
        "maxLength": 64,
        "batchSize": size.batch,
        "epochs": 100,
        "maxSteps": size.steps,
        **optimizer,
    }
    ppo = {
        "policy": {"stage": "sft"},
        "rewards": [{"function": "judges:distinct"}],
        "costs": [{"function": "judges:long"}],
        "prompts": [{"input": "prompts"}],
        "steps": size.steps // 3,
        "rollout": {"prompts": size.batch, "maxNewTokens": size.answer},
        **optimizer,
    }
    return _job("gpu-resume", folder, [{"name": "sft", "sft": sft, **often}, {"name": "ppo", "ppo": ppo, **often}])


def _job(name: str, folder: Path, stages: list[dict[str, Any]]) -> dict[str, Any]:
    inputs = [{"name": "base", "source": str(folder / "model")}]
    inputs += [{"name": kind, "source": str(folder / f"{kind}.jsonl")} for kind in ("chat", "pairs", "prompts")]
    used = json.dumps(stages)
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": name},
        "spec": {
            "inputs": [entry for entry in inputs if f'"input": "{entry["name"]}"' in used],
            "stages": stages,
            "runPolicy": {"keep": "everything", "maxRestarts": 0},
        },
    }
