"""`rlhf retry`: start a failed job on a cluster again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_sdk.commands.ending import finish_command
from rlhf_sdk.commands.options import ClusterJobName, Context, Kubeconfig, Namespace, Output
from rlhf_sdk.exits import CommandError, Exit
from rlhf_sdk.output import Format, complain, show

if TYPE_CHECKING:
    from rlhf_sdk.cluster.jobs import ClusterJob


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("retry", epilog=EPILOG)(retry)


EPILOG = """\b
Examples:
  rlhf retry beaver -n team-a
  rlhf retry beaver --wait

It sets the annotation rlhf.dev/retry to a new value. Finished stages are reused, the failed one goes on from its last
checkpoint with its restarts counted anew. The spec stays what it was: give a stage other resources in
spec.runPolicy.overrides first; a job with another spec is another job. One that runs or is complete stays as it is.

JSON: {"job", "namespace", "uid", "suspend": bool, "phase", "exitCode" (null: it has not ended), "changed": bool}.

Exit codes: 0 it runs again, with --wait done; 1 the cluster refused or cannot be reached, with --wait a stage failed; 2
no such job, or its spec is refused; 3 (--wait) a guard tripped or a gate failed; 130 Ctrl-C while waiting: the job goes
on."""


def retry(
    ctx: typer.Context,
    job: ClusterJobName,
    namespace: Namespace = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Tell how it goes until it has ended.")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Start a failed job again, from its failed stage."""
    from datetime import UTC, datetime

    from rlhf_sdk.cluster import jobs
    from rlhf_sdk.cluster.kubectl import Kubectl
    from rlhf_sdk.cluster.target import target

    name, cluster = jobs.named(job, target(ctx, namespace, context, kubeconfig))
    kubectl = Kubectl(cluster)
    cluster_job = jobs.get(kubectl, name)
    if cluster_job.phase == "Invalid":
        raise CommandError(
            f"{name}: its spec is refused, which no retry changes: {cluster.command('status', name)}. Delete the job, mend "
            "its file, submit it again",
            Exit.INVALID,
        )
    changed = cluster_job.ended and not cluster_job.holds("Complete")
    text = _words(cluster_job, changed=changed)
    if changed:
        _warn(cluster_job)
        cluster_job = jobs.ask_retry(kubectl, cluster_job, datetime.now(UTC).isoformat())
    if output is Format.TEXT:
        show(text)
    finish_command(kubectl, cluster_job, wait=wait, output=output, changed=changed)


def _words(job: ClusterJob, *, changed: bool) -> str:
    if changed:
        failed = [stage.name for stage in job.status.stages if stage.state == "Failed"]
        return f"{job.name}: starts again from {', '.join(failed)}; what is finished is reused"
    if job.retrying:
        return f"{job.name}: a retry was asked for already; the operator has not acted on it yet"
    return f"{job.name}: has not failed ({job.phase}); nothing to retry"


def _warn(job: ClusterJob) -> None:
    """Failures that a retry alone does not mend."""
    if job.exit in (Exit.INVALID, Exit.REFUSED) and job.failed is not None:
        complain(
            f"{job.failed.name} failed by what it was given ({job.failed.reason}), not by chance: unless its inputs or "
            "the platform have changed it will fail again"
        )
    if job.suspended:
        complain(f"{job.name} is suspended too: it goes on when it is resumed")
