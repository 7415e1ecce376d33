"""`rlhf report`: where the report of a run is."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_sdk.commands.options import Output, Storage
from rlhf_sdk.exits import CommandError
from rlhf_sdk.output import Format, emit, show


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog=EPILOG)(report)


EPILOG = """\b
Examples:
  rlhf report job.yaml
  rlhf report job.yaml --open

JSON: {"job", "uid", "report": path of the HTML file, "phase": of the run}.

Exit codes: 0 there it is; 1 the run has made none; 2 no such run."""


def report(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file, a job's name or a UID.", show_default=False)],
    storage: Storage = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Print the path of the report of a run: one HTML file, complete in itself.

    A report that was removed or damaged is made again by `rlhf run`, which computes nothing else anew.
    """
    from rlhf_api.store import DamagedProduct, find_verified
    from rlhf_sdk import jobs
    from rlhf_sdk.reports import html_of

    run = jobs.locate(job, storage)
    name = list(run.state.stages)[-1]
    state = run.state.stages[name]
    again = f"`rlhf run {run.file}` makes it"
    if not state.complete or state.product is None:
        raise CommandError(f"{run.state.job}: no report: stage {name} is {state.phase}; {again}")
    try:
        product = find_verified(run.layout.storage, state.product)
    except DamagedProduct as error:
        raise CommandError(f"{error}; {again} anew") from error
    path = None if product is None else html_of(product.path)
    if path is None:
        raise CommandError(f"{run.layout.product(state.product)}: no report in it any more; {again} anew")
    if output is Format.JSON:
        emit({"job": run.state.job, "uid": run.state.uid, "report": str(path), "phase": run.state.phase})
    else:
        show(str(path))
    if open_it:
        typer.launch(str(path))
