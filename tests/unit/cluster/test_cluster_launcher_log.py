"""What a launcher says in a pod stays on the storage; on this machine the runner keeps it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def launched(folder: Path, *, pod: bool, index: int = 0) -> subprocess.CompletedProcess[str]:
    """A launcher whose attempt is older than one that has begun: it says so and ends, without a rank."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (work / "fence.json").write_text(json.dumps({"uid": "uid", "attempt": 5}))
    directories = {"storage": str(folder), "work": str(work), "job": str(folder)}
    if pod:
        directories["terminationMessage"] = str(folder / "termination-log")
    file = {"version": "1", "job": "job", "uid": "uid", "stage": "sft", "type": "sft", "digest": "abc", "spec": {}}
    file |= {"seed": 0, "execution": {}, "attempt": 2, "directories": directories}
    (folder / "stage.json").write_text(json.dumps(file))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JOB_COMPLETION_INDEX": str(index)}
    command = [sys.executable, "-m", "rlhf_trainer.launch", str(folder / "stage.json")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_in_a_pod_its_lines_are_beside_those_of_the_ranks(tmp_path: Path) -> None:
    done = launched(tmp_path, pod=True)
    assert done.returncode == 1
    log = (tmp_path / "work" / "logs" / "a2" / "launcher.log").read_text()
    assert log == done.stdout
    assert "ERROR launcher: Fenced: " in log


def test_again_in_the_same_attempt_they_are_added(tmp_path: Path) -> None:
    first, second = launched(tmp_path, pod=True), launched(tmp_path, pod=True)
    assert (tmp_path / "work" / "logs" / "a2" / "launcher.log").read_text() == first.stdout + second.stdout


def test_on_this_machine_there_is_no_second_log(tmp_path: Path) -> None:
    assert "Fenced" in launched(tmp_path, pod=False).stdout
    assert not (tmp_path / "work" / "logs").exists()


@pytest.mark.parametrize("lines", [20_000])
def test_the_log_is_bounded(tmp_path: Path, lines: int) -> None:
    program = (
        "import logging, sys\nfrom pathlib import Path\nfrom rlhf_api.stage_file import StageFile\n"
        "from rlhf_trainer.runtime import launcher\n"
        "launcher.keep_log(StageFile.model_validate_json(Path(sys.argv[1]).read_bytes()))\n"
        f"for number in range({lines}):\n    logging.getLogger().warning('x' * 200)\n"
    )
    launched(tmp_path, pod=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "stage.json")], env=environment, check=True)
    sizes = [file.stat().st_size for file in (tmp_path / "work" / "logs" / "a2").iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1 << 20
