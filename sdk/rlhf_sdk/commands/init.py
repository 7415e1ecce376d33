"""`rlhf init`: a job to begin with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from rlhf_sdk.commands.options import Output
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, emit, show

HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._/-]*)?")
"""A model of the hub: org/model or org/model@revision."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init", epilog=EPILOG)(init)


EPILOG = """\b
Recipes:
  sft          Fine-tune a chat model on conversations.
  preference   Learn a reward model and a cost model from pairs with safety labels.
  ppo          Plain PPO on a reward function, no cost.
  rlcd         Preferences without people: pairs by contrast, a reward model on them, PPO, evaluation.
  rbr          Rule-based rewards: written rules, a grader that learns to judge by them, PPO with both rewards, evaluation.
  safe-rlhf    The whole chain: SFT, reward and cost model, PPO-Lagrangian, evaluation, report.

\b
Examples:
  rlhf init safe-rlhf beaver && rlhf run beaver/job.yaml
  rlhf init sft --base ~/models/smol
  rlhf init sft --base org/model@revision

JSON: {"recipe", "folder", "files": [...]}.

Exit codes: 0 written; 1 a file is there already; 2 no such recipe."""


def init(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="sft, preference, ppo, rlcd, rbr or safe-rlhf.", show_default=False)
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to; by default a folder of the recipe's name.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Model to start from: a path, org/model[@revision] of the hub, or a URL; by default a package with a "
            "small one.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Write a job that runs, with small data, as a place to start from."""
    from rlhf_sdk.recipes import BASE, RECIPES, render

    if recipe not in RECIPES:
        raise CommandError(f"{recipe}: no such recipe; there are {', '.join(RECIPES)}", Exit.INVALID)
    target = folder or Path(recipe)
    written = render(recipe, job_name(target.resolve().name, recipe), source_of(base, target) if base else BASE)
    existing = [name for name in written if (target / name).exists()]
    if existing and not force:
        raise CommandError(
            f"{target}: has {', '.join(existing)} already; nothing was written (--force writes over them)"
        )
    for name, text in written.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    if output is Format.JSON:
        emit({"recipe": recipe, "folder": str(target.resolve()), "files": sorted(written)})
        return
    for name in written:
        show(f"wrote {target / name}")
    show(f"next: rlhf run {target / 'job.yaml'}")


def source_of(base: str, folder: Path) -> str:
    """The source that a job in `folder` writes for a model given on the command line.

    Args:
        base: a URL; a path, from the working directory; or a model of the hub, as org/model or org/model@revision.
        folder: of the job.

    Raises:
        CommandError: none of these.
    """
    from rlhf_api.sources import parse_source

    path = Path(base).expanduser()
    if "://" in base:
        source = base
    elif path.exists():
        source = str(path) if path.is_absolute() else os.path.relpath(path.resolve(), folder.resolve())
    elif HUB.fullmatch(base):
        source = f"hf://{base}" if "@" in base else f"hf://{base}@main"
    else:
        raise CommandError(
            f"--base {base}: no such file or folder here; expected a path, org/model[@revision] of the hub, or a URL",
            Exit.INVALID,
        )
    try:
        parse_source(source)
    except ValueError as error:
        raise CommandError(f"--base {base}: {error}", Exit.INVALID) from error
    return source


def job_name(folder: str, recipe: str) -> str:
    """A legal job name of the folder's name."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")
    return name[:63].strip("-") or recipe
