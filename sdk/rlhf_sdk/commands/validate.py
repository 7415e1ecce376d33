"""`rlhf validate`: is this job right, and will it fit?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_sdk.commands.options import Output
from rlhf_sdk.exits import Exit
from rlhf_sdk.output import Format, complain, emit, show


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("validate", epilog=EPILOG)(validate)


EPILOG = """\b
Examples:
  rlhf validate job.yaml
  rlhf validate examples/*.yaml --output json

JSON: {"valid": bool, "files": [{"file", "valid", "problems": [{"path", "message", "hint", "line", "column"}]}]}.

Exit codes: 0 every file is a valid job; 2 at least one is not."""


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="JOB.YAML...", help="Job files.", show_default=False)],
    output: Output = Format.TEXT,
) -> None:
    """Check job files without running anything.

    Problems are printed as file:line:column: path: message (hint), one a line.
    """
    from rlhf_api.errors import SpecError
    from rlhf_api.load import read_job

    found = []
    for path in files:
        problems = []
        try:
            read_job(path)
        except SpecError as error:
            problems = [
                {
                    "path": one.path,
                    "message": one.message,
                    "hint": one.hint,
                    "line": one.line,
                    "column": one.column,
                }
                for one in error.problems
            ]
            if output is Format.TEXT:
                complain(str(error))
        found.append({"file": str(path), "valid": not problems, "problems": problems})
        if output is Format.TEXT and not problems:
            show(f"{path}: valid")
    valid = all(entry["valid"] for entry in found)
    if output is Format.JSON:
        emit({"valid": valid, "files": found})
    if not valid:
        raise typer.Exit(int(Exit.INVALID))
