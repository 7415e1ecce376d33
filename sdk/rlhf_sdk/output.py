"""What commands print: results on stdout, everything else on stderr.

The one boundary to the terminal. What is shown comes from data, models, pods and logs: characters that a terminal would
obey are written out here, and no text is taken for rich's markup.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rlhf_sdk.text import HARMFUL, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


class Format(StrEnum):
    """For people, or for scripts."""

    TEXT = "text"
    JSON = "json"


def emit(value: Any) -> None:
    """One JSON document on stdout."""
    import orjson

    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    sys.stdout.write(HARMFUL.sub(lambda match: json.dumps(match[0])[1:-1], text) + "\n")


def columns(*names: str) -> Table:
    """An empty table as kubectl prints them."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that shows every text as it is written, and obeys none."""
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
    from rich.segment import Segment

    class Visible:
        def __init__(self, what: RenderableType) -> None:
            self._what = what

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
            for text, style, control in console.render(self._what, options):
                yield Segment(text if control else visible(text), style, control)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Visible(renderable) for renderable in renderables]

    terminal = Console(stderr=stderr, width=width, highlight=False, emoji=False, markup=False)
    terminal.push_render_hook(Hook())
    return terminal


def show(what: RenderableType) -> None:
    """Print text or a table on stdout."""
    if isinstance(what, str):
        sys.stdout.write(visible(what) + "\n")
        return
    console(width=None if sys.stdout.isatty() else 200).print(what)


def complain(text: str) -> None:
    """Words on stderr."""
    sys.stderr.write(visible(text) + "\n")


class Log:
    """Prints a log as it comes: bytes, cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, block: bytes) -> None:
        """Print some more of it on stdout."""
        sys.stdout.write(visible(self._decoder.decode(block).replace("\r\n", "\n")))
        sys.stdout.flush()
