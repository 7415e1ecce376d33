"""Whether a job's inputs and functions are fit for their uses: what `prepare` checks, and a local check before it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_api.capability import ModelTraits, problems, words
from rlhf_api.job import Input, RLHFJob
from rlhf_api.plan import ResolvedInput
from rlhf_api.termination_codec import function_names
from rlhf_trainer import functions
from rlhf_trainer.data.checks import FirstRows, LoadedReader, check_of, readers_of_text
from rlhf_trainer.data.conversion import Check
from rlhf_trainer.data.limited import Limited
from rlhf_trainer.exits import InputError
from rlhf_trainer.inspection.pages import page_problem
from rlhf_trainer.inspection.probes import probe
from rlhf_trainer.inspection.rows import inspect_rows
from rlhf_trainer.inspection.together import few_prompts, misfits
from rlhf_trainer.inspection.uses import AnyUse, AuditUse, DataUse, FunctionUse, ModelUse, PolicyUse, SuiteUse, uses
from rlhf_trainer.lean_imports import import_without_torch
from rlhf_trainer.rules.parser import read_policy
from rlhf_trainer.simulation.audits import read_answers
from rlhf_trainer.sources.fetch import Fetched


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
        most: Rows of an input's use that chat templates are asked about; by default all, and texts are measured too.

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
    if not findings.problems:
        tell("texts of the rows")
        _probe(job, findings, measure=most is None)
    return findings


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
    suites = [use for use in job_uses if isinstance(use, SuiteUse) and use.input == entry.name]
    if suites:
        provenance["kind"] = "task"
    if not rows and not models and not policies and not audits and not suites:
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


def _probe(job: RLHFJob, findings: Findings, *, measure: bool) -> None:
    """What the texts of rows that could be read are like, and which prompts evaluate although they trained."""
    probes = probe(job, {name: Path(entry.path) for name, entry in findings.inputs.items()}, measure=measure)
    for name, quality in probes.quality.items():
        findings.provenance[name]["quality"] = quality
    for name, overlaps in probes.twins.items():
        findings.provenance[name]["twins"] = overlaps
        findings.warnings += [
            f"{twins['where']}: {twins['text']}" for twins in overlaps if twins["exact"] + twins["near"]
        ]


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
