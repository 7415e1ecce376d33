"""`rlhf pull`: what a job on a cluster has made, to this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_sdk.commands.options import ClusterJobName, Context, Kubeconfig, Namespace, Output
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, console, emit, show

if TYPE_CHECKING:
    from rlhf_sdk.cluster.jobs import ClusterJob


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pull", epilog=EPILOG)(pull)


EPILOG = """\b
Examples:
  rlhf pull beaver -n team-a --open
  rlhf pull beaver ppo evaluate --to results
  rlhf pull job.yaml --all

Each stage's product comes into a folder of its name below DIR, whole and verified against the digests of its manifest,
or not at all; one that is there already is verified and left alone. --all adds `_logs/STAGE`: logs of every rank and
attempt, metrics.jsonl, timings.jsonl. The storage is read by a short-lived pod, made with your own rights (to make,
exec into and delete pods) and deleted after, also on Ctrl-C.

JSON: {"job", "namespace", "uid", "folder", "products": {STAGE: {"product", "path", "copied": bool}}, "report": path of
the HTML file or null, "logs": path or null}.

Exit codes: 0 it is there; 1 it is not made yet, damaged, or the cluster refused or cannot be reached; 2 no such job or
stage, or something else is in its place; 130 Ctrl-C: nothing half is left."""


def pull(
    ctx: typer.Context,
    job: ClusterJobName,
    stages: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STAGE...]", help="Whose products; by default the report's.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every product there is, with logs and metrics.")] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="DIR", help="Where to; by default a folder of the job's name.", show_default=False
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Copy a job's report, products or everything from the cluster."""
    from rlhf_sdk.cluster import download, jobs, reader_pod
    from rlhf_sdk.cluster.kubectl import Kubectl
    from rlhf_sdk.cluster.target import target
    from rlhf_sdk.reports import html_of

    if everything and stages:
        raise CommandError("--all: takes every stage; leave the stages out, or --all", Exit.INVALID)
    name, cluster = jobs.named(job, target(ctx, namespace, context, kubeconfig))
    kubectl = Kubectl(cluster)
    cluster_job = jobs.get(kubectl, name)
    products = download.products(cluster_job, stages or [], everything=everything)
    folder = (to or Path(name)).resolve()
    copied: dict[str, bool] = {}
    logs: Path | None = None
    with reader_pod.reader(kubectl, cluster_job) as reader:
        for stage, product in products.items():
            with _bar(stage, output) as tell:
                copied[stage] = download.product(reader, product, folder / stage, tell)
            if output is Format.TEXT:
                show(f"{stage}: {folder / stage}{'' if copied[stage] else ' (there already, verified)'}")
        if everything:
            with _bar(download.LOGS, output) as tell:
                logs = (
                    folder / download.LOGS if download.logs(reader, cluster_job, folder / download.LOGS, tell) else None
                )
    report = next((html_of(folder / stage) for stage in products if stage == download.report_of(cluster_job)), None)
    if output is Format.JSON:
        emit(_as_json(cluster_job, folder, products, copied, report, logs))
    else:
        for what, path in (("logs", logs), ("report", report)):
            if path is not None:
                show(f"{what}: {path}")
    if open_it and report is not None:
        typer.launch(str(report))


def _as_json(
    job: ClusterJob,
    folder: Path,
    products: dict[str, str],
    copied: dict[str, bool],
    report: Path | None,
    logs: Path | None,
) -> dict[str, object]:
    return {
        "job": job.name,
        "namespace": job.namespace,
        "uid": job.uid,
        "folder": str(folder),
        "products": {
            stage: {"product": product, "path": str(folder / stage), "copied": copied[stage]}
            for stage, product in products.items()
        },
        "report": None if report is None else str(report),
        "logs": None if logs is None else str(logs),
    }


@contextmanager
def _bar(what: str, output: Format) -> Iterator[Callable[[int, int], None]]:
    """How far a copy is, on a terminal; it takes the bytes that came, and those to come in all."""
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    terminal = console(stderr=True)
    words = "{task.description}"
    shown = output is Format.TEXT and terminal.is_terminal
    with Progress(
        words,
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=terminal,
        transient=True,
        disable=not shown,
    ) as progress:
        task = progress.add_task(what, total=None)

        def tell(came: int, total: int) -> None:
            progress.update(task, advance=came, total=total)

        yield tell
