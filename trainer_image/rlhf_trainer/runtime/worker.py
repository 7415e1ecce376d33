"""One rank of a stage: `python -m rlhf_trainer.runtime.worker STAGE.json`, started by the launcher.

Sets up the process (log file, signals, devices, torch.distributed), runs the stage's function, and leaves a result
file, `ranks/a<attempt>/rank<R>.json`, that says how it ended.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import orjson

from rlhf_api.gpus import has_gpu
from rlhf_api.stage_file import StageFile
from rlhf_api.stages import SINGLE_PROCESS_STAGES
from rlhf_trainer import functions, lean_imports
from rlhf_trainer.exits import DONE, FAILURE, StageError, Stopped, explain_full_disk, severity
from rlhf_trainer.runtime.rank_env import RankEnv, log_path, result_path
from rlhf_trainer.runtime.termination import LESS_MEMORY
from rlhf_trainer.stages import resolve
from rlhf_trainer.stopping import StopRequest
from rlhf_trainer.telemetry.catalog import headline

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
RESULT_BYTES = 16384
"""Room for a rank's result file."""


def main(arguments: list[str] | None = None) -> int:
    """Run one rank; gives its exit code."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    file = StageFile.model_validate_json(Path(path).read_bytes())
    rank_env = RankEnv.of(os.environ)
    work = Path(file.directories.work)
    die_with_parent()
    redirect_output(log_path(work, file.attempt, rank_env.rank))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    result = result_path(work, file.attempt, rank_env.rank)
    report: dict[str, Any] = {}
    try:
        with explain_full_disk(work, "starting a rank"):
            reserve(result)
        run(file, rank_env, work, report)
        ended: dict[str, Any] = {"code": DONE, "reason": "Done", "message": "done"}
    except StageError as error:
        log.log(severity(error.code), "%s: %s", error.reason, error)
        ended = {"code": error.code, "reason": error.reason, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - the last resort: logged whole, told in short, never swallowed
        log.error("failed\n%s", traceback.format_exc())
        ended = {"code": FAILURE, "reason": crash_reason(error), "message": crash_message(error)}
    fill(result, {**report, **ended, "rank": rank_env.rank, "time": time.time()})
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended["code"])  # libraries' exit handlers wait for ranks that are gone


def run(file: StageFile, rank_env: RankEnv, work: Path, report: dict[str, Any]) -> None:
    """Set the process up and run the stage's function; `report` takes step, headline and result, also of a failure."""
    light = file.type in SINGLE_PROCESS_STAGES
    stop = StopRequest()
    catch_signals(stop, at_once=light)
    # Libraries are imported only now: signals and the log are in place while they load.
    with lean_imports.absent(*unused(file)), lean_imports.uncollected():
        function = resolve(file.type)
        from rlhf_trainer.runtime.session import WorkerRuntime

    with WorkerRuntime(file, rank_env, work, stop, light=light) as context:
        try:
            function(context)
        finally:
            report["step"] = context.progress.snapshot()["step"]
            report["result"] = context.result
            context.metrics.close()
            report["headline"] = headline(context.metrics.latest)


def unused(file: StageFile) -> tuple[str, ...]:
    """Packages that the stage's libraries are not to find while they are imported.

    Raises:
        InputError: a user's function that the stage calls has no source.
    """
    if file.type in SINGLE_PROCESS_STAGES:
        return ()
    folder = Path(file.directories.job)
    if any(functions.packages(name, folder) for name in functions.names(file.spec)):
        return ()  # it may use any of them
    return lean_imports.UNUSED if has_gpu() else (*lean_imports.UNUSED, *lean_imports.OF_GPUS)


def catch_signals(stop: StopRequest, *, at_once: bool) -> None:
    """On SIGTERM or SIGINT, ask the loop to stop after its step; a light stage, which has no steps, ends at once."""

    def handler(number: int, _frame: FrameType | None) -> None:
        stop.set()
        if at_once:
            raise Stopped(f"stopped on request ({signal.Signals(number).name}); it starts from the beginning again")

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def die_with_parent() -> None:
    """Have the kernel kill this rank when the launcher dies: an orphan would train on (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def redirect_output(path: Path) -> None:
    """Send standard output and error to the rank's log, also what libraries write below Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def reserve(path: Path) -> None:
    """Take the room for the result file now: on a full disk it could not be written, and nobody would know why."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b" " * RESULT_BYTES)


def fill(path: Path, result: dict[str, Any]) -> None:
    """Write the result in place, into the reserved room."""
    content = orjson.dumps(result)
    if len(content) > RESULT_BYTES:
        content = orjson.dumps({**result, "message": result["message"][:1000], "result": {}, "headline": {}})
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(content.ljust(RESULT_BYTES))


def crash_message(error: BaseException) -> str:
    """The exception and the last line of code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, {frames[-1].name})" if frames else ""
    text = str(error).strip() or "no message"
    advice = f". {LESS_MEMORY}" if crash_reason(error) == "OutOfMemory" else ""
    return f"{type(error).__name__}: {text}{where}{advice}"


def crash_reason(error: BaseException) -> str:
    """One word: `OutOfMemory` whichever library says so, else the exception's name."""
    signs = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    exhausted = isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
    return "OutOfMemory" if exhausted else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
