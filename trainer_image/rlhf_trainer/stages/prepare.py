"""`prepare`: fetch every input once, check that it is fit for its use, find what is there already. On CPU, first.

Leaves in its work folder:

- `resolved.json`: digest and path of each input, digest of each function, stages whose product exists
  (`rlhf_api.plan.Resolved`);
- `provenance.json`: by input, what the report tells of it: source, commit, licence, kind, format, counts;

and in the storage the run's index, so that nothing it uses is collected as garbage from here on; until then it holds
`rlhf gc` off.

All that is wrong is told at once, in one message, exit code 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from rlhf_api.capability import ModelTraits, problems, words
from rlhf_api.job import Input, RLHFJob
from rlhf_api.plan import Resolved, ResolvedInput, plan
from rlhf_api.stages import PREPARE, REPORT
from rlhf_api.store import Run, gc_lock, write_atomically, write_resolved, write_run
from rlhf_api.termination_codec import compact, function_names
from rlhf_trainer import functions
from rlhf_trainer.data.checks import FirstRows, LoadedReader, check_of, readers_of_text
from rlhf_trainer.data.limited import Limited
from rlhf_trainer.data.load import Check
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.pages import page_problem
from rlhf_trainer.inspection.rows import inspect_rows
from rlhf_trainer.inspection.together import few_prompts, misfits
from rlhf_trainer.inspection.uses import AnyUse, AuditUse, DataUse, FunctionUse, ModelUse, PolicyUse, uses
from rlhf_trainer.lean_imports import import_without_torch
from rlhf_trainer.rules.parser import read_policy
from rlhf_trainer.simulation.audits import read_answers
from rlhf_trainer.sources.fetch import Fetched, fetch
from rlhf_trainer.storage import products

if TYPE_CHECKING:
    from rlhf_trainer.context import LightContext

log = logging.getLogger(__name__)

RESOLVED = "resolved.json"
PROVENANCE = "provenance.json"


@dataclass
class Findings:
    """What is known so far."""

    inputs: dict[str, ResolvedInput] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokenizers: dict[str, Any] = field(default_factory=dict)
    """Of inputs that are models, prepared."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What will work, but perhaps not as it was meant."""
    prompts: dict[str, int] = field(default_factory=dict)
    """Different prompts by use."""
    partial: list[str] = field(default_factory=list)
    """What was looked at in part, and in what part."""


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
    total = len(job.spec.inputs) + len(function_names(job)) + 1
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


def examine(
    job: RLHFJob,
    get: Callable[[Input], Fetched | None],
    folder: Path,
    cache: Path,
    tell: Callable[[str], None],
    most: int | None = None,
) -> Findings:
    """Check every input and function for its uses.

    Args:
        job: A valid job.
        get: Gives an input; None: it is not looked at. InputErrors that it raises are problems of the job.
        folder: The job file's, where functions are looked up.
        cache: Where tokenizers of GGUF files are kept.
        tell: Is told what comes next.
        most: Rows of an input's use that chat templates are asked about; by default all.

    Raises:
        StageError: what `get` raises else.
    """
    job_uses = uses(job)
    findings = Findings()
    for name in function_names(job):  # first: what they import, perhaps torch, they get whole (lean_imports)
        tell(f"function {name}")
        with _collected(findings, _where(job_uses, name)):
            _take_function(findings, name, folder)
    of_functions, findings.problems = findings.problems, []
    models = {use.input for use in job_uses if isinstance(use, ModelUse)}
    for entry in sorted(job.spec.inputs, key=lambda entry: entry.name not in models):  # rows are checked with models
        tell(f"input {entry.name}")
        with _collected(findings, f"input {entry.name}"):
            page = page_problem(entry.source, [use for use in job_uses if getattr(use, "input", None) == entry.name])
            if page is not None:
                raise InputError(page)
            fetched = get(entry)
            if fetched is not None:
                _take_input(findings, entry, fetched, job_uses, most)
    findings.problems.extend(of_functions)
    findings.problems.extend(_unfit(job, findings))
    findings.warnings.extend(few_prompts(job, findings.prompts))
    if not findings.problems and len(findings.inputs) == len(job.spec.inputs):
        findings.problems.extend(_tokenizers(job, findings, cache))
        findings.problems.extend(misfits(job, findings.inputs))
    return findings


def hits(job: RLHFJob, resolved: Resolved, storage: Path) -> tuple[str, ...]:
    """Stages whose product exists, every byte of it verified; damaged ones are moved aside, failed gates are none."""
    names = []
    for stage in plan(job, resolved).stages:
        if stage.type in (PREPARE, REPORT) or stage.product is None:
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


@contextmanager
def _collected(findings: Findings, where: str) -> Iterator[None]:
    """Go on after wrong input, so that all of it is told at once."""
    try:
        yield
    except InputError as error:
        findings.problems.append(f"{where}: {error}")


def _take_input(findings: Findings, entry: Input, fetched: Fetched, job_uses: list[AnyUse], most: int | None) -> None:
    findings.inputs[entry.name] = ResolvedInput(fetched.digest, str(fetched.path))
    provenance: dict[str, Any] = {
        "source": fetched.source,
        "digest": fetched.digest,
        "commit": fetched.commit,
        "licence": fetched.licence,
        "bytes": fetched.bytes,
        "kind": None,
        "notes": fetched.notes,
    }
    findings.provenance[entry.name] = provenance
    findings.notes.extend(fetched.notes)
    rows = [use for use in job_uses if isinstance(use, DataUse) and use.input == entry.name]
    models = [use for use in job_uses if isinstance(use, ModelUse) and use.input == entry.name]
    if models:
        import_without_torch()  # only where a model is to be read
        from rlhf_trainer.inspection.models import inspect_model

        provenance["kind"] = "model"
        facts = inspect_model(fetched.path, models, entry.template)
        findings.tokenizers[entry.name] = facts.tokenizer
        provenance.update(format=facts.format, architecture=facts.architecture, parameters=facts.parameters)
        findings.notes.extend(f"{entry.name}: {note}" for note in facts.notes)
    if rows:
        provenance["kind"] = "data"
        inspected = inspect_rows(entry, fetched.path, rows, lambda use: _checks(findings, use, most))
        provenance.update(
            format=inspected.format, counts=inspected.counts.as_dict(), examples=inspected.counts.examples
        )
        provenance["unusedColumns"] = inspected.unused
        findings.notes.extend(inspected.notes)
        findings.problems.extend(inspected.problems)
        findings.prompts |= inspected.prompts
    policies = [use for use in job_uses if isinstance(use, PolicyUse) and use.input == entry.name]
    if policies:
        provenance["kind"] = "policy"
        read_policy(fetched.path)
    audits = [use for use in job_uses if isinstance(use, AuditUse) and use.input == entry.name]
    if audits:
        provenance["kind"] = "audit"
        read_answers(fetched.path)
    if not rows and not models and not policies and not audits:
        findings.notes.append(f"{entry.name}: no stage uses this input")


@contextmanager
def _checks(findings: Findings, use: DataUse, most: int | None) -> Iterator[list[Check]]:
    """What the chat templates of the models that read a use's rows say, of its first rows; of models that could be read."""
    readers = [
        LoadedReader(name, findings.tokenizers[name], reading)
        for name, reading in use.readers
        if findings.tokenizers.get(name) is not None
    ]
    with contextlib.ExitStack() as children:
        checks = [
            children.enter_context(Limited(check_of(reader.tokenizer, reader.reading), reader.name))
            for reader in readers_of_text(readers)
        ]
        rows = FirstRows(checks, most)
        yield [rows]
    if checks and most is not None and rows.unchecked:
        findings.partial.append(
            f"{use.input}: chat templates wrote {most} of {most + rows.unchecked} rows ({use.where}); prepare has them write all"
        )


def _take_function(findings: Findings, name: str, folder: Path) -> None:
    findings.functions[name] = functions.source_digest(name, folder)
    functions.probe(functions.load(name, folder))


def _unfit(job: RLHFJob, findings: Findings) -> Iterator[str]:
    """What stages ask of models that could be read and cannot do it."""
    traits: dict[str, ModelTraits] = {}
    for name, provenance in findings.provenance.items():
        if provenance.get("architecture") is not None:
            from rlhf_trainer.inspection.models import traits_of

            with _collected(findings, f"input {name}"):
                model_traits = traits_of(Path(findings.inputs[name].path))
                traits |= {} if model_traits is None else {name: model_traits}
    return (words(job, finding) for finding in problems(job, traits))


def _tokenizers(job: RLHFJob, findings: Findings, cache: Path) -> Iterator[str]:
    from rlhf_trainer.inspection.lineage import template_notes, tokenizer_problems

    @functools.cache
    def load(name: str) -> Any:
        from rlhf_trainer.models.files import load_tokenizer  # slow for GGUF files: only where two models meet

        return load_tokenizer(findings.inputs[name].path, cache)

    wrong = list(tokenizer_problems(job, load))
    yield from wrong
    if not wrong:
        for name, note in template_notes(job, findings.tokenizers.__getitem__):
            findings.notes.append(note)
            findings.provenance[name]["notes"] = [*findings.provenance[name]["notes"], note]


def _where(job_uses: list[AnyUse], name: str) -> str:
    return "; ".join(use.where for use in job_uses if isinstance(use, FunctionUse) and use.name == name)


def _message(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    listed = "\n".join(f"- {problem}" for problem in problems)
    return f"{len(problems)} problems:\n{listed}"
