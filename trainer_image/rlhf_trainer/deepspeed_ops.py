"""DeepSpeed's C++ op for collectives on the CPU: built once, before any rank starts.

DeepSpeed compiles it on first use, in every rank at once, and a missing compiler shows as a traceback in each of them. Here
the launcher looks for the tools first and says what is missing, and builds under a lock that the kernel releases when the
builder is killed; ranks then load the finished library. Only that is kept: what ninja notes beside it are times, by which
DeepSpeed would ask again whether it is up to date, and no two images would be the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from rlhf_trainer.exits import InputError, StageError

log = logging.getLogger(__name__)

OP = "deepspeed_shm_comm"


def cache() -> Path:
    """Where built ops lie: one folder for each environment and its versions of Python, torch and DeepSpeed.

    The environment's place counts: the op is linked to its torch.
    """
    base = os.environ.get("RLHF_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    tags = (
        sys.implementation.cache_tag,
        f"torch{metadata.version('torch')}",
        f"deepspeed{metadata.version('deepspeed')}",
        hashlib.sha256(sys.prefix.encode()).hexdigest()[:12],
    )
    return Path(base) / "rlhf-ops" / "-".join(str(tag) for tag in tags)


def library() -> Path:
    """The built op."""
    return cache() / f"{OP}.so"


def put_tools_on_path() -> None:
    """Let ninja be found where pip put it, beside the interpreter, also when the environment is not activated."""
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])


def build_once() -> None:
    """Build the op unless it is there. Waits for another process that builds it.

    It uses what only Linux has: elsewhere DeepSpeed does without, and so does this.

    Raises:
        InputError: a compiler or ninja is missing.
        StageError: the build failed.
    """
    if library().exists() or sys.platform != "linux":
        return
    folder = cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); DeepSpeed's CPU communication op is built there once. Set "
            "RLHF_CACHE to a folder that can.",
            reason="CacheNotWritable",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library().exists():
            return
        put_tools_on_path()
        missing = [tool for tool in (os.environ.get("CXX", "g++"), "ninja") if shutil.which(tool) is None]
        if missing:
            raise InputError(
                f"{' and '.join(missing)} not found on PATH: DeepSpeed builds its CPU communication op once. Install a "
                "C++ compiler (Debian, Ubuntu: apt install g++) and ninja (pip install ninja).",
                reason="MissingCompiler",
            )
        log.info("building DeepSpeed's CPU communication op, once; about half a minute")
        making = folder / "making"
        shutil.rmtree(making, ignore_errors=True)  # what a killed build left
        _build(making)
        (making / OP / library().name).replace(library())
        shutil.rmtree(making)


def load() -> None:
    """Give this process's DeepSpeed the built op."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    build_once()
    if OP in OpBuilder._loaded_ops or not library().exists():
        return
    spec = importlib.util.spec_from_file_location(OP, library())
    assert spec is not None and spec.loader is not None, f"{library()} is named like a module"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    OpBuilder._loaded_ops[OP] = module


def _build(folder: Path) -> None:
    """Build it there."""
    folder.mkdir()
    code = "from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder as B; B().jit_load(verbose=False)"
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(folder), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise StageError(f"DeepSpeed's CPU communication op could not be built:\n{tail}", reason="BuildFailed")


if __name__ == "__main__":  # an image or a set-up builds it beforehand
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build_once()
