"""Jobs that a tiny model ends in minutes on a test's node."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
EPOCHS = 1000
"""The rows are few, and 1000 is the most there may be: a stage ends after its steps, up to 12,000."""


def safe_rlhf(name: str, *, path: str = "all", steps: int = 4, sft_steps: int = 4, **spec: Any) -> Object:
    """prepare, SFT on two pods with ZeRO 2, reward and cost models, PPO-Lagrangian on two pods with ZeRO 3, evaluation,
    report; `path` is its folder in the claim."""
    length = {"batchSize": 4, "maxLength": 64, "epochs": EPOCHS, "maxSteps": steps}
    data = {"data": [{"input": "chat"}], "learningRate": 1e-3, **length}
    pairs = {**data, "data": [{"input": "preferences"}], "model": {"stage": "sft"}, "holdout": 0.2}
    sft = {**data, "model": {"input": "base"}, "maxSteps": sft_steps}
    every = {"checkpointEvery": 2}
    stages: list[Object] = [
        {"name": "sft", "nodes": 2, "execution": {"zero": 2, **every}, "sft": sft},
        {"name": "reward", "execution": every, "rewardModel": pairs},
        {"name": "cost", "execution": every, "costModel": pairs},
        {
            "name": "ppo",
            "nodes": 2,
            "execution": {"zero": 3, **every},
            "ppo": {
                "policy": {"stage": "sft"},
                "rewards": [{"stage": "reward"}],
                "costs": [{"stage": "cost", "limit": 0}],
                "prompts": [{"input": "preferences"}],
                "steps": steps,
                "rollout": {"prompts": 8, "maxNewTokens": 8},
                "learningRate": 1e-3,
            },
        },
        {
            "name": "evaluate",
            "evaluate": {
                "candidates": [{"stage": "ppo"}],
                "baseline": {"stage": "sft"},
                "prompts": [{"input": "preferences", "limit": 8}],
                "generation": {"maxNewTokens": 8, "samples": 1},
            },
        },
    ]
    return job(name, stages, path=path, **spec)


def sft_only(name: str, *, path: str = "all", steps: int = 4, nodes: int = 1, **spec: Any) -> Object:
    """The shortest job that trains."""
    length = {"batchSize": 2, "maxLength": 64, "epochs": EPOCHS, "maxSteps": steps}
    sft = {"model": {"input": "base"}, "data": [{"input": "chat"}], **length}
    execution = {"checkpointEvery": 5, "zero": 1 if nodes > 1 else 0}
    return job(name, [{"name": "sft", "nodes": nodes, "execution": execution, "sft": sft}], path=path, **spec)


def job(name: str, stages: list[Object], *, path: str, **spec: Any) -> Object:
    """A job of these stages on a namespace's claims."""
    inputs = [
        {"name": "base", "source": "pvc://data/model"},
        {"name": "chat", "source": "pvc://data/chat.jsonl"},
        {"name": "preferences", "source": "pvc://data/preferences.jsonl"},
    ]
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": name},
        "spec": {"storage": {"claimName": "models", "path": path}, "inputs": inputs, "stages": stages, **spec},
    }
