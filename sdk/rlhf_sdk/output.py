"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


class Format(StrEnum):
    """For people, or for scripts."""

    TEXT = "text"
    JSON = "json"


def emit(value: Any) -> None:
    """One JSON document on stdout."""
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def columns(*names: str) -> Table:
    """An empty table as kubectl prints them."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def show(what: RenderableType) -> None:
    """Print text or a table on stdout."""
    from rich.console import Console

    if isinstance(what, str):
        sys.stdout.write(what + "\n")
        return
    wide = None if sys.stdout.isatty() else 200
    Console(highlight=False, emoji=False, markup=False, width=wide).print(what)


def complain(text: str) -> None:
    """Words on stderr."""
    sys.stderr.write(text + "\n")
