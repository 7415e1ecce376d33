"""DeepSpeed's C++ op for collectives on the CPU: built once, before any rank starts.

DeepSpeed compiles it on first use, in every rank at once, and a missing compiler shows as a traceback in each of them. Here
the launcher looks for the tools first and says what is missing, and builds under a lock that the kernel releases when the
builder is killed; ranks then find the finished library.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from rlhf_trainer.exits import InputError, StageError

log = logging.getLogger(__name__)

OP = "deepspeed_shm_comm"


def cache() -> Path:
    """Where built ops lie: one folder for each environment and its versions of Python, torch and DeepSpeed.

    The environment's place counts: ninja would build the op anew for another one's headers, in every rank.
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
    return cache() / OP / f"{OP}.so"


def put_tools_on_path() -> None:
    """Let ninja be found where pip put it, beside the interpreter, also when the environment is not activated."""
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])


def build_once() -> None:
    """Build the op unless it is there. Waits for another process that builds it.

    Raises:
        InputError: a compiler or ninja is missing.
        StageError: the build failed.
    """
    put_tools_on_path()
    folder = cache()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    if (folder / "built").exists() and library().exists():
        if not os.access(folder / OP, os.W_OK):  # an image's: torch locks it to load it
            os.environ["TORCH_EXTENSIONS_DIR"] = str(_copied(folder))
        return
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
        if (folder / "built").exists() and library().exists():
            return
        missing = [tool for tool in (os.environ.get("CXX", "g++"), "ninja") if shutil.which(tool) is None]
        if missing:
            raise InputError(
                f"{' and '.join(missing)} not found on PATH: DeepSpeed builds its CPU communication op once. Install a "
                "C++ compiler (Debian, Ubuntu: apt install g++) and ninja (pip install ninja).",
                reason="MissingCompiler",
            )
        shutil.rmtree(
            folder / OP, ignore_errors=True
        )  # what a killed build left, the lock file of an older torch among it
        log.info("building DeepSpeed's CPU communication op, once; about half a minute")
        _build(folder)
        (folder / "built").touch()


def _copied(folder: Path) -> Path:
    """A copy in a folder of this process's own, times and all: by them it is known to be up to date.

    Never one that is found in the place for temporary files: anyone may have put a library there.
    """
    target = Path(tempfile.mkdtemp(prefix="rlhf-ops-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def _build(folder: Path) -> None:
    code = "from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder as B; B().jit_load(verbose=False)"
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(folder), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise StageError(f"DeepSpeed's CPU communication op could not be built:\n{tail}", reason="BuildFailed")


if __name__ == "__main__":  # an image or a set-up builds it beforehand
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build_once()
