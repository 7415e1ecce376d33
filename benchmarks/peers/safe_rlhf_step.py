"""One PPO-Lagrangian step of safe-rlhf's own code on CPU: seconds, memory, and the samples it learned from.

    python safe_rlhf_step.py MODEL PROMPTS.json DUMP [--batch 16] [--max-length 96] [--steps 3]

Runs in an environment of its own (requirements/peer-safe-rlhf.in). The peer is the package shtec-rlhf 1.0.5,
unchanged but for what a CPU lacks: its CUDA device and its fused Adam. MODEL serves as actor, reference, reward,
cost and both critics. Prints one JSON line a step. DUMP gets the first step's sequences, log-probabilities, values,
scores, losses and score heads, so that another trainer can be held to the same numbers.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.util
import json
import os
import resource
import sys
import time
import types
from pathlib import Path

MODULES = "safe_rlhf"  # the package's folder; its files also import one another as "shtec_rlhf"


class OneName(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the package's two names one."""

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name.startswith("shtec_rlhf") else None

    def create_module(self, spec):
        return importlib.import_module(spec.name.replace("shtec_rlhf", MODULES))

    def exec_module(self, module):
        pass


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("dump", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args()


def import_peer() -> None:
    """Make the package importable: its own __init__ imports what it does not ship."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu")
    os.environ.setdefault("MASTER_PORT", "29511")
    root = types.ModuleType(MODULES)
    root.__path__ = list(importlib.util.find_spec(MODULES).submodule_search_locations)
    sys.modules[MODULES] = root
    sys.meta_path.insert(0, OneName())


def make_trainer(options: argparse.Namespace):
    """The peer's trainer, as its command line makes it."""
    import deepspeed
    import safe_rlhf.algorithms.ppo_lag.main as ppo_lag
    import safe_rlhf.trainers.rl_trainer as rl_trainer
    import torch
    from safe_rlhf.algorithms.ppo_lag.trainer import PPOLagTrainer
    from safe_rlhf.configs import get_deepspeed_eval_config, get_deepspeed_train_config
    from safe_rlhf.datasets.base import RawDataset

    class Prompts(RawDataset):
        NAME = "prompts"
        ALIASES = ()

        def __init__(self, path=None):
            self.data = json.loads(Path(options.prompts).read_text())

        def __getitem__(self, index):
            return {"input": self.data[index]}

        def __len__(self):
            return len(self.data)

    rl_trainer.FusedAdam = lambda groups, lr, betas: torch.optim.AdamW(groups, lr=lr, betas=betas)
    folder = str(options.dump / "peer")
    sys.argv = ["safe-rlhf", "--train_datasets", "prompts", "--output_dir", folder]
    sys.argv += ["--log_type", "tensorboard", "--log_dir", folder]
    for name in ("actor", "reward", "cost"):
        sys.argv += [f"--{name}_model_name_or_path", options.model]
    sys.argv += ["--max_length", str(options.max_length), "--zero_stage", "0", "--local_rank", "0"]
    sys.argv += ["--per_device_prompt_batch_size", str(options.batch)]
    sys.argv += ["--per_device_train_batch_size", str(options.batch)]
    sys.argv += ["--temperature", "1.0", "--repetition_penalty", "1.0"]
    sys.argv += ["--normalize_reward", "false", "--normalize_cost", "false", "--threshold", "0"]
    args = ppo_lag.parse_arguments()
    deepspeed.init_distributed(dist_backend="gloo")
    args.global_rank, args.device = 0, torch.device("cpu")
    ppo_lag.seed_everything(0)
    common = {"stage": 0, "offload": "none", "fp16": False, "bf16": False}
    train = get_deepspeed_train_config(micro_batch_size_per_gpu=options.batch, gradient_accumulation_steps=1, **common)
    return PPOLagTrainer(args, train, get_deepspeed_eval_config(**common))


def main() -> None:
    options = arguments()
    options.dump.mkdir(parents=True, exist_ok=True)
    import_peer()
    trainer = make_trainer(options)
    import torch

    heads = {
        name: {key: value.clone() for key, value in getattr(trainer, name).module.score_head.state_dict().items()}
        for name in ("reward_model", "cost_model", "reward_critic_model", "cost_critic_model")
    }
    for step in range(options.steps):
        batch = next(iter(trainer.prompt_only_dataloader))  # the same prompts each step
        start = time.perf_counter()
        trainer.set_train(mode=False)
        (sample,) = trainer.split_rl_micro_batches(batch)
        rolled_out = time.perf_counter()
        trainer.set_train(mode=True)
        info = trainer.rl_step(sample)
        end = time.perf_counter()
        if step == 0:
            losses = {name: float(info[f"train/{name}"]) for name in info_names(info)}
            settings = {name: getattr(trainer, name) for name in SETTINGS}
            settings["multiplier"] = float(info["train/lambda"])
            torch.save(
                {"sample": sample, "losses": losses, "heads": heads, "settings": settings}, options.dump / "peer.pt"
            )
        prompt = batch["input_ids"].shape[1]
        row = {
            "generate_and_score_s": rolled_out - start,
            "update_s": end - rolled_out,
            "step_s": end - start,
            "shape": list(sample["input_ids"].shape),
            "response_tokens": int(sample["attention_mask"][:, prompt:].sum()),
            "tokens": int(sample["attention_mask"].sum()),
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
        print(json.dumps(row), flush=True)


SETTINGS = ("kl_coeff", "clip_range_ratio", "clip_range_score", "clip_range_value", "gamma", "gae_lambda")


def info_names(info: dict) -> list[str]:
    return [name.removeprefix("train/") for name in info if name.endswith("loss")]


if __name__ == "__main__":
    main()
