"""`rlhf validate`: is this job right, and will it fit?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.options import Output
from rlhf_sdk.exits import Exit
from rlhf_sdk.output import Format, complain, emit, show

if TYPE_CHECKING:
    from rlhf_sdk.memory import Needs


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("validate", epilog=EPILOG)(validate)


EPILOG = """\b
Examples:
  rlhf validate job.yaml
  rlhf validate examples/*.yaml --output json

A model that lies on this machine is looked at: what a stage asks of it that it cannot do is a problem of the job.

Memory is estimated where the model lies on this machine (a path, or a file of an installed package). A stage that
cannot fit here, or an input that is not here, is said but is no error: the job may be meant for another machine.

JSON: {"valid": bool, "machineBytes", "files": [{"file", "valid", "problems": [{"path", "message", "hint", "line",
"column"}], "memory": [{"stage", "ranks", "bytes" (a rank's), "parts": {NAME: bytes}, "fits": bool}], "unknown": [why],
"absent": [inputs that are not here]}]}.

Exit codes: 0 every file is a valid job; 2 at least one is not."""


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="JOB.YAML...", help="Job files.", show_default=False)],
    output: Output = Format.TEXT,
) -> None:
    """Check job files without running anything.

    Problems are printed as file:line:column: path: message (hint), one a line.
    """
    from rlhf_sdk.memory import here

    machine = here()
    found = [_check(path, machine, talk=output is Format.TEXT) for path in files]
    valid = all(entry["valid"] for entry in found)
    if output is Format.JSON:
        emit({"valid": valid, "machineBytes": machine, "files": found})
    if not valid:
        raise typer.Exit(int(Exit.INVALID))


def _check(path: Path, machine: int, *, talk: bool) -> dict[str, Any]:
    from rlhf_api.capability import check_local
    from rlhf_api.errors import SpecError
    from rlhf_api.load import read_job
    from rlhf_sdk import jobs
    from rlhf_sdk.memory import needs

    names = ("path", "message", "hint", "line", "column")
    try:
        job, document = read_job(path)
        check_local(job, document, path.resolve().parent)
    except SpecError as error:
        if talk:
            complain(str(error))
        problems = [{name: getattr(one, name) for name in names} for one in error.problems]
        return {"file": str(path), "valid": False, "problems": problems, "memory": [], "unknown": [], "absent": []}
    found = needs(job, path.resolve().parent)
    missing = jobs.absent(job, path.resolve().parent)
    absent = [f"input {job.spec.inputs[index].name} is not here: {why}" for index, why in missing.items()]
    if talk:
        _tell(path, found, absent, machine)
    memory = [
        {
            "stage": need.stage,
            "ranks": need.ranks,
            "bytes": need.bytes,
            "parts": dict(need.parts),
            "fits": need.total <= machine,
        }
        for need in found.stages
    ]
    return {
        "file": str(path),
        "valid": True,
        "problems": [],
        "memory": memory,
        "unknown": list(found.unknown),
        "absent": absent,
    }


def _tell(path: Path, found: Needs, absent: list[str], machine: int) -> None:
    from rlhf_sdk.memory import too_large
    from rlhf_sdk.output import columns
    from rlhf_sdk.text import size

    show(f"{path}: valid")
    if found.stages:
        table = columns("  STAGE", "RANKS", "MEMORY A RANK", "MOST OF IT")
        for need in found.stages:
            most = ", ".join(f"{name} {size(count)}" for name, count in list(need.parts.items())[:3])
            table.add_row(f"  {need.stage}", str(need.ranks), size(need.bytes), most)
        show(table)
    for why in absent:
        show(f"  {why}")
    for why in found.unknown:
        show(f"  memory not known: {why}")
    for need in found.stages:
        words = too_large(need, machine)
        if words is not None:
            complain(f"{path}: {words}")
