"""Prints the seeds job: the demo's job with its PPO stage over eight seeds.

    python benchmarks/seeds/make.py examples/safe-rlhf.yaml > examples/seeds.yaml

SFT, reward model, cost model and PPO with seed 0 stay the demo's, so that their products are shared with it. An
evaluation takes four seeds, so that the first is there at half-time and two can run side by side.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

GROUPS = ((0, 1, 2, 3), (4, 5, 6, 7))


def seeds(job: dict[str, Any]) -> dict[str, Any]:
    """The demo's job, its PPO stage once a seed."""
    job = copy.deepcopy(job)
    job["metadata"]["name"] = "seeds"
    stages = []
    for stage in job["spec"]["stages"]:
        if "ppo" in stage:
            ppo = stage["ppo"]
        elif "evaluate" in stage:
            for number, group in enumerate(GROUPS, 1):
                names = [f"ppo-{seed}" for seed in group]
                stages += [
                    {"name": name, "ppo": copy.deepcopy(ppo) | {"seed": seed}}
                    for name, seed in zip(names, group, strict=True)
                ]
                candidates = [{"stage": name} for name in names]
                stages.append(
                    {
                        "name": f"evaluate-{number}",
                        "evaluate": copy.deepcopy(stage["evaluate"]) | {"candidates": candidates},
                    }
                )
        else:
            stages.append(stage)
    stages[-1]["report"]["title"] = "The demo over eight seeds"
    job["spec"]["stages"] = stages
    return job


if __name__ == "__main__":
    sys.stdout.write("# Written by benchmarks/seeds/make.py from safe-rlhf.yaml. An hour on two cores: make seeds\n")
    writer = YAML()
    writer.width = 120
    writer.dump(seeds(YAML(typ="safe").load(Path(sys.argv[1]))), sys.stdout)
