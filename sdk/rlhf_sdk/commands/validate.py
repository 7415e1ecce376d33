"""`rlhf validate`: is this job right, and will it fit?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.options import Inputs, Output
from rlhf_sdk.exits import Exit
from rlhf_sdk.output import Format, complain, emit, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlhf_api.job import RLHFJob
    from rlhf_sdk.input_check import Opened
    from rlhf_sdk.memory import Needs


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("validate", epilog=EPILOG)(validate)


EPILOG = """\b
Examples:
  rlhf validate job.yaml
  rlhf validate one.yaml other.yaml --output json
  rlhf validate examples/hh-reward.yaml --input prefs=/data/hh.jsonl.gz
  rlhf validate job.yaml --no-open

What lies on this machine is opened, as prepare would: rows with their columns, models, judges, policy files. Functions
are imported and called once. Rows of more than 64 MiB, and what lies elsewhere, are left to prepare, which is said.

Memory is estimated where the model lies on this machine (a path, or a file of an installed package). A stage that
cannot fit here, or an input on a claim, is said but is no error: the job may be meant for another machine.

JSON: {"valid": bool, "machineBytes", "files": [{"file", "valid", "problems": [{"path", "message", "hint", "line",
"column"}], "memory": [{"stage", "ranks", "bytes" (a rank's), "parts": {NAME: bytes}, "fits": bool}], "unknown": [why],
"absent": [inputs on claims], "unopened": [what was not looked at, and why], "warnings"}]}.

Exit codes: 0 every file is a valid job; 2 at least one is not."""


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="JOB.YAML...", help="Job files.", show_default=False)],
    inputs: Inputs = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no data, models and functions.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Check job files without running anything.

    Problems are printed as file:line:column: path: message (hint), one a line.
    """
    from rlhf_sdk.memory import machine_memory

    machine = machine_memory()
    entries = [_check(path, inputs or [], machine, opening=not no_open, talk=output is Format.TEXT) for path in files]
    valid = all(entry["valid"] for entry in entries)
    if output is Format.JSON:
        emit({"valid": valid, "machineBytes": machine, "files": entries})
    if not valid:
        raise typer.Exit(int(Exit.INVALID))


def _check(path: Path, inputs: Sequence[str], machine: int, *, opening: bool, talk: bool) -> dict[str, Any]:
    from rlhf_api.errors import SpecError
    from rlhf_sdk import jobs
    from rlhf_sdk.memory import needs

    names = ("path", "message", "hint", "line", "column")
    entry: dict[str, Any] = {"file": str(path), "valid": False, "problems": []}
    entry |= {"memory": [], "unknown": [], "absent": [], "unopened": [], "warnings": []}
    try:
        job, opened = _read(path, inputs, opening=opening)
    except SpecError as error:
        if talk:
            complain(str(error))
        return entry | {"problems": [{name: getattr(problem, name) for name in names} for problem in error.problems]}
    estimates = needs(job, path.resolve().parent)
    missing = jobs.absent(job, path.resolve().parent)
    absent = [f"input {job.spec.inputs[index].name} is not here: {why}" for index, why in missing.items()]
    if talk:
        _tell(path, estimates, absent, opened, machine)
    memory = [
        {
            "stage": need.stage,
            "ranks": need.ranks,
            "bytes": need.bytes,
            "parts": dict(need.parts),
            "fits": need.total <= machine,
        }
        for need in estimates.stages
    ]
    return entry | {
        "valid": True,
        "memory": memory,
        "unknown": list(estimates.unknown),
        "absent": absent,
        "unopened": opened.unopened,
        "warnings": opened.warnings,
    }


def _read(path: Path, inputs: Sequence[str], *, opening: bool) -> tuple[RLHFJob, Opened]:
    """The job in a file, and what was found in what it names.

    Raises:
        SpecError: it is refused, or what it names is.
    """
    from rlhf_api.capability import check_local, located_words
    from rlhf_api.errors import SpecError
    from rlhf_api.load import located, read_job
    from rlhf_api.sources import parse_source
    from rlhf_sdk import jobs
    from rlhf_sdk.input_check import Opened, open_inputs

    folder = path.resolve().parent
    job, document = read_job(path)
    job = jobs.with_inputs(job, inputs)
    check_local(job, document, folder)
    findings = [
        finding
        for finding in jobs.absent_inputs(job, folder)
        if parse_source(job.spec.inputs[int(finding.at[2])].source).kind == "path"
    ]
    opened = open_inputs(job, folder) if opening else Opened([], [])
    findings += [located_words(job, text) for text in opened.problems]
    if findings:
        raise SpecError(list(dict.fromkeys(located(document, finding) for finding in findings)), document.source)
    return job, opened


def _tell(path: Path, estimates: Needs, absent: list[str], opened: Opened, machine: int) -> None:
    from rlhf_sdk.memory import too_large
    from rlhf_sdk.output import columns
    from rlhf_sdk.text import size

    show(f"{path}: valid")
    if estimates.stages:
        table = columns("  STAGE", "RANKS", "MEMORY A RANK", "MOST OF IT")
        for need in estimates.stages:
            most = ", ".join(f"{name} {size(count)}" for name, count in list(need.parts.items())[:3])
            table.add_row(f"  {need.stage}", str(need.ranks), size(need.bytes), most)
        show(table)
    for why in absent:
        show(f"  {why}")
    if opened.unopened:
        show(f"  not checked: {'; '.join(opened.unopened)}")
    for why in estimates.unknown:
        show(f"  memory not known: {why}")
    for warning in opened.warnings:
        complain(f"{path}: {warning}")
    for need in estimates.stages:
        words = too_large(need, machine)
        if words is not None:
            complain(f"{path}: {words}")
