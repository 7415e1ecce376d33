"""`rlhf logs`: what a stage wrote, on this machine or on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_sdk.commands.options import ON_CLUSTER, Context, Kubeconfig, Namespace, OnCluster, Output, Storage
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, emit, show
from rlhf_sdk.text import visible

if TYPE_CHECKING:
    from rlhf_sdk.cluster.kubectl import Target
    from rlhf_sdk.cluster.logs import LogRequest
    from rlhf_sdk.jobs import Located


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("logs", epilog=EPILOG)(logs)


EPILOG = f"""\b
Examples:
  rlhf logs job.yaml ppo
  rlhf logs job.yaml ppo --rank 1 --attempt 2
  rlhf logs beaver ppo -n team-a --follow
  kubectl rlhf logs beaver ppo --attempt 0 --tail 50

{ON_CLUSTER}

On a cluster the log of rank 0, with its launcher's lines, is its pod's while that is there. Of other ranks, and once
the pod is gone, it is read from the job's storage by a pod made for it, with your own rights, and deleted after. Attempts
count from 0 there, from 1 on this machine.

JSON: {{"stage", "attempt", "file" (on a cluster pod/NAME, or the path on the storage), "lines": [...]}} (not with
--follow).

Exit codes: 0 printed; 1 the cluster refused or cannot be reached; 2 no such run, job, stage, attempt or rank."""


def logs(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job file, a job's name or a UID.", show_default=False)],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Name of the stage.", show_default=False)],
    storage: Storage = None,
    rank: Annotated[
        str,
        typer.Option(
            metavar="R",
            help="Which rank; `launcher`: the process that starts them (on a cluster also `launcher1`, of pod 1, ...).",
        ),
    ] = "0",
    attempt: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Which attempt; by default the last.", show_default=False)
    ] = None,
    tail: Annotated[
        int | None, typer.Option(metavar="LINES", min=1, help="Only the last lines.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, while the run lasts.")] = False,
    stored: Annotated[
        bool, typer.Option("--stored", help="On a cluster: from the storage, although the pod is there.")
    ] = False,
    cluster: OnCluster = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Print the log of one rank of one attempt of a stage."""
    from rlhf_sdk.cluster.target import chosen

    target = chosen(ctx, namespace, context, kubeconfig, cluster=cluster, storage=storage)
    if target is not None:
        from rlhf_sdk.cluster.logs import LogRequest

        _of_cluster(target, job, LogRequest(stage, rank, attempt, tail, stored), output, follow=follow)
        return
    if stored:
        raise CommandError(
            "--stored: it is of jobs on a cluster; here logs are always read from the storage", Exit.INVALID
        )
    _of_run(job, storage, stage, rank, attempt, tail, output, follow=follow)


def _of_run(
    job: str,
    storage: Path | None,
    stage: str,
    rank: str,
    attempt: int | None,
    tail: int | None,
    output: Format,
    *,
    follow: bool,
) -> None:
    from rlhf_sdk import jobs

    run = jobs.locate(job, storage)
    number, path = find(run, stage, rank, attempt)
    lines = path.read_text("utf-8", errors="replace").splitlines()
    lines = lines if tail is None else lines[-tail:]
    if output is Format.JSON:
        emit({"stage": stage, "attempt": number, "file": str(path), "lines": lines})
        return
    for line in lines:
        show(line)
    if follow:
        _follow(run, stage, path)


def _of_cluster(target: Target, job: str, request: LogRequest, output: Format, *, follow: bool) -> None:
    from rlhf_sdk.cluster import jobs, logs
    from rlhf_sdk.cluster.kubectl import Kubectl

    name, target = jobs.named(job, target)
    kubectl = Kubectl(target)
    cluster_job = jobs.get(kubectl, name)
    if follow and output is Format.TEXT:
        logs.follow(kubectl, cluster_job, request)
        return
    attempt, file, lines = logs.lines(kubectl, cluster_job, request)
    if output is Format.JSON:
        emit({"stage": request.stage, "attempt": attempt, "file": file, "lines": lines})
    else:
        for line in lines:
            show(line)


def find(run: Located, stage: str, rank: str, attempt: int | None) -> tuple[int, Path]:
    """The attempt and its log.

    Raises:
        CommandError: there is none; says which there are.
    """
    if stage not in run.state.stages:
        raise CommandError(f"{stage}: no such stage; the run has {', '.join(run.state.stages)}", Exit.INVALID)
    attempts = sorted(
        int(path.name[1:]) for path in (run.layout.work(stage) / "logs").glob("a*") if path.name[1:].isdigit()
    )
    if not attempts:
        state = run.state.stages[stage].state
        raise CommandError(f"{stage}: no logs: it has not run here ({state})", Exit.INVALID)
    chosen = attempts[-1] if attempt is None else attempt
    if chosen not in attempts:
        numbers = ", ".join(str(number) for number in attempts)
        raise CommandError(f"{stage}: no attempt {chosen}; there are logs of attempt {numbers}", Exit.INVALID)
    folder = run.layout.logs(stage, chosen)
    path = folder / ("launcher.log" if rank == "launcher" else f"rank{rank}.log")
    if path.exists():
        return chosen, path
    if rank == "0" and (folder / "launcher.log").exists():  # it ended before its ranks had started
        return chosen, folder / "launcher.log"
    names = ", ".join(sorted(file.name.removesuffix(".log").removeprefix("rank") for file in folder.glob("*.log")))
    raise CommandError(
        f"{stage}: no log of rank {rank} in attempt {chosen}; there are: {names or 'none'}", Exit.INVALID
    )


def _follow(run: Located, stage: str, path: Path) -> None:
    import time

    from rlhf_sdk import jobs

    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        while True:
            text = file.read()
            sys.stdout.write(visible(text))
            sys.stdout.flush()
            if not text:
                now = jobs.reload(run)
                if not now.live or not now.state.stages[stage].running:
                    return
                time.sleep(0.3)
