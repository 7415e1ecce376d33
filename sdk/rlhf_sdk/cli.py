"""The `rlhf` command, also `kubectl rlhf`."""

from __future__ import annotations

import errno
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlhf_sdk.cluster import PLUGIN
from rlhf_sdk.commands import (
    check,
    compare,
    export,
    gc,
    init,
    logs,
    plan,
    pull,
    report,
    retry,
    run,
    runs,
    status,
    submit,
    suspend,
    validate,
)
from rlhf_sdk.exits import HELP, CommandError, Exit
from rlhf_sdk.output import complain


class Commands(TyperGroup):
    """Turns a CommandError into words on stderr and an exit code, and Ctrl-C into its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            complain(str(error))
            raise typer.Exit(int(error.code)) from error
        except OSError as error:
            if error.errno == errno.EPIPE or error.filename is None:
                raise
            complain(f"{error.filename}: {error.strerror}")
            raise typer.Exit(int(Exit.INVALID if error.errno == errno.ENAMETOOLONG else Exit.FAILED)) from error
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


def _print_version(requested: bool) -> None:
    if requested:
        from rlhf_sdk.output import show

        show(f"rlhf {version('rlhf-operator')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Align a language model and prove it is safer, from one job file."""


for module in (
    init,
    validate,
    plan,
    run,
    submit,
    status,
    logs,
    suspend,
    retry,
    pull,
    export,
    runs,
    compare,
    report,
    check,
    gc,
):
    module.register(app)


def main() -> None:
    """Entry point, of `rlhf` and of `kubectl rlhf`: kubectl runs its plugin as `kubectl-rlhf`."""
    if sys.getfilesystemencoding() != "utf-8":
        from rlhf_api.utf8 import use_utf8  # slow to import, and rarely needed

        use_utf8()
    if Path(sys.argv[0]).name.startswith("kubectl-"):
        app(prog_name=PLUGIN, obj=PLUGIN)
    else:
        app()


if __name__ == "__main__":
    main()
