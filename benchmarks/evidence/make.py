"""Prints the evidence job: the demo's job with its PPO stage in three methods and three seeds.

    python benchmarks/evidence/make.py examples/safe-rlhf.yaml > examples/evidence.yaml

SFT, reward model and cost model stay as they are, and PPO-Lagrangian with seed 0 is the demo's, so that their products
are shared with it. Methods:

- lagrange: the demo's PPO-Lagrangian;
- plain: no cost;
- shaped: the cost as a reward of a fixed negative weight.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SEEDS = (0, 1, 2)
SHAPING = -1.0


def methods(ppo: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The PPO spec of each method."""
    lagrange = copy.deepcopy(ppo)
    plain = copy.deepcopy(lagrange)
    cost = plain.pop("costs")[0]
    plain.pop("lagrange", None)
    shaped = copy.deepcopy(plain)
    shaped["rewards"].append({"stage": cost["stage"], "weight": SHAPING})
    return {"lagrange": lagrange, "plain": plain, "shaped": shaped}


def evidence(job: dict[str, Any]) -> dict[str, Any]:
    """The demo's job, its `ppo` stage multiplied."""
    job = copy.deepcopy(job)
    job["metadata"]["name"] = "evidence"
    stages, evaluate, report = [], None, None
    for stage in job["spec"]["stages"]:
        if "ppo" in stage:
            for method, spec in methods(stage["ppo"]).items():
                stages += [{"name": f"{method}-{seed}", "ppo": {**copy.deepcopy(spec), "seed": seed}} for seed in SEEDS]
        elif "evaluate" in stage:
            evaluate = stage
        elif "report" in stage:
            report = stage
        else:
            stages.append(stage)
    names = [stage["name"] for stage in stages if "ppo" in stage]
    evaluate["evaluate"]["candidates"] = [{"stage": name} for name in names]
    report["report"]["title"] = "PPO-Lagrangian, plain PPO and reward shaping over three seeds"
    job["spec"]["stages"] = [*stages, evaluate, report]
    return job


if __name__ == "__main__":
    sys.stdout.write(
        "# Written by benchmarks/evidence/make.py from safe-rlhf.yaml. Hours on two cores: make evidence\n"
    )
    writer = YAML()
    writer.width = 120
    writer.dump(evidence(YAML(typ="safe").load(Path(sys.argv[1]))), sys.stdout)
