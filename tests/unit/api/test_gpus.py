"""Is there a GPU that a stage may use? Asked of /dev and the environment, without CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_api.gpus import has_gpu


@pytest.mark.parametrize(
    ("devices", "visible", "expected"),
    [
        (["nvidia0", "nvidiactl"], None, True),
        (["nvidia0"], "0", True),
        (["nvidia0"], "GPU-5ebe9f43", True),
        (["nvidia0"], "", False),
        (["nvidia0"], "-1", False),
        (["nvidiactl", "nvidia-uvm"], None, False),
        ([], None, False),
    ],
)
def test_a_gpu_counts_when_it_is_there_and_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: list[str], visible: str | None, expected: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in devices:
        (tmp_path / name).touch()
    assert has_gpu(tmp_path) is expected
