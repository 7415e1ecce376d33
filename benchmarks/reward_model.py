"""Our reward-model training on CPU, through the whole runner: seconds a step, peak memory, the losses.

    python benchmarks/reward_model.py MODEL PREFERENCES.jsonl [--batch 16] [--steps 8] [--max-length 128]

The counterpart of `peers/trl_reward.py`: same model, rows, batch and rate, all layers trained. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def job(options: argparse.Namespace) -> dict[str, Any]:
    """A job of one reward model."""
    reward = {
        "model": {"input": "base"},
        "data": [{"input": "preferences", "limit": options.batch * options.steps}],
        "batchSize": options.batch,
        "maxSteps": options.steps,
        "maxLength": options.max_length,
        "learningRate": 1e-5,
        "schedule": "linear",
        "warmupRatio": 0.0,
        "holdout": 0.0,
    }
    return {
        "apiVersion": "rlhf.dev/v1alpha1",
        "kind": "RLHFJob",
        "metadata": {"name": "bench-reward"},
        "spec": {
            "inputs": [
                {"name": "base", "source": str(Path(options.model).resolve())},
                {"name": "preferences", "source": str(options.data.resolve())},
            ],
            "stages": [{"name": "reward", "execution": {"checkpointEvery": 0}, "rewardModel": reward}],
            "runPolicy": {"keep": "everything"},
        },
    }


def main() -> None:
    """Run the job and read what its stage wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(json.dumps(job(options)))  # JSON is YAML
        subprocess.run(
            [sys.executable, "-m", "rlhf_sdk.cli", "run", str(path), "--plain"], check=True, stdout=sys.stderr
        )
        (work,) = Path(folder).glob(".rlhf/work/*/reward")
        timings = [json.loads(line) for line in (work / "timings.jsonl").read_text().splitlines()]
        metrics = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    row = {
        "step_s": [entry["phases"]["update"] for entry in timings if "update" in entry["phases"]],
        "losses": [entry["loss"] for entry in metrics if "loss" in entry],
        "pairs": options.batch * options.steps,
        "peak_rss_gb": max(entry["peakRssBytes"] for entry in timings) / 1e9,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
