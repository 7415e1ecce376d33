"""The `rlhf` command, also `kubectl rlhf`."""

from __future__ import annotations

import errno
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from rlhf_sdk.commands import compare, gc, init, logs, plan, report, run, status, validate
from rlhf_sdk.exits import HELP, CommandError, Exit


class Commands(TyperGroup):
    """Turns a CommandError into words on stderr and an exit code, and Ctrl-C into its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            sys.stderr.write(f"{error}\n")
            raise typer.Exit(int(error.code)) from error
        except OSError as error:
            if error.errno == errno.EPIPE or error.filename is None:
                raise
            sys.stderr.write(f"{error.filename}: {error.strerror}\n")
            raise typer.Exit(int(Exit.FAILED)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(int(Exit.INTERRUPTED)) from error


app = typer.Typer(
    name="rlhf",
    cls=Commands,
    help="Align a language model and prove it is safer, from one job file.",
    epilog=HELP,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for module in (init, validate, plan, run, status, logs, compare, report, gc):
    module.register(app)


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
