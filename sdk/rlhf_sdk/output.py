"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Format(StrEnum):
    """For people, or for scripts."""

    TEXT = "text"
    JSON = "json"


def emit(value: Any) -> None:
    """One JSON document on stdout."""
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def console(*, errors: bool = False) -> Console:
    """A console that keeps long paths whole where it is no terminal."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=not stream.isatty(), emoji=False, markup=False)


def show(what: RenderableType) -> None:
    """Print text or a table on stdout."""
    from rich.console import Console

    if isinstance(what, str):
        sys.stdout.write(what + "\n")
        return
    wide = None if sys.stdout.isatty() else 160
    Console(highlight=False, emoji=False, markup=False, width=wide).print(what)


def complain(text: str) -> None:
    """Words on stderr."""
    sys.stderr.write(text + "\n")
