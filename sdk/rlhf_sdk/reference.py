"""Writes docs/cli.md from the commands themselves: `python -m rlhf_sdk.reference > docs/cli.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import typer
from typer.main import get_command

from rlhf_sdk.cli import app

HEAD = """# The `rlhf` command
Written by `python -m rlhf_sdk.reference`; a test keeps it so. `kubectl rlhf` is the same command.

Results go to stdout, everything else to stderr. Every command takes `--output json`: one document, with the keys named
below; keys may be added, none is renamed or removed within v1alpha1.
"""
WIDTH = 100


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_commands()])


def _commands() -> Iterator[str]:
    group = get_command(app)
    context = typer.Context(group, info_name="rlhf", terminal_width=WIDTH, max_content_width=WIDTH)
    yield _help(group.get_help(context))
    for name in group.list_commands(context):  # type: ignore[attr-defined]  # a group, as `app` has several commands
        command = group.get_command(context, name)  # type: ignore[attr-defined]  # as above
        below = typer.Context(command, info_name=name, parent=context, terminal_width=WIDTH, max_content_width=WIDTH)
        yield f"## rlhf {name}"
        yield _help(command.get_help(below))


def _help(text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines()).strip()
    return f"```text\n{lines}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
