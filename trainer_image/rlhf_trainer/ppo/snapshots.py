"""Policies of the last steps of a run, kept beside the last one: how much a result depends on where training ended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.stages.ppo import Ppo
from rlhf_trainer.exits import explain_full_disk

SNAPSHOTS = "snapshots"


def steps(spec: Ppo) -> list[int]:
    """Steps after which a policy is kept; the last step's is the product itself."""
    earlier = [spec.steps - back * spec.snapshot_every for back in range(spec.snapshots - 1, 0, -1)]
    return [step for step in earlier if step > 0]


def folders(product: Path) -> dict[int, Path]:
    """The snapshots of a policy by their step, in order; empty where it has none."""
    by_step = {int(path.name.removeprefix("step-")): path for path in (product / SNAPSHOTS).glob("step-*")}
    return dict(sorted(by_step.items()))


@dataclass(frozen=True)
class Keeper:
    """Keeps snapshots in the work folder until the product takes them."""

    work: Path
    due: frozenset[int]
    """Steps after which there is one."""

    def keep(self, step: int, build: Callable[[Path], None]) -> None:
        """Put the snapshot of a step in place, whole; made again by a run that resumes before it.

        Raises:
            StorageFull: no space.
        """
        target = self.work / SNAPSHOTS / f"step-{step:07d}"
        half = target.with_name(f".{target.name}")
        with explain_full_disk(self.work, f"keeping the policy of step {step}"):
            for folder in (half, target):
                shutil.rmtree(folder, ignore_errors=True)
            half.mkdir(parents=True)
            build(half)
            half.rename(target)

    def give(self, product: Path) -> None:
        """Copy all of them into the product."""
        for step in sorted(self.due):
            name = f"step-{step:07d}"
            shutil.copytree(self.work / SNAPSHOTS / name, product / SNAPSHOTS / name)

    def drop(self) -> None:
        """Remove them from the work folder."""
        shutil.rmtree(self.work / SNAPSHOTS, ignore_errors=True)
