"""What an attempt's pods are made of: the platform's profile, refined by job and stage, then by an override.

Profiles are copied into status when a job starts; from then on the copy counts, whatever the configuration says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_api import devices
from rlhf_api.error_messages import nearest
from rlhf_api.errors import Finding, Loc
from rlhf_api.job import RLHFJob
from rlhf_api.plan import Plan, PlannedStage
from rlhf_api.pods import Pod, Resources
from rlhf_api.quantities import amount
from rlhf_api.run_policy import Override
from rlhf_api.stages import REPORT
from rlhf_operator.reconcile.identity import ById
from rlhf_operator.reconcile.memo import JOBS
from rlhf_operator.reconcile.settings import CPU, Profile, Settings
from rlhf_operator.reconcile.stored import profile_of

PLACEMENT = ("node_selector", "affinity", "runtime_class_name")
"""Pod fields of a job that lead to its accelerators: prepare and report do not take them."""

TOPOLOGY = "topology.kubernetes.io/"
"""Of labels that say in which zone or region a node is."""


@dataclass(frozen=True)
class Shape:
    """What an attempt's pods are made of."""

    image: str
    nodes: int
    ranks: int
    """Processes a pod."""
    resources: Resources
    pod: Pod
    shared_memory: str

    @property
    def world(self) -> int:
        """Processes of the gang."""
        return self.nodes * self.ranks

    @property
    def threads(self) -> int:
        """Threads a process may use, so that a gang behaves the same on every node; 0 where nothing bounds them."""
        cpu = self.resources.limits.get("cpu") or self.resources.requests.get("cpu")
        return 0 if cpu is None else max(1, int(amount(cpu)) // self.ranks)


def pin(plan: Plan, settings: Settings) -> dict[str, str]:
    """Copies for status of the profiles a job uses, each with its image.

    Raises:
        KeyError: there is no such profile; `missing` says so in words.
    """
    pinned = {}
    for name in sorted({name_of(stage, settings) for stage in plan.stages}):
        profile = _configured(name, settings)
        image = profile.image or settings.image
        pinned[name] = profile.model_copy(update={"image": image}).model_dump_json(exclude_defaults=True)
    return pinned


def missing(job: RLHFJob, settings: Settings) -> Iterator[Finding]:
    """Profiles that the platform does not have."""
    names = sorted({CPU, *settings.profiles})
    for at, named, name in chosen(job, settings):
        if name not in names:
            message = f"there is no profile {name}" if named else f"none is given, and there is no profile {name}"
            close = nearest(name, names)
            yield Finding(at, message, f"did you mean {close}?" if close else f"there are {', '.join(names)}")


def chosen(job: RLHFJob, settings: Settings) -> Iterator[tuple[Loc, bool, str]]:
    """Profiles of a job's stages: the field that decides, whether it is given, and the profile's name."""
    unnamed = any(stage.profile is None and stage.type != REPORT for stage in job.spec.stages)
    if job.spec.profile or unnamed:
        yield ("profile",), bool(job.spec.profile), job.spec.profile or settings.default_profile
    for index, stage in enumerate(job.spec.stages):
        if stage.profile:
            yield ("stages", index, "profile"), True, stage.profile


def name_of(stage: PlannedStage, settings: Settings) -> str:
    """The stage's profile."""
    return stage.profile or settings.default_profile


def shape(job: RLHFJob, stage: PlannedStage, pinned: Mapping[str, str], settings: Settings) -> Shape:
    """What the next attempt of a stage is made of."""
    profile = pinned.get(name_of(stage, settings))
    name = ("shape", ById(stage), profile, ById(settings))
    return JOBS.result(job, name, lambda: _shape(job, stage, profile, settings))


def _shape(job: RLHFJob, stage: PlannedStage, pinned: str | None, settings: Settings) -> Shape:
    """Asked for several times a look; checking what it is made of costs more than all else of a look."""
    name = name_of(stage, settings)
    profile = _configured(name, settings) if pinned is None else profile_of(name, pinned)[0]
    written = next((entry for entry in job.spec.stages if entry.name == stage.name), None)
    light = stage.profile == CPU and (written is None or written.type == stage.type == REPORT)
    stage_resources = None if written is None else written.resources
    resources = stage_resources or (None if light else job.spec.resources) or profile.resources
    pod = merged(profile.pod, _unplaced(job) if light else job.spec.pod, written.pod if written else None)
    nodes = stage.nodes or profile.nodes
    override = override_of(job, stage.name)
    if override is not None:
        resources = override.resources or resources
        pod = replaced(pod, override.pod)
        nodes = override.nodes or nodes
    ranks = stage.ranks_per_node or profile.ranks_per_node or devices.count(resources.limits) or 1
    return Shape(profile.image or settings.image, nodes, ranks, resources, pod, profile.shared_memory)


def override_of(job: RLHFJob, stage: str) -> Override | None:
    """What runPolicy changes of a stage's attempts to come."""
    return next((override for override in job.spec.run_policy.overrides if override.stage == stage), None)


def merged(*pods: Pod | None) -> Pod:
    """Pod fields, later ones refining earlier: maps by key, lists by name, the rest as a whole."""
    fields: dict[str, Any] = {}
    for pod in pods:
        for name in () if pod is None else pod.model_fields_set:
            value, before = getattr(pod, name), fields.get(name)
            if isinstance(value, dict):
                fields[name] = {**(before or {}), **value}
            elif isinstance(value, list):
                fields[name] = _joined(before or [], value)
            else:
                fields[name] = value
    return Pod().model_copy(update=fields)


def replaced(pod: Pod, override: Pod | None) -> Pod:
    """Pod fields, with those that an override gives in place of them."""
    if override is None:
        return pod
    return pod.model_copy(update={name: getattr(override, name) for name in override.model_fields_set})


def _configured(name: str, settings: Settings) -> Profile:
    return settings.profiles.get(name, Profile()) if name == CPU else settings.profiles[name]


def _unplaced(job: RLHFJob) -> Pod | None:
    """The job's pod fields without those that lead to accelerators. A zone stays where a volume is to be made: it is made
    where the first pod runs, prepare's, and the others must reach it."""
    pod = job.spec.pod
    if pod is None:
        return None
    fields = {name: getattr(pod, name) for name in pod.model_fields_set - set(PLACEMENT)}
    zone = {key: value for key, value in pod.node_selector.items() if key.startswith(TOPOLOGY)}
    if zone and job.spec.storage is not None and job.spec.storage.claim_template is not None:
        fields["node_selector"] = zone
    return Pod().model_copy(update=fields)


def _joined(before: list[Any], after: list[Any]) -> list[Any]:
    """Entries of both; of entries with the same identity (a name, a mount's path) the later."""

    def identity(entry: Any) -> Any:
        return getattr(entry, "mount_path", None) or getattr(entry, "name", entry)

    return list({identity(entry): entry for entry in (*before, *after)}.values())
