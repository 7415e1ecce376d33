"""`rlhf runs`: the runs of a job that was edited in between, and what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.options import Output, Storage
from rlhf_sdk.output import Format, columns, emit, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from rlhf_sdk.runs import Entry


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("runs", epilog=EPILOG)(list_runs)


EPILOG = """\b
Examples:
  rlhf runs
  rlhf runs job.yaml
  rlhf compare job.yaml@1 job.yaml
  rlhf gc --forget job.yaml@1

A job that is edited and run again is another run of it if it makes other products. A run's name is JOB@N; `compare`,
`report`, `export` and `gc --forget` take it, with the job's file or UID for its name too. Without @N the latest is meant.
It is listed once its prepare has ended.

JSON: {"storage", "runs": [{"name", "job", "namespace", "uid", "number", "latest": bool, "phase", "started", "index": path,
"products": {STAGE: PRODUCT}, "missing": [stages without product], "changes": {PATH: [before, after]}}]}; "changes" are
against the run before, null in the first. "phase" is null where a cluster ran it.

Exit codes: 0 listed; 1 an index cannot be read; 2 no such run."""

SHOWN_CHANGES = 4
"""Of a run; --output json has all."""


def list_runs(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="[JOB]", help="A job file, a job's name or a UID; by default all runs.", show_default=False
        ),
    ] = None,
    storage: Storage = None,
    output: Output = Format.TEXT,
) -> None:
    """List the runs of a job: what changed from one to the next, and how to name them."""
    from pathlib import Path

    from rlhf_sdk import runs
    from rlhf_sdk.local.layout import STORAGE

    folder = storage or Path(STORAGE)
    entries = runs.entries(folder) if job is None else runs.select(job, storage)
    if entries:
        folder = entries[0].storage
    if output is Format.JSON:
        emit({"storage": str(folder.resolve()), "runs": [_as_json(entry, entries) for entry in entries]})
    elif entries:
        show(_table(entries))
    else:
        show(f"no runs in {folder.resolve()}")


def _table(entries: list[Entry]) -> Table:
    import time

    from rlhf_sdk.runs import name_of

    table = columns("RUN", "STATE", "STARTED", "PRODUCTS", "CHANGED")
    for entry in entries:
        changes = _changes(entry, entries)
        lines = [""] if changes is None else _in_words(changes)
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.run.started)) if entry.run.started else ""
        total = len(entry.run.products)
        state = (entry.phase or "") + (" (latest)" if entry.latest and entry.run.number > 1 else "")
        products = f"{total - len(entry.missing)}/{total}"
        table.add_row(name_of(entry, entries), state.strip(), started, products, "\n".join(lines))
    return table


def _in_words(changes: Mapping[str, list[Any]]) -> list[str]:
    from rlhf_sdk.comparison import cell

    lines = [
        f"{path}: {cell(before, exact=True)} -> {cell(after, exact=True)}" for path, (before, after) in changes.items()
    ]
    if len(lines) > SHOWN_CHANGES:
        lines[SHOWN_CHANGES:] = [f"and {len(lines) - SHOWN_CHANGES} more"]
    return lines or ["nothing in the spec: functions, or the version of rlhf-operator"]


def _changes(entry: Entry, entries: list[Entry]) -> dict[str, list[Any]] | None:
    """Against the run before of the same UID."""
    from rlhf_sdk.comparison import changes

    before = [
        earlier for earlier in entries if earlier.run.uid == entry.run.uid and earlier.run.number < entry.run.number
    ]
    return changes(before[-1].run, entry.run) if before else None


def _as_json(entry: Entry, entries: list[Entry]) -> dict[str, Any]:
    from rlhf_sdk.runs import name_of

    run = entry.run
    return {
        "name": name_of(entry, entries),
        "job": run.job,
        "namespace": run.namespace,
        "uid": run.uid,
        "number": run.number,
        "latest": entry.latest,
        "phase": entry.phase,
        "started": run.started,
        "index": str(entry.index),
        "products": run.products,
        "missing": entry.missing,
        "changes": _changes(entry, entries),
    }
