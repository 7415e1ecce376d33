"""One engine under every way of sharding, in this process or as ranks of a gang; results as JSON and tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import warm
from patience import PATIENCE
from stage_gang import leave
from torch import nn

from rlhf_api.job import Execution
from rlhf_api.stages.common import Optimizer
from rlhf_trainer.engine import Engine

STEPS, HALF, ROWS = 6, 3, 8
SPEC = {"learningRate": 1e-2, "weightDecay": 0.1, "maxGradNorm": 1.0, "warmupRatio": 0.2}


def engine_context(rank: int, world: int, **execution: Any) -> Any:
    """What an engine needs of a context."""
    file = SimpleNamespace(execution=Execution.model_validate(execution))
    return SimpleNamespace(rank=rank, world=world, local_rank=rank, device=torch.device("cpu"), file=file)


def network(dtype: str) -> nn.Sequential:
    """Five layers, the first weight frozen."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            for parameter in layer.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    module = nn.Sequential(*layers).to(getattr(torch, dtype))
    module[0].weight.requires_grad_(False)
    return module


def rows(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(step))
    return inputs, inputs.sum(1, keepdim=True)


def train(engine: Engine, rank: int, world: int, steps: range) -> list[float]:
    """Two rows a backward, this rank's share of the squared error over the global count of rows."""
    norms = []
    dtype = next(engine.module.parameters()).dtype
    for step in steps:
        inputs, targets = rows(step)
        mine = list(range(rank, ROWS, world))
        for start in range(0, len(mine), 2):
            part = mine[start : start + 2]
            engine.backward((engine(inputs[part].to(dtype)).float() - targets[part]).square().sum() / ROWS)
        norms.append(engine.step())
    return norms


def train_and_resume(rank: int, world: int, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train undisturbed, then again with a save and a load half-way."""
    optimizer = Optimizer.model_validate({**SPEC, "dtype": case["dtype"]})
    context = engine_context(rank, world, **case["execution"])

    def fresh() -> Engine:
        return Engine(network(case["dtype"]), optimizer=optimizer, total_steps=STEPS, context=context, name="m")

    undisturbed = fresh()
    norms = train(undisturbed, rank, world, range(STEPS))
    broken = fresh()
    again = train(broken, rank, world, range(HALF))
    broken.save(folder / "saved")
    dist.barrier()
    resumed = fresh()
    resumed.load(folder / "saved")
    again += train(resumed, rank, world, range(HALF, STEPS))
    first, second = undisturbed.state_dict(), resumed.state_dict()
    with undisturbed.gathered_parameters() as module, torch.no_grad():
        shapes = [list(parameter.shape) for parameter in module.parameters()]
        answers = [
            module(rows(0)[0].to(getattr(torch, case["dtype"]))).float().flatten().tolist() for _ in range(rank + 1)
        ]
    after = train(undisturbed, rank, world, range(STEPS - 1, STEPS))  # hooks are back
    sizes = sum(file.stat().st_size for file in (folder / "saved").rglob("*.pt"))
    return {
        "norms": norms,
        "again": again,
        "state": {name: value.float().flatten().tolist() for name, value in first.items()},
        "resumed": {name: value.float().flatten().tolist() for name, value in second.items()},
        "shapes": shapes,
        "answers": answers[0],
        "after": after,
        "bytes": sizes,
        "frozen_saved": any("0.weight" in torch_names(file) for file in (folder / "saved").rglob("*model_states.pt")),
    }


def torch_names(file: Path) -> list[str]:
    """Names of the weights in a file of the engine's (written by this test)."""
    weights = torch.load(file, weights_only=False).get("module") or {}
    return list(weights)


def run(world: int, cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Rank 0's results of all cases, from a gang of `world` processes."""
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [warm.python(), __file__, str(folder), str(rank), str(world)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            raise AssertionError(f"a rank ended with {process.returncode}:\n{output[-5000:]}")
    results: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return results


def _main() -> None:
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    cases = json.loads((folder / "cases.json").read_text())
    results = []
    for number, case in enumerate(cases):
        place_of = folder / str(number)
        place_of.mkdir(exist_ok=True)
        results.append(train_and_resume(rank, world, case, place_of))
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    leave()


if __name__ == "__main__":
    _main()
