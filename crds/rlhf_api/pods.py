"""The closed list of pod fields that a job may refine, and what it may not take over from the platform."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from rlhf_api import devices, quantities
from rlhf_api.base import ApiModel, Cel, distinct
from rlhf_api.contract import OFFLINE
from rlhf_api.error_messages import describe
from rlhf_api.errors import Finding, Loc
from rlhf_api.fields import MAX_ITEMS, ObjectName, Quantity, ShortString, StringMap, shaped
from rlhf_api.kubernetes import Affinity, Toleration
from rlhf_api.quantities import above, amount
from rlhf_api.volumes import Volume, VolumeMount

RESERVED_LABELS = (
    "app.kubernetes.io/",
    "rlhf.dev/",
    "batch.kubernetes.io/",
    "kueue.x-k8s.io/",
    "job-name",
    "controller-uid",
)
"""Prefixes of labels and annotations that the operator, Kueue or the Job controller set."""
PODSET = "kueue.x-k8s.io/podset-"
"""Prefix of the annotations of a pod by which Kueue places a gang: a rack or a block that all its pods share."""
RESERVED_ENV = {
    *(
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "NODE_RANK",
        "ROLE_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "ROLE_WORLD_SIZE",
    ),
    *("MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX"),
    *OFFLINE,
}
"""Set by the launcher, or what keeps stages offline."""
RESERVED_ENV_PREFIXES = ("RLHF_", "TORCHELASTIC_")
SECRET_ENV = {
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AZURE_STORAGE_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "WANDB_API_KEY"),
}
"""What belongs in a Secret."""
MOST_CPUS = "65536"
"""Of a pod."""

_MOST = f"a quantity is at most {quantities.MOST}"
_MOST_CPUS = f"a pod has at most {MOST_CPUS} cpus"
_LIMIT_ALONE = "of a device give the limit alone"
_MOST_DEVICES = f"a pod has at most {devices.MOST} devices, one for each rank"
_ONE_KIND = "a pod has one kind of device"
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def pod_rules() -> tuple[Cel, ...]:
    """The same as far as the API server checks it."""
    prefixes = ", ".join(f"'{prefix}'" for prefix in RESERVED_LABELS)
    reserved = f"[{prefixes}].exists(p, k.startsWith(p))"
    allowed = f"k.startsWith('{PODSET}')"
    named = ", ".join(f"'{name}'" for name in sorted(RESERVED_ENV | SECRET_ENV))
    prefixed = " && ".join(f"!e.name.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES)
    message = "is set by the platform, not by a job"
    return (
        Cel(f"!has(self.labels) || !self.labels.exists(k, {reserved})", f"a label {message}", ".labels"),
        Cel(
            f"!has(self.annotations) || self.annotations.all(k, {allowed} || !{reserved})",
            f"an annotation {message}",
            ".annotations",
        ),
        Cel(
            f"!has(self.env) || self.env.all(e, !(e.name in [{named}]) && {prefixed})",
            "a variable is the launcher's, or holds a secret: those belong in spec.credentials",
            ".env",
        ),
    )


def pod_findings(pod: Pod) -> Iterator[Finding]:
    """What is wrong with a pod's fields."""
    yield from _labels("nodeSelector", pod.node_selector, values=True)
    yield from _labels("labels", pod.labels, values=True)
    yield from _labels("annotations", pod.annotations, values=False)
    for field, mapping in (("labels", pod.labels), ("annotations", pod.annotations)):
        yield from _reserved(field, mapping)
    yield from _environment(pod)
    yield from _volumes(pod)
    yield from _mounts(pod)


def label_findings(field: str, mapping: Mapping[str, str]) -> Iterator[Finding]:
    """What the API server would refuse of labels."""
    yield from _labels(field, mapping, values=True)


def resource_rules() -> tuple[Cel, ...]:
    """The bounds of `resource_findings`, for the API server."""
    device = f"k.matches(r'{devices.PATTERN}')"
    return (
        *(_bounded(field, "", quantities.MOST, _MOST) for field in ("requests", "limits")),
        *(_bounded(field, "k != 'cpu' || ", MOST_CPUS, _MOST_CPUS) for field in ("requests", "limits")),
        _bounded("limits", f"!{device} || ", str(devices.MOST), _MOST_DEVICES),
        Cel(f"!has(self.limits) || self.limits.filter(k, {device}).size() <= 1", _ONE_KIND, ".limits"),
        Cel(
            "!has(self.requests) || self.requests.all(k, !k.contains('/') || (has(self.limits) && k in self.limits))",
            _LIMIT_ALONE,
            ".requests",
        ),
    )


def _bounded(field: str, unless: str, most: str, message: str) -> Cel:
    bound = f"quantity(self.{field}[k]).compareTo(quantity('{most}')) <= 0"
    return Cel(f"!has(self.{field}) || self.{field}.all(k, {unless}{bound})", message, f".{field}")


def resource_findings(resources: Resources) -> Iterator[Finding]:
    """Requests above their limits; fractions of what comes whole; more than any machine has."""
    for field, amounts in (("requests", resources.requests), ("limits", resources.limits)):
        for name, quantity in amounts.items():
            yield from _quantity((field, name), name, quantity)
    for name, requested in resources.requests.items():
        limit = resources.limits.get(name)
        if limit is None:
            if "/" in name:
                yield Finding(("requests", name), f"found {requested} without a limit; {_LIMIT_ALONE}")
        elif above(requested, limit):
            yield Finding(("requests", name), f"found {requested}, above its limit of {limit}", "raise the limit")
        elif "/" in name and amount(requested) != amount(limit):
            message = f"found {requested} beside a limit of {limit}; expected the same of a device"
            yield Finding(("requests", name), message, "give the limit alone")
    kinds = [name for name in resources.limits if devices.is_device(name)]
    if len(kinds) > 1:
        yield Finding(("limits", kinds[1]), f"found it beside {kinds[0]}; {_ONE_KIND}", "leave one out")


def _quantity(at: Loc, name: str, quantity: str) -> Iterator[Finding]:
    if name == "cpu" and above(quantity, MOST_CPUS):
        yield Finding(at, f"found {quantity}; {_MOST_CPUS}")
    elif "/" in name and amount(quantity) % 1:
        yield Finding(at, f"found {quantity}; expected a whole number of devices")
    elif devices.is_device(name) and above(quantity, str(devices.MOST)):
        yield Finding(at, f"found {quantity}; {_MOST_DEVICES}", "set nodes for more pods")


def _labels(field: str, mapping: Mapping[str, str], *, values: bool) -> Iterator[Finding]:
    for key, value in mapping.items():
        prefix, slash, name = key.rpartition("/")
        if not name or not _LABEL.fullmatch(name) or (slash and not _DNS_SUBDOMAIN.fullmatch(prefix)):
            message = (
                f"found the key {key!r}; expected [prefix/]name of letters, digits, -, _ and ., at most 63 of them"
            )
            yield Finding((field, key), message, on_key=True)
        elif values and not _LABEL.fullmatch(value):
            message = f"found {describe(value)}; expected letters, digits, -, _ and ., at most 63 of them"
            yield Finding((field, key), message)


def _reserved(field: str, mapping: Mapping[str, str]) -> Iterator[Finding]:
    for key in mapping:
        if field == "annotations" and key.startswith(PODSET):
            continue
        if key.startswith(RESERVED_LABELS):
            where = "set it on metadata.labels" if key.startswith("kueue") else "leave it out"
            yield Finding((field, key), "is set by the platform, not by a job", where, on_key=True)


def _environment(pod: Pod) -> Iterator[Finding]:
    first_index: dict[str, int] = {}
    for index, variable in enumerate(pod.env):
        at = ("env", index, "name")
        if variable.name in RESERVED_ENV or variable.name.startswith(RESERVED_ENV_PREFIXES):
            yield Finding(at, f"{variable.name} is set by the launcher, not by a job", "leave it out")
        elif variable.name in SECRET_ENV:
            message = f"{variable.name} holds a secret; a job is readable by all who may list jobs"
            yield Finding(at, message, "put it in a Secret and name that in spec.credentials")
        first = first_index.setdefault(variable.name, index)
        if first != index:
            yield Finding(at, f"{variable.name} is given twice, first as env[{first}]", "leave one out")


def _volumes(pod: Pod) -> Iterator[Finding]:
    first_index: dict[str, int] = {}
    for index, volume in enumerate(pod.volumes):
        at, name = ("volumes", index, "name"), volume.name
        if name.startswith("rlhf-"):
            yield Finding(at, f"found {name}: names that begin with rlhf- are the operator's", "rename it")
        elif first_index.setdefault(name, index) != index:
            yield Finding(at, f"{name} is given twice, first as volumes[{first_index[name]}]", "rename one")


def _mounts(pod: Pod) -> Iterator[Finding]:
    first_index: dict[str, int] = {}
    for index, mount in enumerate(pod.volume_mounts):
        at, path = ("volumeMounts", index, "mountPath"), mount.mount_path
        if not path.startswith("/") or ":" in path or ".." in path.split("/"):
            yield Finding(at, f"found {describe(path)}; expected an absolute path without a colon or ..")
        elif first_index.setdefault(path, index) != index:
            yield Finding(at, f"{path} is mounted twice, first by volumeMounts[{first_index[path]}]")


class Resources(ApiModel):
    """What one pod asks for."""

    cel = resource_rules()

    requests: Annotated[dict[ShortString, Quantity], Field(max_length=16)] = {}
    """Kubernetes requests."""
    limits: Annotated[dict[ShortString, Quantity], Field(max_length=16)] = {}
    """Kubernetes limits."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from resource_findings(self)


class EnvVar(ApiModel):
    """One environment variable of the trainer's container."""

    name: Annotated[str, shaped(r"^[A-Za-z_][A-Za-z0-9_]*$", "letters, digits and _, no digit first", max_length=253)]
    """Name."""
    value: Annotated[str, Field(max_length=4096)]
    """Value; a Secret's does not belong here."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        if "\0" in self.value:
            yield Finding(("value",), "found a NUL character, which no process can be given; expected text without")


class Pod(ApiModel):
    """The closed list of pod fields a job may refine."""

    cel = pod_rules()

    node_selector: StringMap = {}
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=MAX_ITEMS)] = []
    """Taints that are tolerated; Kubernetes tolerations."""
    affinity: Affinity | None = None
    """Kubernetes affinity."""
    labels: StringMap = {}
    """Further labels; none of the operator's own."""
    annotations: StringMap = {}
    """Further annotations."""
    env: Annotated[list[EnvVar], Field(max_length=MAX_ITEMS)] = []
    """Environment of the trainer."""
    volumes: Annotated[list[Volume], Field(max_length=MAX_ITEMS)] = []
    """Kubernetes volumes; of the types configMap, csi, downwardAPI, emptyDir, ephemeral, persistentVolumeClaim,
    projected and secret."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=MAX_ITEMS)] = []
    """Where the trainer sees them; Kubernetes volume mounts."""
    priority_class_name: ObjectName | None = None
    """Priority class."""
    service_account_name: ObjectName | None = None
    """Service account; its token is not mounted."""
    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=8), AfterValidator(distinct)] = []
    """Names of image pull Secrets."""
    runtime_class_name: ObjectName | None = None
    """Runtime class."""
    fs_group: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Group that owns the storage."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from pod_findings(self)
