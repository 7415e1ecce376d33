"""`rlhf submit`: a job file to a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_sdk.commands.ending import finish_command
from rlhf_sdk.commands.options import Context, JobFile, Kubeconfig, Namespace, Output
from rlhf_sdk.exits import CommandError
from rlhf_sdk.output import Format, complain, show

if TYPE_CHECKING:
    from rlhf_sdk.cluster.jobs import ClusterJob
    from rlhf_sdk.cluster.kubectl import Kubectl, Target


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("submit", epilog=EPILOG)(submit)


EPILOG = """\b
Examples:
  rlhf submit job.yaml -n team-a
  rlhf submit job.yaml --dry-run
  rlhf submit job.yaml --wait && rlhf pull job.yaml

The file is checked here first, as `rlhf validate` does, then by the API server; sent again, it changes nothing. A job's
spec may not change but for suspend, activeDeadlineSeconds, ttlSecondsAfterFinished and runPolicy: delete the job and
submit it again, or give it another name; finished products are reused either way.

JSON: {"job", "namespace", "uid", "suspend": bool, "phase", "exitCode" (null: it has not ended), "result": "created",
"changed" or "unchanged"}.

Exit codes: 0 it is there, with --wait done; 1 the cluster refused or cannot be reached, with --wait a stage failed;
2 the job is wrong; 3 (--wait) a guard tripped or a gate failed; 130 Ctrl-C while waiting: the job goes on."""


def submit(
    ctx: typer.Context,
    job_file: JobFile,
    namespace: Namespace = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Tell how it goes until it has ended.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Have the API server check it, but keep nothing.")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Send a job to a cluster, where the operator runs it."""
    from rlhf_sdk.cluster import submit
    from rlhf_sdk.cluster.kubectl import Kubectl
    from rlhf_sdk.cluster.target import target

    job, document = submit.read(job_file, namespace)
    for note in submit.notes(job, document, job_file.resolve().parent):
        complain(note)
    cluster = target(ctx, namespace, context, kubeconfig).within(job.metadata.namespace)
    kubectl = Kubectl(cluster)
    before, after = _apply(kubectl, submit.manifest(document, cluster.namespace), job.metadata.name, dry_run=dry_run)
    result = _result(before, after)
    if output is Format.TEXT:
        _tell(cluster.within(after.namespace), after, result, dry_run=dry_run)
    finish_command(kubectl, after, wait=wait and not dry_run, output=output, result=result)


def _apply(
    kubectl: Kubectl, manifest: dict[str, Any], name: str, *, dry_run: bool
) -> tuple[ClusterJob | None, ClusterJob]:
    """The job as it was before, if it was, and as it is now."""
    import orjson

    from rlhf_sdk.cluster.jobs import RESOURCE, ClusterJob
    from rlhf_sdk.cluster.kubectl import FIELD_MANAGER, Refused

    raw = kubectl.json("get", RESOURCE, name, "--ignore-not-found")
    before = None if raw is None else ClusterJob.of(raw)
    flags = ["--dry-run=server"] if dry_run else []
    sent = orjson.dumps(manifest)
    try:
        raw = kubectl.json(
            "apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "--filename=-", *flags, stdin=sent, alone=True
        )
    except Refused as error:
        if before is None:
            raise
        raise CommandError(f"{error}\n{_hint(before, str(error))}", error.code) from error
    return before, ClusterJob.of(raw)


def _hint(job: ClusterJob, refusal: str) -> str:
    """What to do about a job that is there already."""
    if refusal.startswith("error: Apply failed"):
        return (
            "someone else has set that field (conflict with ... names who): change it there; suspend is changed by "
            "`rlhf suspend` and `rlhf resume`"
        )
    return (
        f"{job.name} is in namespace {job.namespace} already ({job.phase}). To run what the file says now, delete that "
        "job first, or give this one another metadata.name; finished products are reused"
    )


def _result(before: ClusterJob | None, after: ClusterJob) -> str:
    if before is None:
        return "created"
    return "unchanged" if _written(before) == _written(after) else "changed"


def _written(job: ClusterJob) -> tuple[object, ...]:
    """What a user writes of it; kubectl's own note of what it applied is not that."""
    metadata = job.raw["metadata"]
    annotations = {
        name: value
        for name, value in (metadata.get("annotations") or {}).items()
        if name != "kubectl.kubernetes.io/last-applied-configuration"
    }
    return metadata.get("generation"), metadata.get("labels") or {}, annotations


def _tell(cluster: Target, job: ClusterJob, result: str, *, dry_run: bool) -> None:
    if dry_run:
        show(f"{job.name}: the API server takes it; it would be {result} in namespace {job.namespace}")
        return
    phase = f" ({job.phase})" if result != "created" else ""
    show(f"{job.name}: {result} in namespace {job.namespace}{phase}")
    if job.suspended:
        show(f"  it is suspended; start it:  {cluster.command('resume', job.name)}")
    show(f"  how it goes:  {cluster.command('status', job.name, '--watch')}")
    show(f"  a stage's log:  {cluster.command('logs', job.name, 'STAGE', '--follow')}")
    show(f"  its report, at the end:  {cluster.command('pull', job.name)}")
