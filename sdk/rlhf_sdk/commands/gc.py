"""`rlhf gc`: free what no run needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_sdk.commands.options import Output
from rlhf_sdk.exits import CommandError
from rlhf_sdk.output import Format, emit, show


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gc", epilog=EPILOG)(gc)


EPILOG = """\b
Examples:
  rlhf gc
  rlhf gc --storage /data/rlhf --yes
  rlhf gc --output json | jq .bytes

JSON: {"storage", "bytes", "freed": bool, "items": [{"path", "kind", "bytes", "why"}]}; kind is product, damaged,
unfinished, input or work.

Exit codes: 0 listed or freed; 1 it cannot be told what is used, or a run is just looking up what it needs."""


def gc(
    storage: Annotated[
        Path, typer.Option("--storage", metavar="DIR", help="The storage; by default .rlhf in the working directory.")
    ] = Path(".rlhf"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Free it; without, it is only listed.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """List what no run needs; with --yes, free it.

    That is: products and inputs that no run names, damaged and unfinished products, and work of runs whose job file
    is gone. What a running process uses is never among it.
    """
    from rlhf_sdk.local.collect import free, garbage
    from rlhf_sdk.local.layout import gc_lock
    from rlhf_sdk.local.locks import Busy, FileLock
    from rlhf_sdk.output import columns
    from rlhf_sdk.text import plural, size

    root = storage.resolve()
    if not root.is_dir():
        raise CommandError(f"{root}: no such storage")
    lock = FileLock(gc_lock(root))
    if yes:
        try:
            lock.acquire()
        except Busy as busy:
            raise CommandError(f"{root}: a run is just looking up what it needs; try again in a moment") from busy
    try:
        items = garbage(root)
        for item in items if yes else ():
            free(item)
    except ValueError as error:
        raise CommandError(str(error)) from error
    finally:
        lock.release()
    total = sum(item.bytes for item in items)
    if output is Format.JSON:
        listed = [{"path": str(one.path), "kind": one.kind, "bytes": one.bytes, "why": one.why} for one in items]
        emit({"storage": str(root), "bytes": total, "freed": yes, "items": listed})
        return
    if not items:
        show(f"{root}: nothing to free")
        return
    table = columns("KIND", "SIZE", "WHAT", "WHY")
    for item in items:
        table.add_row(item.kind, size(item.bytes), _shorter(item.path.name), item.why)
    show(table)
    what = f"{plural(len(items), 'thing')}, {size(total)}"
    show(f"freed {what}" if yes else f"{what} can be freed: run again with --yes")


def _shorter(name: str) -> str:
    """A digest's first digits say enough."""
    head, dash, digest = name.rpartition("-")
    return f"{head}-{digest[:8]}" if dash and len(digest) >= 64 else name
