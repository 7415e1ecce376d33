"""`rlhf suspend`, `rlhf resume`: stop a job on a cluster with checkpoints, and go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_sdk.commands.ending import finish_command
from rlhf_sdk.commands.options import ClusterJobName, Context, Kubeconfig, Namespace, Output
from rlhf_sdk.output import Format, complain, show

if TYPE_CHECKING:
    from rlhf_sdk.cluster.jobs import ClusterJob
    from rlhf_sdk.cluster.kubectl import Kubectl


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("suspend", epilog=SUSPEND)(suspend)
    app.command("resume", epilog=RESUME)(resume)


JSON = """\
JSON: {"job", "namespace", "uid", "suspend": bool, "phase", "exitCode" (null: it has not ended), "changed": bool}."""

SUSPEND = f"""\b
Examples:
  rlhf suspend beaver -n team-a
  rlhf suspend job.yaml --wait

Running stages get SIGTERM, save a checkpoint and end; their pods go, and with them their GPUs. Work and products stay
on the claim. A job that is suspended or has ended stays as it is.

{JSON}

Exit codes: 0 it is, or will be, suspended; 1 the cluster refused or cannot be reached; 2 no such job."""

RESUME = f"""\b
Examples:
  rlhf resume beaver -n team-a
  rlhf resume beaver --wait

Stages go on from their last checkpoints, as attempts that do not count against maxRestarts. A job that is not suspended
stays as it is.

{JSON}

Exit codes: 0 it runs, with --wait done; 1 the cluster refused or cannot be reached, with --wait a stage failed; 2 no such
job; 3 (--wait) a guard tripped or a gate failed; 130 Ctrl-C while waiting: the job goes on."""


def suspend(
    ctx: typer.Context,
    job: ClusterJobName,
    namespace: Namespace = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until nothing of it runs any more.")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Stop a job on a cluster, with checkpoints."""
    kubectl, cluster_job, changed = _set(ctx, job, namespace, context, kubeconfig, suspended=True)
    if output is Format.TEXT:
        show(_suspending(kubectl, cluster_job, changed=changed))
    if wait:
        from rlhf_sdk.cluster.watch import wait_until

        cluster_job = wait_until(kubectl, cluster_job, lambda now: now.ended or now.phase == "Suspended", complain)
    finish_command(kubectl, cluster_job, wait=False, output=output, changed=changed)


def resume(
    ctx: typer.Context,
    job: ClusterJobName,
    namespace: Namespace = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Tell how it goes until it has ended.")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Let a suspended job go on from its checkpoints."""
    kubectl, cluster_job, changed = _set(ctx, job, namespace, context, kubeconfig, suspended=False)
    if output is Format.TEXT:
        show(_resuming(cluster_job, changed=changed))
    finish_command(kubectl, cluster_job, wait=wait, output=output, changed=changed)


def _set(
    ctx: typer.Context,
    job: str,
    namespace: str | None,
    context: str | None,
    kubeconfig: Path | None,
    *,
    suspended: bool,
) -> tuple[Kubectl, ClusterJob, bool]:
    """Set spec.suspend, if it would change something; the job, and whether it did."""
    from rlhf_sdk.cluster import jobs
    from rlhf_sdk.cluster.kubectl import Kubectl
    from rlhf_sdk.cluster.target import target

    name, cluster = jobs.named(job, target(ctx, namespace, context, kubeconfig))
    kubectl = Kubectl(cluster)
    cluster_job = jobs.get(kubectl, name)
    if cluster_job.suspended == suspended or (suspended and cluster_job.ended):
        return kubectl, cluster_job, False
    return kubectl, jobs.suspend(kubectl, cluster_job, suspended), True


def _suspending(kubectl: Kubectl, job: ClusterJob, *, changed: bool) -> str:
    if not changed:
        return f"{job.name}: has ended ({job.phase}); nothing to suspend" if job.ended else f"{job.name}: is suspended"
    running = [stage.name for stage in job.status.stages if stage.state in ("Pending", "Running")]
    what = f"{', '.join(running)} saves a checkpoint and ends" if running else "nothing of it runs"
    again = kubectl.target.within(job.namespace).command("resume", job.name)
    return f"{job.name}: suspended; {what}. To go on: {again}"


def _resuming(job: ClusterJob, *, changed: bool) -> str:
    if not changed:
        return f"{job.name}: is not suspended ({job.phase})"
    stopped = [stage.name for stage in job.status.stages if stage.state == "Suspended"]
    return f"{job.name}: resumed; {', '.join(stopped) or 'it'} goes on from the last checkpoint"
