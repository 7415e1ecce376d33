"""`prepare`: fetch every input once, check that it is fit for its use, find what is there already. On CPU, first.

Leaves in its work folder:

- `resolved.json`: digest and path of each input, digest of each function, stages whose product exists
  (`rlhf_api.plan.Resolved`);
- `provenance.json`: by input, what the report tells of it: source, commit, licence, kind, format, counts, what its texts
  are like (`quality`), and prompts that evaluate although training reads them (`twins`);

and in the storage the run's index, so that nothing it uses is collected as garbage from here on; until then it holds
`rlhf gc` off.

All that is wrong is told at once, in one message, exit code 2.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from rlhf_api.job import RLHFJob
from rlhf_api.plan import Resolved, plan
from rlhf_api.stages import SINGLE_PROCESS_STAGES
from rlhf_api.store import Run, gc_lock, write_atomically, write_resolved, write_run
from rlhf_api.termination_codec import compact, function_names
from rlhf_trainer.exits import InputError
from rlhf_trainer.sources.fetch import fetch
from rlhf_trainer.stages.examine import examine
from rlhf_trainer.storage import products

if TYPE_CHECKING:
    from rlhf_trainer.context import LightContext

log = logging.getLogger(__name__)

RESOLVED = "resolved.json"
PROVENANCE = "provenance.json"


def run(context: LightContext) -> None:
    """Resolve the job's inputs and functions.

    Raises:
        InputError: something is not fit for its use; the message lists everything found.
        StageError: a source could not be reached now; trying again may help.
    """
    with _no_gc(context):
        _resolve(context)


def _resolve(context: LightContext) -> None:
    job = context.spec(RLHFJob)
    folder = Path(context.file.directories.job)
    total = len(job.spec.inputs) + len(function_names(job)) + 2
    context.progress.start(total, "checks")
    steps = itertools.count()

    def tell(what: str) -> None:
        context.progress.say(what)
        context.progress.advance(next(steps))

    findings = examine(
        job, lambda entry: fetch(entry, context.storage, folder), folder, context.storage / "inputs", tell
    )
    for note in (*findings.notes, *findings.warnings):
        log.warning("%s", note)
    if findings.problems:
        raise InputError(_message(findings.problems))
    context.progress.say("looking for products")
    resolved = Resolved(findings.inputs, findings.functions)
    resolved = dataclasses.replace(resolved, hits=hits(job, resolved, context.storage))
    write_atomically(context.work / PROVENANCE, orjson.dumps(findings.provenance, option=orjson.OPT_INDENT_2))
    write_resolved(context.work / RESOLVED, resolved)
    write_run(context.storage, index(context, job, resolved))
    context.result.update(compact(job, resolved))
    context.progress.advance(total)


def hits(job: RLHFJob, resolved: Resolved, storage: Path) -> tuple[str, ...]:
    """Stages whose product exists, every byte of it verified; damaged ones are moved aside, failed gates are none."""
    names = []
    for stage in plan(job, resolved).stages:
        if stage.type in SINGLE_PROCESS_STAGES or stage.product is None:
            continue
        product = products.reusable(storage, stage.product)
        if product is not None and product.manifest.failure is None:
            names.append(stage.name)
    return tuple(names)


def index(context: LightContext, job: RLHFJob, resolved: Resolved) -> Run:
    """Which inputs and products the run uses, made or about to be."""
    file = context.file
    return Run(
        job=file.job,
        namespace=file.namespace,
        uid=file.uid,
        started=time.time(),
        inputs={name: entry.digest for name, entry in resolved.inputs.items()},
        products={stage.name: stage.product for stage in plan(job, resolved).stages if stage.product is not None},
        spec=job.spec.model_dump(mode="json", exclude_none=True),
    )


@contextmanager
def _no_gc(context: LightContext) -> Iterator[None]:
    """Until the index names what is found here, it stays."""
    path = gc_lock(context.storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)  # to read: it may be another user's
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            context.progress.say("waiting for rlhf gc")
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _message(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    listed = "\n".join(f"- {problem}" for problem in problems)
    return f"{len(problems)} problems:\n{listed}"
