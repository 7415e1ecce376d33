"""GiB a GPU needs for usual models, from `rlhf_api.memory`: the table of docs/gpus.md, which a test compares with this.

python benchmarks/gpu/sizes.py
"""

from __future__ import annotations

from typing import Any

from rlhf_api.load import parse_job
from rlhf_api.memory import ModelFacts, estimate

MODELS = {
    "1.5B": ModelFacts(28, 1536, 8960, 151_936, query=1536, key=256, tied=True),
    "3B": ModelFacts(36, 2048, 11_008, 151_936, query=2048, key=256, tied=True),
    "8B": ModelFacts(32, 4096, 14_336, 128_256, query=4096, key=1024, tied=False),
    "32B": ModelFacts(64, 5120, 27_648, 152_064, query=5120, key=1024, tied=False),
    "70B": ModelFacts(80, 8192, 28_672, 128_256, query=8192, key=1024, tied=False),
}
"""Shapes of Qwen2.5 1.5B, 3B and 32B, and of Llama 3 8B and 70B."""
RANKS = (1, 8, 16)
STAGES = ("sft", "reward", "ppo")
LORA = {"lora": {"rank": 16}}


def job(fields: dict[str, Any], ranks: int) -> dict[str, Any]:
    """SFT, reward and cost model, PPO-Lagrangian; bfloat16, checkpointed activations, rows of at most 2,048 tokens."""
    rows = [{"input": "rows"}]
    common = {"dtype": "bfloat16", **fields}
    batches = {"data": rows, "batchSize": 64, "maxLength": 2048, **common}
    ppo = {
        "policy": {"stage": "sft"},
        "rewards": [{"stage": "reward"}],
        "costs": [{"stage": "cost"}],
        "prompts": rows,
        "rollout": {"prompts": 64, "maxPromptTokens": 1024, "maxNewTokens": 1024},
        **common,
    }
    execution = {"gradientCheckpointing": True, "microBatchTokens": 4096, "zero": 3 if ranks > 1 else 0}
    stages: list[dict[str, Any]] = [
        {"name": "sft", "sft": {"model": {"input": "base"}, **batches}},
        {"name": "reward", "rewardModel": {"model": {"stage": "sft"}, **batches}},
        {"name": "cost", "costModel": {"model": {"stage": "sft"}, **batches}},
        {"name": "ppo", "ppo": ppo},
    ]
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "sizes"},
        "spec": {
            "inputs": [{"name": "base", "source": "base"}, {"name": "rows", "source": "rows.jsonl"}],
            "stages": [{**stage, "execution": execution} for stage in stages],
        },
    }


def table() -> str:
    """Markdown: a row a model and way of training, a column a stage and number of GPUs."""
    heads = [f"{stage}, {ranks}" for stage in STAGES for ranks in RANKS]
    lines = ["| model | trained | " + " | ".join(heads) + " |", "|---|---|" + "---:|" * len(heads)]
    for name, facts in MODELS.items():
        for way, fields in (("all weights", {}), ("LoRA of rank 16", LORA)):
            cells = []
            for stage in STAGES:
                for ranks in RANKS:
                    peak = estimate(parse_job(job(fields, ranks)), stage, {"base": facts}, ranks=ranks, device="cuda")
                    assert peak is not None, f"{stage} holds a model"
                    cells.append(f"{peak.bytes / 2**30:.0f}")
            lines.append(f"| {name} | {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
