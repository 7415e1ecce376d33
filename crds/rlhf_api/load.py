"""From a job file to an RLHFJob with its repeats written out, with every problem found at once and where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf_api.error_messages import describe, findings_of, hint_for_nothing
from rlhf_api.errors import Finding, Loc, SpecError, SpecProblem, format_path
from rlhf_api.expansion import expand, written_at
from rlhf_api.job import RLHFJob
from rlhf_api.references import check, check_partial
from rlhf_api.yaml import MAX_BYTES, Document, dump_yaml, load_yaml
from rlhf_api.yaml_nodes import MAX_DEPTH, MAX_VALUES

SHOWN = 6
"""Steps of a path into something too deep that are shown."""


def load_job(source: Path | str | bytes) -> RLHFJob:
    """Read and check a job: a file by its Path, or its text.

    Raises:
        SpecError: with every problem, its path, line and column.
    """
    return read_job(source)[0]


def read_job(source: Path | str | bytes, name: str | None = None) -> tuple[RLHFJob, Document]:
    """As `load_job`, with the document, which knows where each path stands.

    Args:
        source: a file by its Path, or its text.
        name: what messages call the file; by default its path.
    """
    document = read_document(source, name)
    return check_document(document), document


def check_document(document: Document) -> RLHFJob:
    """The job in a document.

    Raises:
        SpecError: with every problem, those of its YAML among them.
    """
    problems = {problem.path: problem for problem in reversed(document.problems)}
    job, findings = _check(document.value)
    for finding in findings:
        problem = _located(document, finding)
        problems.setdefault(problem.path, problem)
    if job is None or problems:
        ordered = sorted(problems.values(), key=lambda problem: (problem.line or 0, problem.column or 0, problem.path))
        raise SpecError(ordered, document.source)
    return job


def located(document: Document, finding: Finding) -> SpecProblem:
    """A finding about a job that was loaded, with the line and column of its place in the document as it was written."""
    return _located(document, replace(finding, at=written_at(document.value, finding.at)))


def _located(document: Document, finding: Finding) -> SpecProblem:
    line, column = document.position(finding.at, on_key=finding.on_key)
    return SpecProblem(format_path(finding.at), finding.message, finding.hint, line, column)


def read_document(source: Path | str | bytes, name: str | None = None) -> Document:
    """The YAML of a file or text.

    Raises:
        SpecError: the file cannot be read, or is no YAML document.
    """
    if not isinstance(source, Path):
        return load_yaml(source, name)
    label = name or str(source)
    try:
        with source.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        reason = getattr(error, "strerror", None) or error
        raise SpecError([SpecProblem("", f"cannot be read: {reason}")], label) from error
    return load_yaml(content, label)


def parse_job(value: Any) -> RLHFJob:
    """Check a job that is no file: an object from the API server, a dict.

    Raises:
        SpecError: with every problem and its path.
    """
    job, findings = _check(value)
    if job is None or findings:
        unique = {format_path(finding.at): finding for finding in reversed(findings)}
        raise SpecError([SpecProblem(path, finding.message, finding.hint) for path, finding in sorted(unique.items())])
    return job


def job_to_dict(job: RLHFJob) -> dict[str, Any]:
    """The job as it would be written: defaults left out."""
    return job.model_dump(mode="json", exclude_defaults=True)


def dump_job(job: RLHFJob) -> str:
    """The job as YAML that `load_job` reads back as an equal job, and kubectl as the same object."""
    return dump_yaml(job_to_dict(job))


def _check(value: Any) -> tuple[RLHFJob | None, list[Finding]]:
    """The job, if it is one, and what is wrong with it."""
    if not isinstance(value, dict):
        return None, [
            Finding(
                (), f"found {describe(value)}; expected an RLHFJob: a mapping with apiVersion, kind, metadata, spec"
            )
        ]
    deep = _too_deep(value.get("spec"))
    if deep is not None:
        return None, [Finding(("spec", *deep), f"nested more than {MAX_DEPTH} deep; no field is")]
    large = _too_large(value.get("spec"))
    if large is not None:
        return None, [Finding(("spec",), large, "data belongs in files of its own, named as inputs")]
    nulls = _nulls(value["spec"], ("spec",)) if "spec" in value else []
    clean: dict[str, Any] = value | {"spec": _without_nulls(value["spec"])} if nulls else value
    try:
        job = RLHFJob.model_validate(clean)
    except ValidationError as error:
        findings = nulls + findings_of(error, RLHFJob)
    else:
        crossing = [finding.below(("spec",)) for finding in check(job.spec)]
        if crossing:
            return None, nulls + crossing
        expanded = expand(job)
        if expanded is not job:  # what its members are told apart by: gates on their judges, audits of them
            below = [finding.below(("spec",)) for finding in check(expanded.spec)]
            crossing = [replace(finding, at=written_at(clean, finding.at)) for finding in below]
        return (None if crossing else expanded), nulls + crossing
    if isinstance(clean.get("spec"), dict):
        findings += [finding.below(("spec",)) for finding in check_partial(clean["spec"])]
    return None, [finding for finding in findings if not any(_inside(null.at, finding.at) for null in nulls)]


def _inside(loc: Loc, prefix: Loc) -> bool:
    """Whether a path leads into another: what is wrong there may follow from the missing value."""
    return len(loc) > len(prefix) and loc[: len(prefix)] == prefix


def _too_deep(value: Any) -> Loc | None:
    """Where a value is that holds too many levels: the first few steps to it. Without recursion, of which they may be
    thousands."""
    level: list[tuple[Loc, Any]] = [((), value)]
    for _ in range(MAX_DEPTH):
        level = [
            ((*loc, key) if len(loc) < SHOWN else loc, inner)
            for loc, holder in level
            for key, inner in _entries(holder)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return None
    return level[0][0]


def _too_large(value: Any) -> str | None:
    """In words: the bounds of a job's file hold for a spec that comes by another way, too."""
    count = length = 0
    waiting = [value]
    while waiting and count <= MAX_VALUES and length <= MAX_BYTES:
        item = waiting.pop()
        count += 1
        if isinstance(item, str):
            length += len(item)
        elif isinstance(item, dict | list):
            waiting += item.values() if isinstance(item, dict) else item
            keys = list(item) if isinstance(item, dict) else []
            count += len(keys)
            length += sum(len(str(key)) for key in keys)
    if count > MAX_VALUES:
        return f"found more than {MAX_VALUES} keys and values"
    return f"found more than {MAX_BYTES} characters of text" if length > MAX_BYTES else None


def _entries(holder: Any) -> Iterable[tuple[Any, Any]]:
    return holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()


def _nulls(value: Any, loc: Loc) -> list[Finding]:
    """Explicit nulls: the API server refuses them, or drops them for a default, where no value is meant."""
    if value is None:
        return [Finding(loc, "found nothing; expected a value", hint_for_nothing(RLHFJob, loc))]
    if isinstance(value, dict):
        return [null for key, item in value.items() for null in _nulls(item, (*loc, key))]
    if isinstance(value, list):
        return [null for index, item in enumerate(value) for null in _nulls(item, (*loc, index))]
    return []


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
