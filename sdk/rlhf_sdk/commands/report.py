"""`rlhf report`: where the report of a run is."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_sdk.commands.options import Output, Storage
from rlhf_sdk.exits import CommandError
from rlhf_sdk.output import Format, complain, emit, show

if TYPE_CHECKING:
    from rlhf_sdk.jobs import Located


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog=EPILOG)(report)


EPILOG = """\b
Examples:
  rlhf report job.yaml
  rlhf report job.yaml --open
  rlhf report job.yaml@1

A report that was removed or damaged is made again, from the products that are there: nothing else is computed; that of a
run named with @N is not.

JSON: {"job", "uid", "report": path of the HTML file, "phase": of the run}.

Exit codes: 0 there it is; 1 the run has made none, or it cannot be made again; 2 no such run."""


def report(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="A job file, a job's name or a UID; with @N a run that `rlhf runs` lists.",
            show_default=False,
        ),
    ],
    storage: Storage = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Print the path of the report of a run: one HTML file, complete in itself."""
    from rlhf_sdk import runs

    shown = _of_latest(job, storage) if runs.split(job)[1] is None else _of_numbered(job, storage)
    if output is Format.JSON:
        emit(shown)
    else:
        show(str(shown["report"]))
    if open_it:
        typer.launch(str(shown["report"]))


def _of_latest(job: str, storage: Path | None) -> dict[str, str | None]:
    from rlhf_sdk import jobs

    run = jobs.locate(job, storage)
    path = find(run)
    if path is None:
        path = _again(run)
    return {"job": run.state.job, "uid": run.state.uid, "report": str(path), "phase": run.state.phase}


def _of_numbered(name: str, storage: Path | None) -> dict[str, str | None]:
    """Of a run that the index names.

    Raises:
        CommandError: it made none, or the report is gone or damaged.
    """
    from rlhf_api.stages import REPORT
    from rlhf_sdk import runs
    from rlhf_sdk.reports import html_of

    entry = runs.find(name, storage)
    reports = [product for product in entry.run.products.values() if product.startswith(f"{REPORT}-")]
    path = html_of(runs.verified(entry, reports[0])) if reports else None
    if path is None:
        raise CommandError(f"{name}: has no report")
    return {"job": entry.run.job, "uid": entry.run.uid, "report": str(path), "phase": entry.phase}


def find(run: Located) -> Path | None:
    """The report, verified; None: it is gone or was changed.

    Raises:
        CommandError: the run has made none.
    """
    from rlhf_api.store import DamagedProduct, find_verified
    from rlhf_sdk.reports import html_of

    name = list(run.state.stages)[-1]
    state = run.state.stages[name]
    if not state.complete or state.product is None:
        raise CommandError(f"{run.state.job}: no report: stage {name} is {state.state}; `rlhf run {run.file}` makes it")
    try:
        product = find_verified(run.layout.storage, state.product)
    except DamagedProduct as error:
        complain(f"{error}; it is rebuilt")
        return None
    return None if product is None else html_of(product.path)


def _same_job(run: Located) -> bool:
    """Whether the job file still says what was run; another one would compute more than the report."""
    from rlhf_api.store import read_runs
    from rlhf_sdk import jobs

    if not run.file.exists():
        return False
    spec = jobs.read(run.file).spec.model_dump(mode="json", exclude_none=True)
    return any(entry.uid == run.layout.uid and entry.spec == spec for entry in read_runs(run.layout.storage))


def _again(run: Located) -> Path:
    """Make the report again: run the job, if that computes nothing else.

    Raises:
        CommandError: other products are gone too, the job has changed, or it could not be made.
    """
    from rlhf_sdk import jobs
    from rlhf_sdk.commands.run import execute

    *others, _ = run.state.stages.items()
    gone = [
        name for name, state in others if state.product is not None and not run.layout.product(state.product).is_dir()
    ]
    if gone:
        raise CommandError(f"{run.state.job}: the products of {', '.join(gone)} are gone; `rlhf run {run.file}`")
    if not _same_job(run):
        raise CommandError(
            f"{run.state.job}: the report is gone, and {run.file} is not what was run; `rlhf run {run.file}`"
        )
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(typer.Exit):  # what comes of it is looked at below
        execute(run.file, run.layout.storage, [], None, fresh=False, plain=True, output=Format.TEXT)
    path = find(jobs.reload(run))
    if path is None:
        raise CommandError(f"{run.state.job}: the report could not be made again")
    return path
