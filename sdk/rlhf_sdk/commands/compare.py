"""`rlhf compare`: runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.options import Output, Storage
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, emit, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from rlhf_sdk.comparing import Side


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", epilog=EPILOG)(compare)


EPILOG = """\b
Examples:
  rlhf compare ppo.yaml safe-rlhf.yaml
  rlhf compare plain safe --metric 'evaluate.*'
  rlhf compare .rlhf/products/ppo-0a1b... .rlhf/products/ppo-2c3d...

JSON: {"names": [...], "missing": [[stages without product]...], "metrics": {NAME: [one value a run; numbers, or
{"value", "low", "high", "n"}]}, "spec": {PATH: [values]} (only where they differ)}.

Exit codes: 0 compared; 2 one of them cannot be found."""


def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Job files, names or UIDs of runs, index files below runs/, or folders of products.",
            show_default=False,
        ),
    ],
    storage: Storage = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only metrics of this name; * stands for anything.", show_default=False),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Show final metrics, with their intervals, and the fields in which the specs differ."""
    from fnmatch import fnmatchcase

    from rlhf_sdk import comparing

    if len(what) < 2:
        raise CommandError("compare needs at least two runs or products", Exit.INVALID)
    sides = [comparing.read(one, storage) for one in what]
    metrics = comparing.rows(sides, "metrics")
    if metric is not None:
        metrics = {name: values for name, values in metrics.items() if fnmatchcase(name, metric)}
    spec = comparing.different(comparing.rows(sides, "spec"))
    if output is Format.JSON:
        missing = [list(side.missing) for side in sides]
        emit({"names": [side.name for side in sides], "missing": missing, "metrics": metrics, "spec": spec})
        return
    show(_table("METRIC", metrics, sides))
    if spec:
        show("")
        show(_table("SPEC", spec, sides))
    else:
        show("\ntheir specs do not differ")
    for side in sides:
        if side.missing:
            show(f"{side.name}: no product of {', '.join(side.missing)}")


def _table(head: str, found: Mapping[str, list[Any]], sides: list[Side]) -> Table:
    from rlhf_sdk.comparing import cell
    from rlhf_sdk.output import columns

    table = columns(head, *(side.name for side in sides))
    for name, values in found.items():
        table.add_row(name, *(cell(value) for value in values))
    return table
