"""Real stages through the launcher: two DeepSpeed ranks, killed with SIGKILL and stopped, end as if nothing had been."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import warm
from patience import PATIENCE
from ppo_cases import base, case
from toys import launch, start

from rlhf_api.job import Execution
from rlhf_api.stage_file import Directories, StageFile, StageInput

STEPS = 20  # a busy machine may be some steps late with a signal


def stage_file(home: Path, name: str, zero: int, attempt: int = 0) -> StageFile:
    """PPO-Lagrangian with PTX on two ranks; runs of different names have different storages."""
    fields = {"steps": STEPS, "ptx": {"data": [{"input": "chat"}], "coefficient": 1.0, "batchSize": 2}}
    ppo_case = case(home, name="run", **fields)
    storage = home / f"{name}-zero{zero}"
    work = storage / "work" / "uid" / "ppo"
    return StageFile.model_validate(
        {
            "version": "1",
            "job": "job",
            "uid": "uid",
            "stage": "ppo",
            "type": "ppo",
            "attempt": attempt,
            "digest": ppo_case.digest,
            "spec": ppo_case.spec,
            "seed": 7,
            "threads": 1,
            "ranksPerNode": 2,
            "execution": Execution.model_validate({"zero": zero, "checkpointEvery": 1}),
            "directories": Directories.model_validate({"storage": str(storage), "work": str(work), "job": str(home)}),
            "inputs": {
                key: StageInput.model_validate({"path": path, "digest": key.encode().hex().ljust(64, "0")[:64]})
                for key, path in ppo_case.inputs.items()
                if Path(path).exists()
            },
        }
    )


def result(file: StageFile) -> dict[str, bytes]:
    """Every byte that must be the same: weights, critics, metrics."""
    product = Path(file.directories.storage) / "products" / f"ppo-{file.digest}"
    files = [*product.rglob("*.safetensors"), product / "metrics.jsonl"]
    return {path.relative_to(product).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return base(tmp_path_factory.mktemp("launched"))


@pytest.mark.parametrize("zero", [2, 3])
def test_ppo_of_two_ranks_killed_and_stopped_ends_bit_identical(home, zero):
    undisturbed = stage_file(home, "whole", zero)
    code, output = launch(undisturbed, python=warm.python())
    assert code == 0, output

    def interrupted(attempt: int, number: signal.Signals, step: int) -> tuple[int, str]:
        """Run until it has saved a checkpoint of `step` or later, and send a signal."""
        file = stage_file(home, "parted", zero, attempt)
        folder = Path(file.directories.work) / "checkpoints"
        before = {path.name for path in folder.glob("step-*")}
        process = start(file, python=warm.python())
        while process.poll() is None:
            if any(path.name >= f"step-{step:08d}" for path in folder.glob("step-*") if path.name not in before):
                process.send_signal(number)
                break
            time.sleep(0.002)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    code, output = interrupted(0, signal.SIGKILL, 1)
    assert code == -signal.SIGKILL, output
    code, output = interrupted(1, signal.SIGTERM, 3)
    assert code == 75, output
    parted = stage_file(home, "parted", zero, 2)
    code, output = launch(parted, python=warm.python())
    assert code == 0, output
    assert "resuming after step" in output
    assert result(parted) == result(undisturbed)
    assert {"model.safetensors", "metrics.jsonl"} < set(result(undisturbed))
    rows = [json.loads(row) for row in result(undisturbed)["metrics.jsonl"].splitlines()]
    assert len({row["loss"] for row in rows}) == STEPS
