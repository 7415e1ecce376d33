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

    from rlhf_sdk.comparison import Side


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", epilog=EPILOG)(compare)


EPILOG = """\b
Examples:
  rlhf compare ppo.yaml safe-rlhf.yaml
  rlhf compare ppo.yaml@1 ppo.yaml
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
            help="Job files, names or UIDs of runs, with @N for an earlier run of an edited job (`rlhf runs` lists "
            "them), index files below runs/, or folders of products.",
            show_default=False,
        ),
    ],
    storage: Storage = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only metrics of this name; * stands for anything.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the metrics that only one of them has.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Show final metrics, with their intervals, and the fields in which the specs differ."""
    from fnmatch import fnmatchcase

    from rlhf_sdk import comparison
    from rlhf_sdk.text import plural

    if len(what) < 2:
        raise CommandError("compare needs at least two runs or products", Exit.INVALID)
    sides = comparison.named([comparison.read(argument, storage) for argument in what], what)
    metrics = comparison.rows(sides, "metrics")
    if metric is not None:
        metrics = {name: values for name, values in metrics.items() if fnmatchcase(name, metric)}
    spec = comparison.spec_rows(sides)
    if output is Format.JSON:
        missing = [list(side.missing) for side in sides]
        emit({"names": [side.name for side in sides], "missing": missing, "metrics": metrics, "spec": spec})
        return
    shared = {name: values for name, values in metrics.items() if sum(value is not None for value in values) > 1}
    shown = metrics if everything or metric is not None else shared
    if shown:
        show(_table("METRIC", shown, sides, intervals=True))
        show("apart: two of the intervals have no point in common\n")
    else:
        show("no metric in common\n")
    if len(shown) < len(metrics):
        show(f"{plural(len(metrics) - len(shown), 'metric')} that only one of them has: --all shows them\n")
    show(_table("SPEC", spec, sides) if spec else "their specs do not differ")
    for side in sides:
        if side.missing:
            show(f"{side.name}: no product of {', '.join(side.missing)}")


def _table(head: str, rows: Mapping[str, list[Any]], sides: list[Side], *, intervals: bool = False) -> Table:
    from rlhf_sdk.comparison import apart, cell
    from rlhf_sdk.output import columns

    table = columns(head, *(side.name for side in sides), *([""] if intervals else []))
    for name, values in rows.items():
        mark = ["apart" if apart(values) else ""] if intervals else []
        table.add_row(name, *(cell(value, exact=not intervals) for value in values), *mark)
    return table
