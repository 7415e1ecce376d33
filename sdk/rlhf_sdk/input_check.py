"""What a job names on this machine, opened: prepare's own checks, in a process of the trainer."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from rlhf_api.job import RLHFJob
from rlhf_api.load import job_to_dict
from rlhf_sdk.local.process import environment

SECONDS = 120
"""After which the checks are given up."""
NEEDED = ("rlhf_trainer", "transformers")


@dataclass(frozen=True)
class Opened:
    """What was found."""

    problems: list[str]
    """As prepare words them."""
    unopened: list[str]
    """What was not looked at, and why."""
    warnings: list[str] = field(default_factory=list)
    """What will work, but perhaps not as it was meant."""


def open_inputs(job: RLHFJob, folder: Path) -> Opened:
    """Check local inputs and functions for their uses; the functions are called once, as prepare does.

    Args:
        job: a valid job.
        folder: the job file's.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return Opened([], [f"inputs and functions: {missing[0]} is not installed here"])
    with tempfile.TemporaryDirectory(prefix="rlhf-validate-") as name:
        work = Path(name)
        (work / "job.json").write_bytes(orjson.dumps(job_to_dict(job)))
        failure = run_checks(folder, work)
        if failure is not None:
            return Opened([], [f"inputs and functions: {failure}"])
        return Opened(**orjson.loads((work / "checked.json").read_bytes()))


def run_checks(folder: Path, work: Path) -> str | None:
    """Run the trainer's checks of `job.json` in the work folder; gives why they did not come to their end."""
    command = (sys.executable, "-m", "rlhf_trainer.local_check", str(folder), str(work))
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=folder,
            env=environment(False, os.environ),
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the checks took more than {SECONDS} s"
    if ended.returncode == 0:
        return None
    last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"the checks ended with exit code {ended.returncode}: {last}"
