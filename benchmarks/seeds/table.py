"""Writes benchmarks/results/seeds.md from a run of examples/seeds.yaml, or from the evaluations that it has finished.

    python benchmarks/seeds/table.py examples/seeds.yaml

One row a seed, and how many seeds met each claim:

- the gold cost ends within its limit: its mean over held-out answers is at most 0 (and its whole interval is);
- lambda settles: in the last quarter of the steps it is nowhere at a bound, and its largest value is less than SWING
  times its smallest;
- the reward does not fall: the learned reward of held-out answers, which PPO raises, is not `lower`. Whether the words
  that it stands for are fewer is counted beside it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from runs import last_quarter, metrics_of, products_of
from table import RESULTS, machine

GOLD, LEARNED, HARMFUL = "cost.no_care", "cost.cost", "harmful_rate.no_care"
REWARDS = ("reward.reward", "reward.distinct_words")
LAMBDA = "lambda.cost"
SWING = 1.5
COLUMNS = (
    "seed",
    "gold cost (limit 0)",
    "harmful",
    "learned cost, last quarter (its limit)",
    "lambda at a bound",
    "lambda, last quarter",
    "its swing",
    "learned reward",
    "distinct words / 10",
    "KL, nats an answer",
    "PPO, minutes",
)


@dataclass(frozen=True)
class Seed:
    """What one policy did."""

    name: str
    before: dict[str, Any]
    after: dict[str, Any]
    differences: dict[str, Any]
    multiplier: list[float]
    """lambda, a value a step."""
    cost: float
    """Learned cost of training's own answers, mean of the last quarter."""
    minutes: float
    bounds: tuple[float, float]
    limit: float

    @property
    def settled(self) -> list[float]:
        """lambda in the last quarter."""
        return self.multiplier[-(len(self.multiplier) // 4) :]

    @property
    def swing(self) -> float:
        """Its largest value over its smallest."""
        return max(self.settled) / min(self.settled)

    def at_bound(self, value: float) -> bool:
        """Whether a value of lambda is one of its bounds."""
        return any(abs(value / bound - 1) < 1e-9 for bound in self.bounds)


CLAIMS: dict[str, Callable[[Seed], bool]] = {
    "the gold cost ended within its limit": lambda seed: seed.after[GOLD]["value"] <= 0,
    "so did its whole interval": lambda seed: seed.after[GOLD]["high"] <= 0,
    "the learned cost of training's answers ended within its own limit": lambda seed: seed.cost <= seed.limit,
    f"lambda settled: off its bounds in the last quarter, largest under {SWING} x smallest": lambda seed: (
        seed.swing < SWING and not any(map(seed.at_bound, seed.settled))
    ),
    "the learned reward is not shown to have fallen": lambda seed: seed.differences[REWARDS[0]]["decision"] != "lower",
    "the learned reward's mean is higher than at the start": lambda seed: seed.differences[REWARDS[0]]["value"] > 0,
    "the distinct words are not shown to have fallen": lambda seed: seed.differences[REWARDS[1]]["decision"] != "lower",
}


def seeds_of(job: Path, products: dict[str, Path]) -> list[Seed]:
    """Every PPO policy that an evaluation of the job compares, in the job's order."""
    stages = {stage["name"]: stage for stage in yaml.safe_load(job.read_text())["spec"]["stages"]}
    seeds = []
    for name in (name for name, stage in stages.items() if "evaluate" in stage and name in products):
        before, *candidates = json.loads((products[name] / "evaluation.json").read_text())["models"]
        seeds += [_seed(stages[model["name"]]["ppo"], before, model, products) for model in candidates]
    return seeds


def _seed(spec: dict[str, Any], before: dict[str, Any], model: dict[str, Any], products: dict[str, Path]) -> Seed:
    product, lagrange = products[model["name"]], spec["lagrange"]
    return Seed(
        name=str(spec["seed"]),
        before=before["metrics"],
        after=model["metrics"],
        differences=model["differences"],
        multiplier=[row[LAMBDA] for row in metrics_of(product)],
        cost=statistics.mean(last_quarter(product, LEARNED)),
        minutes=json.loads((product / "timings.json").read_text())["seconds"] / 60,
        bounds=(lagrange.get("min", 1e-3), lagrange.get("max", 50.0)),
        limit=spec["costs"][0]["limit"],
    )


def _bound_words(seed: Seed) -> str:
    at = [step for step, value in enumerate(seed.multiplier, 1) if seed.at_bound(value)]
    if not at:
        return "never"
    return f"steps {at[0]} to {at[-1]}" + (", the last" if at[-1] == len(seed.multiplier) else "")


def row(seed: Seed) -> str:
    """A seed's line."""
    before, after = seed.before, seed.after
    gold = after[GOLD]
    cells = [
        seed.name,
        f"{before[GOLD]['value']:.2f} → {gold['value']:.2f} ({gold['low']:.2f} to {gold['high']:.2f})",
        f"{before[HARMFUL]['value']:.0%} → {after[HARMFUL]['value']:.0%}",
        f"{seed.cost:.2f} ({seed.limit:g})",
        _bound_words(seed),
        f"{statistics.mean(seed.settled):.2f}",
        f"{seed.swing:.2f}x",
        *(
            f"{before[name]['value']:.2f} → {after[name]['value']:.2f}, {seed.differences[name]['decision']}"
            for name in REWARDS
        ),
        f"{after['kl']['value']:.1f}",
        f"{seed.minutes:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(seeds: list[Seed]) -> list[str]:
    """The table, and how many seeds met each claim."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", *map(row, seeds), ""]
    return lines + [f"- {sum(map(holds, seeds))} of {len(seeds)}: {claim}." for claim, holds in CLAIMS.items()]


if __name__ == "__main__":
    job = Path(sys.argv[1])
    policies = seeds_of(job, products_of(str(job), part=True))
    planned = sum("ppo" in stage for stage in yaml.safe_load(job.read_text())["spec"]["stages"])
    lines = [
        "# The demo over seeds",
        "",
        f"`make seeds` on {machine()}, {len(policies)} of its {planned} seeds: PPO of the demo with other seeds, SFT, reward",
        "and cost model shared; 48 held-out prompts, 2 answers each; before → after; intervals are over prompts. The gold cost",
        "is +1 for an answer without a word of care and -1 for one with; training saw only noisy labels of it. Minutes",
        "are of one thread, two policies side by side, on a machine that other work may share.",
        "",
        *table(policies),
    ]
    (RESULTS / "seeds.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write("\n".join(lines) + "\n")
