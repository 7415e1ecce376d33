"""What a rank does on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_api.stage_file import StageFile
from rlhf_trainer import rng
from rlhf_trainer.exits import InputError
from rlhf_trainer.generation import sample
from rlhf_trainer.runtime import devices, supervisor
from rlhf_trainer.runtime.worker import crash_reason


def test_more_ranks_than_gpus_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.own_gpu(0) == torch.device("cuda", 0)
    with pytest.raises(InputError, match=r"ranksPerNode: rank 1 of this node finds 1 GPUs"):
        devices.own_gpu(1)


@pytest.mark.parametrize("gpu", [True, False])
def test_ranks_on_gpus_are_told_to_sum_in_one_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: bool) -> None:
    monkeypatch.setattr(supervisor, "has_gpu", lambda: gpu)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    folder = str(tmp_path)
    raw: dict[str, Any] = {
        "version": "1",
        "job": "j",
        "uid": "u",
        "stage": "sft",
        "type": "sft",
        "digest": "0" * 64,
        "spec": {},
        "seed": 0,
        "execution": {},
        "directories": {"storage": folder, "work": folder, "job": folder},
    }
    file = StageFile.model_validate(raw)
    environment = supervisor.Ranks(file, tmp_path / "stage.json", 0)._environment(0)
    assert (environment.get("CUBLAS_WORKSPACE_CONFIG") == supervisor.CUBLAS_WORKSPACE) is gpu
    assert (environment.get("CUDA_VISIBLE_DEVICES") == "") is not gpu


def test_memory_that_torch_keeps_unused_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20)
    assert sample.free_bytes(torch.device("cuda", 0)) == 50


def test_rows_on_a_gpu_are_a_power_of_two() -> None:
    assert [sample.power_of_two(count) for count in (0, 1, 2, 3, 64, 65, 127)] == [0, 1, 2, 2, 64, 64, 64]


def test_generators_of_a_gpu_are_let_be_where_a_run_goes_on_without_one() -> None:
    state = rng.capture()
    expected = torch.rand(3)
    rng.restore({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)] if not torch.cuda.is_available() else []})
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "OutOfMemory"),
        ("CUDA error: out of memory", "OutOfMemory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "OutOfMemory"),
        ("CUDA error: an illegal memory access was encountered", "RuntimeError"),
    ],
)
def test_a_gpu_that_is_full_is_called_so(text: str, reason: str) -> None:
    assert crash_reason(RuntimeError(text)) == reason
