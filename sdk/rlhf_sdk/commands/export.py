"""`rlhf export`: a stage's product as a plain folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_sdk.commands.options import ON_CLUSTER, Context, Kubeconfig, Namespace, OnCluster, Output, Storage
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, emit, show

if TYPE_CHECKING:
    from rlhf_sdk.cluster.kubectl import Target


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=EPILOG)(export)


EPILOG = f"""\b
Examples:
  rlhf export ppo my-model
  rlhf export reward my-scorer --job job.yaml
  rlhf export ppo earlier-model --job job.yaml@1
  rlhf export ppo my-model --job beaver -n team-a

DIR gets what transformers and other programs read, with a model card (README.md); it must be new or empty. The product
is verified first.

{ON_CLUSTER}

JSON: {{"stage", "product", "folder"}}.

Exit codes: 0 it is there; 1 it is not made yet, damaged, or the cluster refused; 2 no such run or stage, or DIR holds
something."""


def export(
    ctx: typer.Context,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Whose product.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.", show_default=False)],
    job: Annotated[
        str | None,
        typer.Option(
            "--job",
            metavar="JOB",
            help="A job file, a job's name or a UID, with @N a run that `rlhf runs` lists; by default the latest run here.",
        ),
    ] = None,
    storage: Storage = None,
    cluster: OnCluster = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Write a stage's model as a plain folder that transformers reads."""
    from rlhf_sdk.cluster.target import chosen
    from rlhf_sdk.plain_export import check_target

    target = folder.resolve()
    check_target(target)
    cluster_target = chosen(ctx, namespace, context, kubeconfig, cluster=cluster, storage=storage)
    product = (
        _from_here(job, storage, stage, target)
        if cluster_target is None
        else _from_cluster(cluster_target, job, stage, target)
    )
    if output is Format.JSON:
        emit({"stage": stage, "product": product, "folder": str(target)})
    else:
        show(f"{stage}: {target}")


def _from_here(job: str | None, storage: Path | None, stage: str, target: Path) -> str:
    from rlhf_api.store import DamagedProduct, find_verified
    from rlhf_sdk import jobs, runs
    from rlhf_sdk.local.layout import STORAGE
    from rlhf_sdk.plain_export import export as write

    if job is not None and runs.split(job)[1] is not None:
        return _numbered(job, storage, stage, target)
    if job is not None:
        run = jobs.locate(job, storage)
    else:
        every = jobs.runs(storage or Path(STORAGE))
        if not every:
            raise CommandError(f"no runs in {(storage or Path(STORAGE)).resolve()}; name one with --job", Exit.INVALID)
        run = every[0]
    state = run.state.stages.get(stage)
    if state is None:
        stages = ", ".join(run.state.stages)
        raise CommandError(f"{stage}: no stage of {run.state.job}; found {stages}", Exit.INVALID)
    if state.product is None:
        raise CommandError(f"{stage}: has no product yet ({state.state})", Exit.FAILED)
    try:
        product = find_verified(run.layout.storage, state.product)
    except DamagedProduct as damage:
        raise CommandError(f"{damage}; run the job again to make it anew", Exit.FAILED) from damage
    if product is None:
        raise CommandError(f"{stage}: has no product yet ({state.state})", Exit.FAILED)
    write(product.path, target)
    return state.product


def _numbered(name: str, storage: Path | None, stage: str, target: Path) -> str:
    from rlhf_sdk import runs
    from rlhf_sdk.plain_export import export as write

    entry = runs.find(name, storage)
    product = entry.run.products.get(stage)
    if product is None:
        stages = ", ".join(entry.run.products)
        raise CommandError(f"{stage}: no stage of {name}; found {stages}", Exit.INVALID)
    write(runs.verified(entry, product), target)
    return product


def _from_cluster(cluster_target: Target, job: str | None, stage: str, target: Path) -> str:
    from rlhf_sdk.cluster import download, jobs, reader_pod
    from rlhf_sdk.cluster.kubectl import Kubectl
    from rlhf_sdk.plain_export import export as write

    if job is None:
        raise CommandError("--job: a job on a cluster must be named", Exit.INVALID)
    name, cluster_target = jobs.named(job, cluster_target)
    kubectl = Kubectl(cluster_target)
    cluster_job = jobs.get(kubectl, name)
    product = download.products(cluster_job, [stage], everything=False)[stage]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as temporary:
        copy = Path(temporary) / stage
        with reader_pod.reader(kubectl, cluster_job) as reader:
            download.product(reader, product, copy, lambda *_: None)
        write(copy, target)
    return product
