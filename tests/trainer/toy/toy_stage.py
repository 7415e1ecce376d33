"""A stage that trains a few numbers in milliseconds a step and draws from every generator, as real stages do.

Its spec is a dict: {steps, how: what goes wrong, at: which step, rank: on which, ballast: floats in its state}.
"""

from __future__ import annotations

import math
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rlhf_trainer.context import Facts, StageContext
from rlhf_trainer.exits import GuardTripped, InputError
from rlhf_trainer.loop import train


class ToyEngine:
    """Gradient descent with momentum on one matrix, averaged over ranks; saves a part a rank, as ZeRO does.

    (An optimizer of torch's would import its compiler: seconds, for every process of every test.)
    """

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.weights = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        self.momentum = torch.zeros(3, 4)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        loss = ((inputs @ self.weights - targets) ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, [self.weights])
        total = torch.cat([gradient.flatten(), loss.detach()[None]])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(total)
        self.momentum.mul_(0.9).add_(total[:-1].reshape(3, 4))
        self.weights.data.sub_(0.05 * self.momentum)
        return float(total[-1])

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save({"weights": self.weights.data, "momentum": self.momentum}, folder / f"part-{self.rank}.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / f"part-{self.rank}.pt", weights_only=True)
        self.weights.data.copy_(state["weights"])
        self.momentum.copy_(state["momentum"])


class ToyTask:
    """Learns from draws of torch's, NumPy's and Python's generators; `seen` is its data position."""

    def __init__(self, spec: dict[str, Any], rank: int = 0) -> None:
        self.spec = spec
        self.total = int(spec["steps"])
        self.rank = rank
        self.engine = ToyEngine(rank)
        self.engines = {"toy": self.engine}
        self.seen = 0
        self.multiplier = 1.0

    def step(self, step: int) -> dict[str, float]:
        how = self.spec.get("how")
        if how is not None and step == self.spec["at"] and self.rank == self.spec.get("rank", self.rank):
            go_wrong(how)
        inputs = torch.randn(5, 3) + float(np.random.rand())
        loss = self.engine.step(inputs, inputs.repeat(1, 2)[:, :4] * random.random())
        self.seen += 5
        self.multiplier *= math.exp(0.1 * (loss - 1.0))
        return {"loss": loss, "lambda.toy": self.multiplier, "tokens": torch.tensor(self.seen)}

    def state(self) -> dict[str, Any]:
        ballast = torch.zeros(self.spec.get("ballast", 0))
        return {"seen": self.seen, "multiplier": self.multiplier, "ballast": ballast}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen, self.multiplier = state["seen"], state["multiplier"]


def go_wrong(how: str) -> None:
    """End this rank as asked."""
    if how == "raise":
        raise ValueError("a bug")
    if how == "input":
        raise InputError("data.jsonl: row 7: found no prompt; expected one")
    if how == "guard":
        raise GuardTripped("KL 40 is above its limit 30", reason="KL")
    if how == "exit":
        os._exit(41)
    os.kill(os.getpid(), getattr(signal, how))


def run(context: StageContext) -> None:
    """Train, then publish the weights."""
    task = ToyTask(context.file.spec, context.rank)
    train(context, task)
    if context.file.spec.get("publish", True):
        context.publish(lambda folder: build(folder, task))


def build(folder: Path, task: ToyTask) -> Facts:
    """The product: the weights as bytes, so that runs can be compared."""
    (folder / "weights.bin").write_bytes(task.engine.weights.detach().numpy().tobytes())
    return Facts(counts={"seen": task.seen}, metrics={"multiplier": task.multiplier})


def light(context: StageContext) -> None:
    """A stage without ranks, as prepare and report are."""
    assert not dist.is_initialized()
    if not context.file.spec.get("publish", True):
        return
    context.publish(lambda folder: Facts(notes=[str((folder / "report.html").write_text("<p>"))]))
