"""Runs real stages on tiny models inside one gang of ranks: starting a rank costs seconds, a tiny stage less than one.

In this process (`alone`), or as two ranks (`gang`): each takes a list of cases and runs them one after the other.
A case may be cut off after a step, as SIGKILL would: nothing is saved, closed or flushed then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import warm
from patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]
PATHS = [str(REPOSITORY / name) for name in ("crds", "trainer_image", "tests", "tests/trainer")]


class CutOff(BaseException):
    """Stands for SIGKILL: no handler may catch it."""


@dataclass
class Case:
    """One run of a stage."""

    storage: str
    type: str
    spec: dict[str, Any]
    inputs: dict[str, str]
    """Path by Reference.key."""
    execution: dict[str, Any] = field(default_factory=dict)
    digest: str = "0" * 64
    uid: str = "uid"
    seed: int = 7
    cut_after: int | None = None
    """Steps after which the ranks vanish."""

    @property
    def work(self) -> Path:
        return Path(self.storage) / "work" / self.uid / self.type

    @property
    def product(self) -> Path:
        return Path(self.storage) / "products" / f"{self.type}-{self.digest}"


def run_case(case: Case, rank: int, world: int) -> None:
    """Run a stage as one rank of an initialised gang (or alone)."""
    import torch

    from rlhf_api.job import Execution
    from rlhf_api.stage_file import Directories, StageFile, StageInput
    from rlhf_trainer import loop, rng
    from rlhf_trainer.context import StageContext
    from rlhf_trainer.stages import resolve
    from rlhf_trainer.storage.checkpoints import Checkpoints
    from rlhf_trainer.telemetry.metrics import Metrics
    from rlhf_trainer.telemetry.progress import Progress

    torch.set_num_threads(1)
    case.work.mkdir(parents=True, exist_ok=True)
    for name in ("products", "locks"):
        (Path(case.storage) / name).mkdir(parents=True, exist_ok=True)
    file = StageFile.model_validate(
        {
            "version": "1",
            "job": "job",
            "uid": case.uid,
            "stage": case.type.lower(),
            "type": case.type,
            "digest": case.digest,
            "spec": case.spec,
            "seed": case.seed,
            "threads": 1,
            "ranksPerNode": world,
            "execution": Execution.model_validate({"checkpointEvery": 2, **case.execution}),
            "directories": Directories.model_validate(
                {"storage": case.storage, "work": str(case.work), "job": case.storage}
            ),
            "inputs": {
                key: StageInput.model_validate({"path": path, "digest": key.encode().hex().ljust(64, "0")[:64]})
                for key, path in case.inputs.items()
            },
        }
    )
    rng.seed_all(file.seed + rank)
    context = StageContext(
        file=file,
        rank=rank,
        world=world,
        local_rank=rank,
        device=torch.device("cpu"),
        work=case.work,
        metrics=Metrics(case.work, rank=rank),
        progress=Progress({}),
        checkpoints=Checkpoints(case.work / "checkpoints", digest=file.digest, rank=rank, world=world, keep=2),
        stop=threading.Event(),
    )
    train = loop.train
    run = resolve(case.type)
    module = sys.modules[run.__module__]
    if case.cut_after is None:
        run(context)
        return
    module.train = lambda context, task: train(context, _Cut(task, case.cut_after))  # type: ignore[attr-defined]
    try:
        run(context)
    except CutOff:
        return
    finally:
        module.train = train  # type: ignore[attr-defined]
    raise AssertionError(f"ran to its end, expected to be cut off after step {case.cut_after}")


class _Cut:
    """A task that vanishes in the middle of a step."""

    def __init__(self, task: Any, after: int | None) -> None:
        self._task = task
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def step(self, step: int) -> Mapping[str, Any]:
        metrics: Mapping[str, Any] = self._task.step(step)
        if step == self._after:
            raise CutOff
        return metrics


def alone(*cases: Case) -> None:
    """Run cases in this process, as a stage of one rank."""
    for case in cases:
        run_case(case, 0, 1)


def gang(world: int, cases: Sequence[Case], folder: Path) -> None:
    """Run cases in a gang of `world` processes; raises with a rank's output where one fails."""
    path = folder / "cases.json"
    path.write_text(json.dumps([asdict(case) for case in cases]))
    store = folder / "rendezvous"
    store.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [warm.python(), __file__, str(path), str(store), str(rank), str(world)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, output in zip(ranks, outputs, strict=True):
        if rank.returncode:
            raise AssertionError(f"a rank ended with {rank.returncode}:\n{output[-6000:]}")


def leave(code: int = 0) -> NoReturn:
    """End a test's rank as `rlhf_trainer.runtime.worker` ends one: past the interpreter's own end, where a thread of gloo
    that still frees the tensors of a collective aborts the process now and then."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _main() -> None:
    import torch.distributed as dist

    path, store, rank, world = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for raw in json.loads(Path(path).read_text()):
        try:
            run_case(Case(**raw), rank, world)
        except BaseException:  # noqa: BLE001 - whatever it was, the other ranks must not wait for this one
            traceback.print_exc()
            leave(1)
    dist.destroy_process_group()
    leave()


if __name__ == "__main__":
    _main()
