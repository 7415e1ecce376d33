"""`rlhf status`: how runs on this machine, or jobs on a cluster, stand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.options import ON_CLUSTER, Context, Kubeconfig, Namespace, OnCluster, Output, Storage
from rlhf_sdk.output import Format, console, emit, show

if TYPE_CHECKING:
    from rich.table import Table

    from rlhf_sdk.cluster.kubectl import Target
    from rlhf_sdk.jobs import Located


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status", epilog=EPILOG)(status)


EPILOG = f"""\b
Examples:
  rlhf status
  rlhf status job.yaml --watch
  rlhf status safe-rlhf --storage /data/rlhf --output json
  rlhf status beaver -n team-a --watch
  kubectl rlhf status

{ON_CLUSTER}

JSON of one run: {{"job", "uid", "storage", "phase", "reason", "exitCode", "live": bool, "started", "stages": {{NAME:
{{"phase", "attempt", "restarts", "exitCode", "reason", "message", "seconds", "product", "step", "total", "etaSeconds",
"headline"}}}}}}; without a job: {{"runs": [such objects]}}. "live" says whether a process runs it now. Of a job on a
cluster: the same without "storage" and "reason", with "namespace", "suspend", "completed", "conditions": {{TYPE:
{{"status", "reason", "message"}}}}, and of a stage also "type" and "attempts": [as in .status]; without a job {{"jobs":
[...]}}. "exitCode" is what waiting for its end gives, null before.

Exit codes: 0 shown, however it stands; 1 the cluster refused or cannot be reached; 2 no such run or job."""


def status(
    ctx: typer.Context,
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="[JOB]", help="A job file, a job's name or a UID; by default all runs.", show_default=False
        ),
    ] = None,
    storage: Storage = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show again as it changes until the run ends.")] = False,
    cluster: OnCluster = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Show the stages of a run: phase, attempts, progress, headline metrics, time."""
    from rlhf_sdk.cluster.target import chosen

    target = chosen(ctx, namespace, context, kubeconfig, cluster=cluster, storage=storage)
    if target is not None:
        _of_cluster(target, job, output, watch=watch)
        return
    from rlhf_sdk import jobs
    from rlhf_sdk.local.layout import STORAGE

    if job is None:
        runs = jobs.runs(storage or Path(STORAGE))
        if output is Format.JSON:
            emit({"runs": [as_json(run) for run in runs]})
        elif runs:
            show(overview(runs))
        else:
            show(f"no runs in {(storage or Path(STORAGE)).resolve()}")
        return
    run = jobs.locate(job, storage)
    if watch and output is Format.TEXT:
        _watch(job, storage)
    elif output is Format.JSON:
        emit(as_json(run))
    else:
        _print(run)


def _of_cluster(target: Target, job: str | None, output: Format, *, watch: bool) -> None:
    from rlhf_sdk.cluster import jobs, render
    from rlhf_sdk.cluster.kubectl import Kubectl

    if job is None:
        render.print_all(Kubectl(target), output)
        return
    name, target = jobs.named(job, target)
    kubectl = Kubectl(target)
    cluster_job = jobs.get(kubectl, name)
    if watch and output is Format.TEXT:
        render.print_until_ended(kubectl, cluster_job)
    else:
        render.print_job(cluster_job, output)


def _watch(job: str, storage: Path | None) -> None:
    import time

    from rich.console import Group
    from rich.live import Live

    from rlhf_sdk import jobs

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            run = jobs.locate(job, storage)
            live.update(Group(title(run), table(run)), refresh=True)
            if not run.live:
                return
            time.sleep(1)


def _print(run: Located) -> None:
    from rlhf_sdk.plain_export import is_model

    show(title(run))
    show(table(run))
    for name, stage in run.state.stages.items():
        if stage.message:
            show(f"{name}: {stage.reason}: {stage.message}")
    for name, stage in run.state.stages.items():
        if stage.complete and stage.product is not None and is_model(stage.product):
            show(f"{name}: {run.layout.product(stage.product)}")


def title(run: Located) -> str:
    """`safe-rlhf: running (uid ..., storage ...)`."""
    state = run.state
    phase = state.phase if run.live or state.phase != "Running" else "Killed; run it again to go on"
    return f"{state.job}: {phase}  uid {state.uid}  storage {run.layout.storage}"


def table(run: Located) -> Table:
    """One row a stage."""
    from rlhf_sdk.local.progress import labelled, read
    from rlhf_sdk.output import columns
    from rlhf_sdk.text import duration, number

    shown = columns("STAGE", "STATE", "TRY", "STEP", "TIME", "ETA", "HEADLINE")
    for name, stage in run.state.stages.items():
        progress = read(run.layout.work(name)) if stage.attempt and stage.state not in ("Waiting", "Reused") else None
        step, eta, headline = "", "", dict[str, float]()
        if progress is not None:
            total = f"/{progress.total}" if progress.total else ""
            step = f"{progress.step}{total}" if progress.step else ""
            eta = duration(progress.eta) if progress.eta is not None and stage.running else ""
            headline = labelled(progress.headline)
        metrics = "  ".join(f"{key} {number(value)}" for key, value in headline.items())
        seconds = duration(run.seconds(name)) if stage.seconds or stage.running else ""
        shown.add_row(name, stage.state, str(stage.attempt or ""), step, seconds, eta, metrics)
    return shown


def overview(runs: list[Located]) -> Table:
    """One row a run."""
    import time

    from rlhf_sdk.output import columns

    shown = columns("JOB", "STATE", "STAGES", "STARTED", "UID")
    for run in runs:
        state = run.state
        done = sum(stage.complete for stage in state.stages.values())
        phase = state.phase if run.live or state.phase != "Running" else "Killed"
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.started))
        shown.add_row(state.job, phase, f"{done}/{len(state.stages)}", started, state.uid)
    return shown


def as_json(run: Located) -> dict[str, Any]:
    """What `--output json` prints of a run."""
    from rlhf_sdk.local.progress import read

    state = run.state
    stages: dict[str, Any] = {}
    for name, stage in state.stages.items():
        raw = stage.model_dump(mode="json")
        progress = read(run.layout.work(name))
        stages[name] = {
            "phase": stage.state,
            **{key: raw[key] for key in STAGE_KEYS},
            "seconds": round(run.seconds(name), 3),
            "step": None if progress is None else progress.step,
            "total": None if progress is None else progress.total,
            "etaSeconds": None if progress is None else progress.eta,
            "headline": {} if progress is None else dict(progress.headline),
        }
    return {
        "job": state.job,
        "uid": state.uid,
        "storage": str(run.layout.storage),
        "phase": state.phase,
        "reason": state.reason,
        "exitCode": state.exit_code,
        "live": run.live,
        "started": state.started,
        "stages": stages,
    }


STAGE_KEYS = ("attempt", "restarts", "exitCode", "reason", "message", "product")
