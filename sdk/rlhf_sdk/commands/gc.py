"""`rlhf gc`: free what no run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_sdk.commands.options import Output
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, columns, emit, show
from rlhf_sdk.text import plural, size

if TYPE_CHECKING:
    from rich.table import Table

    from rlhf_api.store import Run
    from rlhf_sdk.local.gc import Item


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gc", epilog=EPILOG)(gc)


EPILOG = """\b
Examples:
  rlhf gc
  rlhf gc --storage /data/rlhf --yes
  rlhf gc --forget beaver@1
  rlhf gc --output json | jq .bytes

JSON: {"storage", "bytes", "freed": bool, "items": [{"path", "kind", "bytes", "why"}], "kept": the same, not counted in
bytes}; kind is product, damaged, unfinished, input or work.

Exit codes: 0 listed or freed; 1 it cannot be told what is used, or a run is just looking up what it needs; 2 no such
storage or run to forget, or a process runs it."""


def gc(
    storage: Annotated[
        Path, typer.Option("--storage", metavar="DIR", help="The storage; by default .rlhf in the working directory.")
    ] = Path(".rlhf"),
    forget: Annotated[
        list[str] | None,
        typer.Option(
            "--forget",
            metavar="RUN",
            help="Count this run (`rlhf runs` lists them) as gone: a name such as JOB@N; may be given several times.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Free it; without, it is only listed.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """List what no run needs; with --yes, free it.

    That is: products and inputs that no run names, damaged and unfinished products, and work of runs whose job file
    is gone. A run that `rlhf runs` lists, also an earlier one of an edited job, keeps its products until --forget. What a running process uses is never freed; what one is just looking up may be listed.

    On a cluster's claim, mounted at DIR, also work of jobs that are done, logs included. It does not ask the cluster:
    work of jobs that may run, be suspended or be tried again is kept, and listed with what tells so.
    """
    from rlhf_api.store import forget_run, gc_lock
    from rlhf_sdk.local.gc import free, garbage, tree_size
    from rlhf_sdk.local.liveness import clock
    from rlhf_sdk.local.locks import Busy, FileLock

    root = storage.resolve()
    if not root.is_dir():
        raise CommandError(f"{root}: no such storage", Exit.INVALID)
    lock = FileLock(gc_lock(root))
    if yes:
        try:
            lock.acquire()
        except Busy as busy:
            raise CommandError(f"{root}: a run is just looking up what it needs; try again in a moment") from busy
    try:
        forgotten = [_forgettable(name, root) for name in forget or []]
        result = garbage(root, clock(root), forgotten)
        items, bytes_of = result.free, {item.path: tree_size(item.path) for item in (*result.free, *result.uncertain)}
        if yes:  # sizes take a while on a claim: what a cluster's job has begun to use meanwhile stays
            still = {item.path for item in garbage(root, clock(root), forgotten).free}
            items = [item for item in items if item.path in still]
            for run in forgotten:
                forget_run(root, run)
            free(items)
    except ValueError as error:
        raise CommandError(str(error)) from error
    finally:
        lock.release()
    total = sum(bytes_of[item.path] for item in items)
    if output is Format.JSON:
        listed, uncertain = (
            [
                {"path": str(item.path), "kind": item.kind, "bytes": bytes_of[item.path], "why": item.why}
                for item in some
            ]
            for some in (items, result.uncertain)
        )
        emit({"storage": str(root), "bytes": total, "freed": yes, "items": listed, "kept": uncertain})
        return
    if items:
        what = f"{plural(len(items), 'thing')}, {size(total)}"
        show(_table(items, bytes_of))
        show(f"freed {what}" if yes else f"{what} can be freed: run again with --yes")
    else:
        show(f"{root}: nothing to free")
    if result.uncertain:
        show("\nkept:")
        show(_table(result.uncertain, bytes_of))


def _forgettable(name: str, storage: Path) -> Run:
    from rlhf_sdk import runs

    entry = runs.find(name, storage)
    if entry.live:
        raise CommandError(f"--forget {name}: a process runs it", Exit.INVALID)
    return entry.run


def _table(items: Sequence[Item], bytes_of: Mapping[Path, int]) -> Table:
    table = columns("KIND", "SIZE", "WHAT", "WHY")
    for item in items:
        table.add_row(item.kind, size(bytes_of[item.path]), _shorter(item.path.name), item.why)
    return table


def _shorter(name: str) -> str:
    """A digest's first digits say enough."""
    head, dash, digest = name.rpartition("-")
    return f"{head}-{digest[:8]}" if dash and len(digest) >= 64 else name
