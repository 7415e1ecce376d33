"""`rlhf plan`: what a job would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from rlhf_sdk.commands.options import JobFile, Output, Storage
from rlhf_sdk.output import Format, emit, show

if TYPE_CHECKING:
    from rich.tree import Tree

    from rlhf_api.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", epilog=EPILOG)(plan)


EPILOG = """\b
Examples:
  rlhf plan job.yaml
  rlhf plan job.yaml --output json

JSON: {"job", "resolved": bool, "stages": [{"name", "type", "needs", "takes", "ranks", "seed", "digest", "product",
"there"}]}; digest, product and there are null until the job has been run here once.

Exit codes: 0 planned; 2 the job file is wrong."""


def plan(job_file: JobFile, storage: Storage = None, output: Output = Format.TEXT) -> None:
    """Show a job's stages, what each takes, and which products are there already.

    Digests are known once prepare has run; nothing is computed or fetched by this command.
    """
    from rlhf_api.plan import plan as make
    from rlhf_api.store import read_resolved
    from rlhf_sdk import jobs
    from rlhf_sdk.local.scheduler import ranks

    job = jobs.read(job_file)
    layout = jobs.layout_of(job, job_file, storage)
    try:
        planned = make(job, read_resolved(layout.resolved))
        resolved = True
    except (FileNotFoundError, ValueError, KeyError):  # never prepared, or for an earlier version of the job
        planned = make(job)
        resolved = False
    present = {
        stage.name: layout.product(stage.product).is_dir() for stage in planned.stages if stage.product is not None
    }
    if output is Format.JSON:
        emit(
            {
                "job": planned.job,
                "resolved": resolved,
                "stages": [
                    {
                        "name": stage.name,
                        "type": stage.type,
                        "needs": list(stage.needs),
                        "takes": list(stage.takes),
                        "ranks": ranks(stage),
                        "seed": stage.seed,
                        "digest": stage.digest,
                        "product": stage.product,
                        "there": present.get(stage.name),
                    }
                    for stage in planned.stages
                ],
            }
        )
        return
    show(tree(planned, present, resolved))


def tree(planned: Plan, present: dict[str, bool], resolved: bool) -> Tree:
    """Stages as a tree: each hangs below the stage it comes after last; what it takes besides is written out."""
    from rich.text import Text
    from rich.tree import Tree

    from rlhf_api.stages import SINGLE_PROCESS_STAGES
    from rlhf_sdk.local.scheduler import ranks
    from rlhf_sdk.local.view import short

    order = {stage.name: position for position, stage in enumerate(planned.stages)}
    depth: dict[str, int] = {}
    for stage in planned.stages:
        depth[stage.name] = 1 + max((depth[name] for name in stage.needs), default=-1)
    title = "" if resolved else "  (digests are known once prepare has run)"
    root = Tree(Text(f"{planned.job}: {len(planned.stages)} stages{title}"))
    nodes: dict[str, Tree] = {}
    for stage in planned.stages:
        parent = max(stage.needs, key=lambda name: (depth[name], order[name]), default=None)
        line = Text(stage.name, style="bold").append(f"  {stage.type}", style="not bold dim")
        if ranks(stage) > 1:
            line.append(f"  {ranks(stage)} ranks", style="not bold")
        rest = [key for key in stage.takes if key != f"stage:{parent}"]
        if rest and stage.type not in SINGLE_PROCESS_STAGES:
            line.append("  takes " + ", ".join(key.partition(":")[2] for key in rest), style="not bold")
        if stage.name in present:
            line.append(f"  {short(stage.product)}", style="not bold dim")
            if present[stage.name]:
                line.append(" there", style="not bold green")
        nodes[stage.name] = (nodes[parent] if parent is not None else root).add(line)
    return root
