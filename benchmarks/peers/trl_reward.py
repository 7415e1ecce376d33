"""Reward-model training with TRL's RewardTrainer on CPU: seconds a step, peak memory, the losses.

    python trl_reward.py MODEL PREFERENCES.jsonl [--batch 16] [--steps 8] [--max-length 128]

Runs in an environment of its own (requirements/peer-trl.in). The rows are Safe RLHF rows; the better answer is the
chosen one. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer


class StepTimes(TrainerCallback):
    """Seconds of every optimizer step, data loading included."""

    def __init__(self):
        self.times = [time.perf_counter()]

    def on_train_begin(self, *args, **kwargs):
        self.times = [time.perf_counter()]

    def on_step_end(self, *args, **kwargs):
        self.times.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.data.read_text().splitlines()][: options.batch * options.steps]
    pairs = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row[f"response_{row['better_response_id']}"]}],
            "rejected": [{"role": "assistant", "content": row[f"response_{1 - row['better_response_id']}"]}],
        }
        for row in rows
    ]
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            output_dir=folder,
            per_device_train_batch_size=options.batch,
            max_length=options.max_length,
            num_train_epochs=1,
            learning_rate=1e-5,
            center_rewards_coefficient=1e-3,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = RewardTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer,
            callbacks=[times],
        )
        trainer.train()
    steps = [after - before for before, after in zip(times.times, times.times[1:], strict=False)]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"step_s": steps, "losses": losses, "pairs": len(rows), "peak_rss_gb": peak}))


if __name__ == "__main__":
    main()
