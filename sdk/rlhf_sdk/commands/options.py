"""Options that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_sdk.output import Format

JobFile = Annotated[Path, typer.Argument(help="The job file.", metavar="JOB.YAML", show_default=False)]
Storage = Annotated[
    Path | None,
    typer.Option(
        "--storage",
        metavar="DIR",
        help="Where work, products and fetched inputs live; by default .rlhf beside the job file.",
        show_default=False,
    ),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="For people, or one JSON document for scripts.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=PATH",
        help="Take this input of the job from another path or URL; may be given several times.",
        show_default=False,
    ),
]
