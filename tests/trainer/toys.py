"""Helpers of the runtime's tests: stage files of the toy stage, and launchers that run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from patience import PATIENCE

from rlhf_api.job import Execution
from rlhf_api.stage_file import Directories, StageFile

TOY = Path(__file__).parent / "toy"


def toy_file(storage: Path, spec: dict[str, Any], **fields: Any) -> StageFile:
    """A stage file of the toy stage (which runs as type `sft`), its work folder made of uid and stage."""
    uid, stage = fields.setdefault("uid", "uid-1"), fields.setdefault("stage", "toy")
    work = storage / "work" / uid / stage
    execution = Execution.model_validate({"checkpointEvery": fields.pop("every", 3)})
    stage_fields = {
        "version": "1",
        "job": "job",
        "type": "sft",
        "digest": "d" * 64,
        "spec": spec,
        "seed": 5,
        "threads": 1,
        "execution": execution,
        "directories": Directories.model_validate({"storage": str(storage), "work": str(work), "job": str(storage)}),
        **fields,
    }
    return StageFile.model_construct(**stage_fields)


def write(file: StageFile) -> Path:
    """Put a stage file where its stage works."""
    path = Path(file.directories.work) / "stage.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.model_dump_json())
    return path


def start(
    file: StageFile,
    *,
    python: str = sys.executable,
    interpreter: tuple[str, ...] = ("-m", "rlhf_trainer.launch"),
    **environment: str,
) -> subprocess.Popen[str]:
    """Start the launcher on a stage file."""
    paths = [str(TOY), *(path for path in sys.path if path)]
    return subprocess.Popen(
        [python, *interpreter, str(write(file))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launch(file: StageFile, *, python: str = sys.executable, **environment: str) -> tuple[int, str]:
    """Run the launcher to its end: exit code and output."""
    process = start(file, python=python, **environment)
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output
