"""A job file on its way to a cluster: what is right on this machine alone is said before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_api.contract import JOB_PATH
from rlhf_api.errors import Finding, Loc, SpecError, SpecProblem, format_path
from rlhf_api.job import RLHFJob
from rlhf_api.load import read_job
from rlhf_api.sources import parse_source
from rlhf_api.yaml import Document
from rlhf_sdk.exits import CommandError, Exit

"""Where a job mounts functions of its own that are not in the trainer's image."""


def read(path: Path, namespace: str | None) -> tuple[RLHFJob, Document]:
    """The job in a file, fit for a cluster.

    Args:
        path: the file.
        namespace: the one that flags name.

    Raises:
        CommandError: it is refused; every problem on a line of its own, as `file:line:column: path: message`.
    """
    try:
        job, document = read_job(path)
    except SpecError as error:
        raise CommandError(str(error), Exit.INVALID) from error
    lines = []
    for finding in unfit(job, namespace):
        line, column = document.position(finding.at)
        lines.append(
            SpecProblem(format_path(finding.at), finding.message, finding.hint, line, column).render(str(path))
        )
    if lines:
        raise CommandError("\n".join(lines), Exit.INVALID)
    return job, document


def unfit(job: RLHFJob, namespace: str | None) -> Iterator[Finding]:
    """What a cluster cannot do that this machine can."""
    written = job.metadata.namespace
    if namespace is not None and written is not None and written != namespace:
        yield Finding(
            ("metadata", "namespace"), f"found {written}, but --namespace {namespace}", "leave one of them out"
        )
    if job.spec.storage is None:
        hint = "write storage: {claimName: NAME}, or a claimTemplate"
        yield Finding(("spec", "storage"), "is missing; on a cluster work and products need a claim", hint)
    for index, entry in enumerate(job.spec.inputs):
        if parse_source(entry.source).kind == "path":
            message = f"found {entry.source}, a path on this machine, which no pod sees"
            hint = "copy it to a claim and write pvc://CLAIM/PATH, or name what prepare can fetch: hf://..., s3://..."
            yield Finding(("spec", "inputs", index, "source"), message, hint)


def notes(job: RLHFJob, document: Document, folder: Path) -> Iterator[str]:
    """What may be forgotten: functions in files beside the job, which are not sent along."""
    pods = [job.spec.pod, *(stage.pod for stage in job.spec.stages)]
    if any(mount.mount_path == JOB_PATH for pod in pods if pod is not None for mount in pod.volume_mounts):
        return
    for loc, function in sorted(set(_functions(document.value, ())), key=lambda entry: document.position(entry[0])):
        beside = Path(*function.partition(":")[0].split(".")).with_suffix(".py")
        if (folder / beside).is_file():
            line, column = document.position(loc)
            yield (
                f"{document.source}:{line}:{column}: {format_path(loc)}: {beside} beside the job is not sent along; "
                f"unless the trainer's image has it, mount it at {JOB_PATH} (spec.pod.volumes, from a ConfigMap)"
            )


def manifest(document: Document, namespace: str | None) -> dict[str, Any]:
    """What is sent: the file as it was written, for the namespace that is meant."""
    value: dict[str, Any] = document.value
    if namespace is None:
        return value
    return value | {"metadata": value["metadata"] | {"namespace": namespace}}


def _functions(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "function" and isinstance(item, str):
                yield (*loc, key), item
            else:
                yield from _functions(item, (*loc, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _functions(item, (*loc, index))
