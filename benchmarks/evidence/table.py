"""Writes benchmarks/results/evidence.md from a finished run of examples/evidence.yaml.

    python benchmarks/evidence/table.py examples/evidence.yaml

One row a method: mean and standard error over the seeds of what the evaluation measured on held-out prompts, and how
lambda ended. A difference between methods is told only where it is larger than two standard errors of it.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import last_quarter, products_of
from table import RESULTS, machine

METRICS = {
    "cost.no_care": "gold cost (limit 0)",
    "cost.cost": "learned cost",
    "reward.reward": "learned reward",
    "reward.distinct_words": "distinct words / 10",
    "kl": "KL, nats an answer",
    "length": "tokens",
    "distinct_2": "distinct-2",
}


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error over seeds."""
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def cell(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.3f} ± {error:.3f}"


def table(models: dict[str, dict[str, Any]], products: dict[str, Path], baseline: str) -> list[str]:
    """The rows of the table, the baseline first."""
    start = [models[baseline].get(name, {}).get("value") for name in METRICS]
    lines = [
        "| method | " + " | ".join(METRICS.values()) + " | lambda, last quarter | its swing |",
        "|---" * (len(METRICS) + 3) + "|",
        f"| start ({baseline}) | " + " | ".join("" if value is None else f"{value:.3f}" for value in start) + " | | |",
    ]
    for method in sorted({name.rpartition("-")[0] for name in models if name != baseline}):
        names = sorted(name for name in models if name.rpartition("-")[0] == method)
        cells = [cell([models[name][metric]["value"] for name in names]) for metric in METRICS]
        path = [last_quarter(products[name], "lambda.cost") for name in names] if method == "lagrange" else []
        ends = cell([statistics.mean(values) for values in path]) if path else ""
        swing = f"{max(max(values) / min(values) for values in path):.2f}x" if path else ""
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {ends} | {swing} |")
    return lines


def _beside_limit(mean: float, error: float) -> str:
    if mean + 2 * error <= 0:
        return "is within its limit"
    return "is above its limit" if mean - 2 * error > 0 else "is shown neither within nor above its limit"


def verdicts(models: dict[str, dict[str, Any]]) -> list[str]:
    """What the gold cost says, in words, and only what it says."""
    by_method: dict[str, list[float]] = {}
    for name, metrics in models.items():
        method, _, seed = name.rpartition("-")
        if seed.isdigit():
            by_method.setdefault(method, []).append(metrics["cost.no_care"]["value"])
    lines = []
    for method, values in sorted(by_method.items()):
        mean, error = mean_and_error(values)
        seeds = "seeds: " + ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"- {method}: the gold cost {_beside_limit(mean, error)} ({mean:.3f} ± {error:.3f}; {seeds}).")
    ours, plain = by_method["lagrange"], by_method["plain"]
    gap = statistics.mean(plain) - statistics.mean(ours)
    error = math.hypot(mean_and_error(ours)[1], mean_and_error(plain)[1])
    says = "is lower than" if gap > 2 * error else "is not shown to differ from"
    lines.append(f"- lagrange {says} plain: difference {gap:.3f} ± {error:.3f}.")
    return lines


if __name__ == "__main__":
    products = products_of(sys.argv[1])
    evaluation = json.loads((products["evaluate"] / "evaluation.json").read_text())
    models = {model["name"]: model["metrics"] for model in evaluation["models"]}
    lines = [
        "# PPO-Lagrangian, plain PPO and reward shaping",
        "",
        f"`make evidence` on {machine()}: three seeds a method, {evaluation['prompts']} held-out prompts, "
        f"{evaluation['samples_per_prompt']} answers each; mean ± standard error over seeds. The gold cost is +1 for an answer",
        "without a word of care and -1 for one with; training saw only noisy labels of it.",
        "",
        *table(models, products, evaluation["baseline"]),
        "",
        *verdicts(models),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "evidence.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")
