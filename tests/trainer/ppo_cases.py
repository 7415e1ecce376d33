"""Models, data and specs of the PPO stage's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from stage_gang import Case
from tiny import tiny_policy, tiny_scorer

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer.models.scorer import Rule


def base(folder: Path) -> Path:
    """Tiny models and data for all cases: `folder` is the job's folder and the storage."""
    tiny_policy(folder / "sft")
    tiny_policy(folder / "other", seed=3)
    tiny_scorer(folder / "rm", seed=1)
    tiny_scorer(folder / "cm", seed=2)
    Rule(members=3).write(tiny_scorer(folder / "ensemble", seed=4, labels=3))
    _silent(tiny_policy(folder / "silent"))
    prompts = [
        {"prompt": text}
        for text in ("how are you", "what should I do", "a fire", "help me please", "is it safe", "call", "can I run")
    ]
    chat = [{"prompt": row["prompt"], "completion": f"ask a doctor {index}"} for index, row in enumerate(prompts)]
    for name, rows in (("prompts", prompts), ("chat", chat)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def case(home: Path, *, name: str = "run", execution: dict[str, Any] | None = None, **fields: Any) -> Case:
    """A run of three steps of eight answers; fields of the spec replace its own."""
    spec = {
        "policy": {"stage": "sft"},
        "rewards": [{"stage": "rm"}],
        "costs": [{"stage": "cm"}],
        "prompts": [{"input": "prompts"}],
        "steps": 3,
        "rollout": {"prompts": 4, "samples": 2, "maxNewTokens": 6},
        "learningRate": 1e-3,
        "critics": {"learningRate": 1e-2},
        **fields,
    }
    models = {
        f"stage:{name}": str(home / name)
        for name in ("sft", "other", "rm", "cm", "ensemble", "silent", "foreign", "broken")
    }
    data = {f"input:{name}": str(home / f"{name}.jsonl") for name in ("prompts", "chat")}
    Ppo.model_validate(spec)
    digest = name.encode().hex().ljust(64, "0")[:64]
    return Case(str(home), "ppo", spec, models | data, execution or {}, digest=digest, uid=f"uid-{name}")


def metrics(finished: Case) -> list[dict[str, float]]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in (finished.work / "metrics.jsonl").read_text().splitlines()]


def weights(finished: Case) -> dict[str, torch.Tensor]:
    """The product's policy."""
    return load_file(finished.product / "model.safetensors")


def _silent(folder: Path) -> None:
    """Make a policy whose first token is EOS: the final norm's output and the head agree on it alone."""
    state = load_file(folder / "model.safetensors")
    direction = torch.ones(state["model.embed_tokens.weight"].shape[1])
    for name in state:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name].zero_()
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"] * 0.01 + direction * 0.1
    state["model.embed_tokens.weight"][2] = direction * 50
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
