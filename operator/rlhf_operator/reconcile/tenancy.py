"""What a namespace's jobs may name, by the operator's configuration: profiles, claims, Secrets, service accounts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rlhf_api.errors import Finding, Loc
from rlhf_api.job import Pod, RLHFJob
from rlhf_api.sources import parse_source
from rlhf_operator.reconcile.settings import Tenancy


def forbidden(job: RLHFJob, tenancy: Tenancy) -> Iterator[Finding]:
    """Everything a job names that its namespace may not use, relative to `spec`."""
    for at, name in _profiles(job):
        yield from _check(at, "profile", name, tenancy.profiles)
    for at, name in _claims(job):
        yield from _check(at, "claim", name, tenancy.claims)
    for at, name in _secrets(job):
        yield from _check(at, "Secret", name, tenancy.secrets)
    for at, pod in _pods(job):
        if pod.service_account_name is not None:
            name = pod.service_account_name
            yield from _check((*at, "serviceAccountName"), "service account", name, tenancy.service_accounts)


def _check(at: Loc, what: str, name: str, allowed: Sequence[str] | None) -> Iterator[Finding]:
    if allowed is not None and not any(fnmatchcase(name, pattern) for pattern in allowed):
        hint = f"it may use {', '.join(allowed)}" if allowed else "it may use none"
        yield Finding(at, f"this namespace may not use the {what} {name}", hint)


def _pods(job: RLHFJob) -> Iterator[tuple[Loc, Pod]]:
    if job.spec.pod is not None:
        yield ("pod",), job.spec.pod
    for index, stage in enumerate(job.spec.stages):
        if stage.pod is not None:
            yield ("stages", index, "pod"), stage.pod
    for index, override in enumerate(job.spec.run_policy.overrides):
        if override.pod is not None:
            yield ("runPolicy", "overrides", index, "pod"), override.pod


def _profiles(job: RLHFJob) -> Iterator[tuple[Loc, str]]:
    if job.spec.profile is not None:
        yield ("profile",), job.spec.profile
    for index, stage in enumerate(job.spec.stages):
        if stage.profile is not None:
            yield ("stages", index, "profile"), stage.profile


def _claims(job: RLHFJob) -> Iterator[tuple[Loc, str]]:
    if job.spec.storage is not None and job.spec.storage.claim_name is not None:
        yield ("storage", "claimName"), job.spec.storage.claim_name
    for index, entry in enumerate(job.spec.inputs):
        source = parse_source(entry.source)
        if source.kind == "claim":
            yield ("inputs", index, "source"), source.location
    for at, pod in _pods(job):
        for index, volume in enumerate(pod.volumes):
            name = _at(volume, "persistentVolumeClaim", "claimName")
            if name is not None:
                yield (*at, "volumes", index, "persistentVolumeClaim", "claimName"), name


def _secrets(job: RLHFJob) -> Iterator[tuple[Loc, str]]:
    if job.spec.credentials is not None:
        yield ("credentials", "secretName"), job.spec.credentials.secret_name
    for at, pod in _pods(job):
        for index, name in enumerate(pod.image_pull_secrets):
            yield (*at, "imagePullSecrets", index), name
        for index, volume in enumerate(pod.volumes):
            yield from _volume_secrets((*at, "volumes", index), volume)


def _volume_secrets(at: Loc, volume: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Secrets of a volume: its own, those projected into it, those its driver is given."""
    for path in (("secret", "secretName"), ("csi", "nodePublishSecretRef", "name")):
        name = _at(volume, *path)
        if name is not None:
            yield (*at, *path), name
    projected = volume.get("projected")
    sources = projected.get("sources") if isinstance(projected, dict) else None
    for index, source in enumerate(sources if isinstance(sources, list) else ()):
        name = _at(source, "secret", "name")
        if name is not None:
            yield (*at, "projected", "sources", index, "secret", "name"), name


def _at(value: Any, *path: str) -> str | None:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
