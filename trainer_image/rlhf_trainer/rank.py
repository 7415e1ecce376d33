"""One rank of a stage: `python -m rlhf_trainer.rank STAGE.json`, started by the launcher.

Sets up the process (log file, signals, devices, torch.distributed), runs the stage's function, and leaves a result
file, `ranks/a<attempt>/rank<R>.json`, that says how it ended.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import orjson

from rlhf_api.stage_file import StageFile
from rlhf_api.store import write_atomically
from rlhf_trainer.definitions import headline
from rlhf_trainer.exits import DONE, FAILURE, StageError, Stopped
from rlhf_trainer.place import Place, log_path, result_path
from rlhf_trainer.stages import LIGHT, resolve

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    """Run one rank; gives its exit code."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    file = StageFile.model_validate_json(Path(path).read_bytes())
    place = Place.of(os.environ)
    work = Path(file.directories.work)
    die_with_parent()
    redirect_output(log_path(work, file.attempt, place.rank))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    result: dict[str, Any] = {}
    try:
        run(file, place, work, result)
        ended: dict[str, Any] = {"code": DONE, "reason": "Done", "message": "done"}
    except StageError as error:
        log.error("%s: %s", error.reason, error)
        ended = {"code": error.code, "reason": error.reason, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - the last resort: logged whole, told in short, never swallowed
        log.error("failed\n%s", traceback.format_exc())
        ended = {"code": FAILURE, "reason": type(error).__name__, "message": crash_message(error)}
    target = result_path(work, file.attempt, place.rank)
    write_atomically(target, orjson.dumps({**result, **ended, "rank": place.rank, "time": time.time()}))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended["code"])  # libraries' exit handlers wait for ranks that are gone


def run(file: StageFile, place: Place, work: Path, result: dict[str, Any]) -> None:
    """Set the process up and run the stage's function."""
    light = file.type in LIGHT
    stop = threading.Event()
    catch_signals(stop, at_once=light)
    function = resolve(file.type)
    from rlhf_trainer.session import Session  # torch, only now: signals and the log are in place while it loads

    with Session(file, place, work, stop, light=light) as context:
        try:
            function(context)
        finally:
            result["step"] = context.progress.snapshot()["step"]
            result["result"] = context.result
            context.metrics.close()
            result["headline"] = headline(context.metrics.latest)


def catch_signals(stop: threading.Event, *, at_once: bool) -> None:
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


def crash_message(error: BaseException) -> str:
    """The exception and the last line of code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, {frames[-1].name})" if frames else ""
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text}{where}"


if __name__ == "__main__":
    sys.exit(main())
