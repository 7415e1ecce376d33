"""What a namespace's jobs may name, by the operator's configuration: profiles, claims, Secrets, service accounts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rlhf_api import devices
from rlhf_api.errors import Finding, Loc
from rlhf_api.job import RLHFJob
from rlhf_api.kubernetes import written
from rlhf_api.plan import plan
from rlhf_api.pods import Pod
from rlhf_api.sources import parse_source
from rlhf_api.volumes import VOLUME_TYPES
from rlhf_operator.reconcile import claims, profiles
from rlhf_operator.reconcile.settings import CPU, Settings, Tenancy

_CLAIMS = (
    ("persistentVolumeClaim", "claimName"),
    ("ephemeral", "volumeClaimTemplate", "spec", "dataSource", "name"),
    ("ephemeral", "volumeClaimTemplate", "spec", "dataSourceRef", "name"),
)
"""Where a volume names a claim: to mount it, or to begin as a copy of it."""


NOT_BY_DEFAULT = ("csi", "ephemeral")
"""Kinds of volumes that must be allowed by name."""
OF_THE_CLUSTER = "system-"
"""How Kubernetes' own priority classes begin, whose pods evict all others: they must be allowed by name, too."""


def forbidden(job: RLHFJob, settings: Settings, pinned: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Everything a job uses, by name or by default, that its namespace may not; relative to `spec`.

    Args:
        job: the job.
        settings: the platform's configuration.
        pinned: the profiles that the job began with.
    """
    tenancy = settings.tenancy_of(job.metadata.namespace or "default")
    for at, named, name in profiles.chosen(job, settings):
        yield from _check(at, "profile" if named else "default profile", name, tenancy.profiles)
    for at, name in _claims(job):
        yield from _check(at, "claim", name, tenancy.claims)
    for at, name in _secrets(job):
        yield from _check(at, "Secret", name, tenancy.secrets)
    for at, pod in _pods(job):
        if pod.service_account_name is not None:
            name = pod.service_account_name
            yield from _check((*at, "serviceAccountName"), "service account", name, tenancy.service_accounts)
        if pod.priority_class_name is not None:
            name = pod.priority_class_name
            classes = tenancy.priority_classes
            if classes is None and name.startswith(OF_THE_CLUSTER):
                classes = []
            yield from _check((*at, "priorityClassName"), "priority class", name, classes)
        if pod.runtime_class_name is not None:
            name = pod.runtime_class_name
            yield from _check((*at, "runtimeClassName"), "runtime class", name, tenancy.runtime_classes)
        for index, volume in enumerate(pod.volumes):
            kind = next(field for field in written(volume) if field != "name")
            kinds = tenancy.volume_types
            if kinds is None:
                kinds = [volume_type for volume_type in VOLUME_TYPES if volume_type not in NOT_BY_DEFAULT]
            yield from _check((*at, "volumes", index, kind), "volume type", kind, kinds)
    if tenancy.max_pods is not None or tenancy.max_devices is not None:
        yield from _sizes(job, settings, pinned or {}, tenancy)


def _sizes(job: RLHFJob, settings: Settings, pinned: Mapping[str, str], tenancy: Tenancy) -> Iterator[Finding]:
    """Stages of more pods or devices than the namespace may have. A profile that is missing is told of elsewhere."""
    for stage in plan(job).stages:
        name = profiles.name_of(stage, settings)
        if name not in (CPU, *settings.profiles, *pinned):
            continue
        shape = profiles.shape(job, stage, pinned, settings)
        for what, size, most in (
            ("pods", shape.nodes, tenancy.max_pods),
            ("devices", shape.nodes * devices.count(shape.resources.limits), tenancy.max_devices),
        ):
            if most is not None and size > most:
                message = f"stage {stage.name} has {size} {what}; this namespace may use {most} a stage"
                yield Finding(_place(job, stage.name), message)


def _place(job: RLHFJob, stage: str) -> Loc:
    """Where a stage's size is said: its override, else the stage."""
    overrides = [override.stage for override in job.spec.run_policy.overrides]
    if stage in overrides:
        return "runPolicy", "overrides", overrides.index(stage)
    names = [entry.name for entry in job.spec.stages]
    return ("stages", names.index(stage)) if stage in names else ()


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


def _claims(job: RLHFJob) -> Iterator[tuple[Loc, str]]:
    """Claims, those made from a template by the name they get: who may use none may have none made, of any size."""
    if job.spec.storage is not None:
        field = "claimName" if job.spec.storage.claim_name is not None else "claimTemplate"
        yield ("storage", field), claims.claim_name(job)
    for index, entry in enumerate(job.spec.inputs):
        source = parse_source(entry.source)
        if source.kind == "claim":
            yield ("inputs", index, "source"), source.location
    for at, pod in _pods(job):
        for index, volume in enumerate(pod.volumes):
            for path in _CLAIMS:
                name = _at(written(volume), *path)
                if name is not None:
                    yield (*at, "volumes", index, *path), name


def _secrets(job: RLHFJob) -> Iterator[tuple[Loc, str]]:
    if job.spec.credentials is not None:
        yield ("credentials", "secretName"), job.spec.credentials.secret_name
    for at, pod in _pods(job):
        for index, name in enumerate(pod.image_pull_secrets):
            yield (*at, "imagePullSecrets", index), name
        for index, volume in enumerate(pod.volumes):
            yield from _volume_secrets((*at, "volumes", index), written(volume))


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
