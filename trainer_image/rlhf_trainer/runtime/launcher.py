"""`rlhf-stage STAGE.json`: PID 1 of a pod, or a process of the local runner. Starts the ranks and answers for them.

One exit code comes out, whatever the ranks do: see `rlhf_trainer.exits`. It is 0 only when the product is in place.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import orjson
from pydantic import ValidationError

from rlhf_api import contract
from rlhf_api.gpus import has_gpu
from rlhf_api.stage_file import STAGE_FILE_VERSION, StageFile
from rlhf_api.stages import PREPARE, SINGLE_PROCESS_STAGES
from rlhf_api.store import Product, free_work, name_product
from rlhf_api.utf8 import use_utf8
from rlhf_trainer import deepspeed_ops
from rlhf_trainer.exits import (
    DONE,
    FAILURE,
    GuardTripped,
    InputError,
    StageError,
    Stopped,
    explain_full_disk,
    severity,
    validation_message,
)
from rlhf_trainer.runtime.rank_env import log_path
from rlhf_trainer.runtime.supervisor import Ranks
from rlhf_trainer.runtime.termination import StageResult, of_error, write_summary
from rlhf_trainer.stages import STAGES
from rlhf_trainer.stopping import StopRequest
from rlhf_trainer.storage import products
from rlhf_trainer.storage.adoption import adopt
from rlhf_trainer.storage.lock import Holder, acquire

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""Time between SIGTERM and SIGKILL of the ranks, enough for a checkpoint; RLHF_GRACE_SECONDS sets another. A pod's
terminationGracePeriodSeconds must be a little longer."""
LOG_FORMAT = "%(asctime)s %(levelname)s launcher: %(message)s"
LOG_BYTES = 1 << 20
"""Of the launcher's log on the storage; the same again of what came before."""
WAITING = "waiting: stage %s of job %s on %s is making %s now; it will be reused"


@dataclass
class Signals:
    """SIGTERM or SIGINT, noticed once."""

    stop: StopRequest

    @classmethod
    def install(cls) -> Signals:
        """From now on both ask the stage to stop."""
        stop = StopRequest()

        def handler(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)
        return cls(stop)


def main(arguments: list[str] | None = None) -> int:
    """Run the stage that `stage.json` describes; gives the exit code."""
    if arguments is None:
        use_utf8()
        arguments = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format=LOG_FORMAT)
    signals = Signals.install()
    if len(arguments) != 1:
        log.error("usage: rlhf-stage STAGE.json")
        return InputError.code
    file: StageFile | None = None
    try:
        file = read_stage_file(Path(arguments[0]))
        keep_log(file)
        stage_result = run(file, Path(arguments[0]), signals)
    except StageError as error:
        stage_result = of_error(error)
    except Exception as error:  # noqa: BLE001 - the last resort: logged whole, told in short, never swallowed
        log.error("the launcher failed\n%s", traceback.format_exc())
        stage_result = StageResult(FAILURE, type(error).__name__, str(error) or type(error).__name__)
    if stage_result.code != DONE:
        log.log(severity(stage_result.code), "%s: %s", stage_result.reason, stage_result.message)
    if file is not None:
        lead = node_rank() == 0
        if lead and stage_result.code == DONE and os.environ.get(contract.FREE_WORK):
            free_work(Path(file.directories.work))
        write_summary(file, stage_result, lead=lead)
    return stage_result.code


def read_stage_file(path: Path) -> StageFile:
    """Read and validate stage.json.

    Raises:
        InputError: it cannot be read, is of another version, or has wrong fields.
    """
    try:
        raw = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(
            f"{path}: not readable as JSON ({error}); expected a stage file", reason="InvalidStageFile"
        ) from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != STAGE_FILE_VERSION:
        raise InputError(
            f"{path}: version: found {version!r}; this trainer reads version {STAGE_FILE_VERSION!r}. Use the image that "
            "belongs to the operator or command that wrote the file.",
            reason="UnknownVersion",
        )
    try:
        file = StageFile.model_validate_json(orjson.dumps(raw))
    except ValidationError as error:
        raise InputError(f"{path}: {validation_message(error)}", reason="InvalidStageFile") from error
    if file.type not in STAGES:
        raise InputError(
            f"{path}: type: found {file.type!r}; this trainer knows {', '.join(sorted(STAGES))}. Use an image that has "
            "the type.",
            reason="UnknownStageType",
        )
    return file


def node_rank() -> int:
    """Which pod of the gang this is."""
    return int(os.environ.get("JOB_COMPLETION_INDEX") or os.environ.get("NODE_RANK") or 0)


def keep_log(file: StageFile) -> None:
    """In a pod, leave the launcher's own lines beside the ranks' logs, for when the pod is gone; the local runner keeps
    them itself. Not this process's whole output: that has rank 0's log, which is on the storage already.
    """
    if file.directories.termination_message is None:
        return
    node = node_rank()
    first = log_path(Path(file.directories.work), file.attempt, 0)
    path = first.with_name(f"launcher{node or ''}.log")
    with explain_full_disk(path.parent, "opening the log"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)


def run(file: StageFile, path: Path, signals: Signals) -> StageResult:
    """Reuse the product, or wait for the run that makes it, or make it."""
    storage = Path(file.directories.storage)
    work = Path(file.directories.work)
    with explain_full_disk(work, "starting the stage"):
        work.mkdir(parents=True, exist_ok=True)
        if node_rank() == 0:
            products.raise_fence(file)
    if file.type == PREPARE:  # makes no product, and looks for everyone else's itself
        return run_ranks(file, path, signals)
    name = products.product_name(file)
    if node_rank() != 0:
        product, _ = products.look(storage, name)
        return run_ranks(file, path, signals) if product is None else reused(product)
    name_product(file, name)  # before it is made: what no run names can be freed
    while True:
        product, damaged = products.look(storage, name)
        if product is not None:
            return reused(product)
        lease = acquire(
            storage / "locks" / name,
            Holder.me(file),
            done=partial(products.put_since, storage, name, damaged),
            waiting=lambda holder: log.info(WAITING, holder.stage, holder.job, holder.host, name),
            pause=signals.stop.wait,
        )
        if lease is not None:
            with lease:
                return make(file, path, signals)
        if signals.stop.is_set():
            raise Stopped(f"stopped on request while waiting for the run that makes {name}")


def make(file: StageFile, path: Path, signals: Signals) -> StageResult:
    """Make the product, as the holder of its lock."""
    storage, name = Path(file.directories.storage), products.product_name(file)
    product = products.reusable(storage, name)  # put in place, or damaged, before the lock was ours
    if product is not None:
        return reused(product)
    if file.type not in SINGLE_PROCESS_STAGES:
        adopt(file)
    stage_result = run_ranks(file, path, signals)
    if stage_result.code == DONE and products.inode(storage, name) is None:
        raise StageError(
            f"every rank ended well but {storage / 'products' / name} is not there: the stage's code never called "
            "context.publish",
            reason=contract.NO_PRODUCT,
        )
    return stage_result


def reused(product: Product) -> StageResult:
    """The product was there, verified.

    Raises:
        GuardTripped: it says that its stage failed: a gate was not kept.
    """
    name = product.path.name
    if product.manifest.failure is not None:
        raise GuardTripped(product.manifest.failure, reason=contract.GATE_FAILED)
    log.info("product %s exists and is what was made: reused", name)
    return StageResult(DONE, contract.REUSED, f"product {name} exists and was verified")


def run_ranks(file: StageFile, path: Path, signals: Signals) -> StageResult:
    """Start the ranks and wait for them."""
    if signals.stop.is_set():
        raise Stopped("stopped on request before it started")
    if file.type not in SINGLE_PROCESS_STAGES and not has_gpu():
        deepspeed_ops.build_once()
    return Ranks(file, path, node_rank()).run(signals.stop, grace_seconds())


def grace_seconds() -> float:
    """Seconds between SIGTERM and SIGKILL."""
    return float(os.environ.get(contract.GRACE_SECONDS) or GRACE_SECONDS)
