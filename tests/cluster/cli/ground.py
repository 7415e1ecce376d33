"""The command as a process, with a real kubectl on its path."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.binaries import program

PATIENCE = 900.0
"""Seconds that something may take on a busy machine: a bound on hanging, never a measure."""


@dataclass
class Said:
    """What a command printed and ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output."""
        return json.loads(self.out)


class Command:
    """`rlhf` of one cluster and namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self._folder = folder
        self._namespace = namespace
        self._environment = {
            **os.environ,
            "PATH": f"{Path(program('kubectl')).parent}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def start(self, *arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
        """Begin."""
        words = [*(str(argument) for argument in arguments), "-n", self._namespace]
        return subprocess.Popen(
            [sys.executable, "-m", "rlhf_sdk.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=self._folder,
            **more,
        )

    def run(self, *arguments: str | Path) -> Said:
        """Run it to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        return Said(process.returncode, out, err)

    async def __call__(self, *arguments: str | Path) -> Said:
        """The same, while other things go on."""
        return await asyncio.to_thread(self.run, *arguments)


def written(folder: Path, job: dict[str, Any]) -> Path:
    """A job file."""
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until it is true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"not so: {what}"
        time.sleep(0.1)
