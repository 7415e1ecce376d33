"""Volumes that the `restricted` Pod Security Standard lets a pod mount, as Kubernetes defines them, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rlhf_api.base import exactly_one, one_of
from rlhf_api.error_messages import describe
from rlhf_api.errors import Finding
from rlhf_api.fields import ObjectName, Quantity, shaped
from rlhf_api.kubernetes import Key, KubernetesModel

Mode = Annotated[int, Field(ge=0, le=0o777)]
Path = Annotated[str, Field(min_length=1, max_length=1024)]
Short = Annotated[str, Field(min_length=1, max_length=253)]
VolumeName = Annotated[
    str,
    shaped(
        r"^[a-z0-9](-*[a-z0-9])*$",
        "a name of lower case letters, digits and dashes",
        max_length=63,
    ),
]


class _File(KubernetesModel):
    """A file of a volume. The API server would refuse the pod: it may lie nowhere else."""

    path: Path

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from _inside("path", self.path)


def _inside(field: str, path: str) -> Iterator[Finding]:
    """A finding where a path leaves the volume."""
    if path.startswith(("/", "..")) or ".." in path.split("/"):
        yield Finding((field,), f"found {describe(path)}; expected a relative path without ..")


class KeyToPath(_File):
    key: Short
    mode: Mode | None = None


class FieldRef(KubernetesModel):
    api_version: Annotated[str, Field(max_length=64)] | None = None
    field_path: Short


class ResourceFieldRef(KubernetesModel):
    container_name: Short | None = None
    resource: Short
    divisor: Quantity | None = None


class DownwardFile(_File):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: Mode | None = None

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, ("field_ref", "resource_field_ref"))


Items = Annotated[list[KeyToPath], Field(max_length=32)]
DownwardFiles = Annotated[list[DownwardFile], Field(max_length=32)]


class ConfigMapProjection(KubernetesModel):
    name: ObjectName
    items: Items = []
    optional: bool | None = None


class ConfigMapVolume(ConfigMapProjection):
    default_mode: Mode | None = None


class SecretProjection(KubernetesModel):
    name: ObjectName
    items: Items = []
    optional: bool | None = None


class SecretVolume(KubernetesModel):
    secret_name: ObjectName
    items: Items = []
    default_mode: Mode | None = None
    optional: bool | None = None


class DownwardProjection(KubernetesModel):
    items: DownwardFiles = []


class DownwardVolume(DownwardProjection):
    default_mode: Mode | None = None


class ClusterTrustBundleProjection(_File):
    """By name; those that a selector finds change under a running job."""

    name: Short
    optional: bool | None = None


class ProjectedSource(KubernetesModel):
    """Nothing by which a pod shows who it is."""

    unknown = "pods have no service-account token, nor other identity"
    cel = (one_of("clusterTrustBundle", "configMap", "downwardAPI", "secret"),)

    cluster_trust_bundle: ClusterTrustBundleProjection | None = None
    config_map: ConfigMapProjection | None = None
    downward_api: Annotated[DownwardProjection | None, Field(alias="downwardAPI")] = None
    secret: SecretProjection | None = None

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, tuple(type(self).model_fields))


class ProjectedVolume(KubernetesModel):
    sources: Annotated[list[ProjectedSource], Field(max_length=16)] = []
    default_mode: Mode | None = None


class EmptyDir(KubernetesModel):
    medium: Annotated[str, Field(max_length=63)] | None = None
    size_limit: Quantity | None = None


class ClaimVolume(KubernetesModel):
    claim_name: ObjectName
    read_only: bool | None = None


class SecretRef(KubernetesModel):
    name: ObjectName


class CsiVolume(KubernetesModel):
    driver: Short
    fs_type: Short | None = None
    node_publish_secret_ref: SecretRef | None = None
    read_only: bool | None = None
    volume_attributes: Annotated[dict[Short, Annotated[str, Field(max_length=1024)]], Field(max_length=32)] = {}


class DataSource(KubernetesModel):
    api_group: Short | None = None
    kind: Short
    name: Short


class DataSourceRef(DataSource):
    namespace: Short | None = None


class ClaimResources(KubernetesModel):
    requests: Annotated[dict[Short, Quantity], Field(max_length=8)] = {}


class ClaimSpec(KubernetesModel):
    """Of a claim that is made for a pod: it cannot choose a volume that is there already."""

    access_modes: Annotated[
        list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]], Field(max_length=4)
    ] = []
    data_source: DataSource | None = None
    data_source_ref: DataSourceRef | None = None
    resources: ClaimResources | None = None
    storage_class_name: Annotated[str, Field(max_length=253)] | None = None
    volume_attributes_class_name: Short | None = None
    volume_mode: Literal["Filesystem", "Block"] | None = None


class TemplateMetadata(KubernetesModel):
    labels: Annotated[dict[Key, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = {}
    annotations: Annotated[dict[Key, Annotated[str, Field(max_length=1024)]], Field(max_length=32)] = {}


class VolumeClaimTemplate(KubernetesModel):
    metadata: TemplateMetadata | None = None
    spec: ClaimSpec


class EphemeralVolume(KubernetesModel):
    volume_claim_template: VolumeClaimTemplate


class Volume(KubernetesModel):
    """A name, and exactly one type."""

    unknown = "is no volume that a restricted pod may mount"

    name: VolumeName
    config_map: ConfigMapVolume | None = None
    csi: CsiVolume | None = None
    downward_api: Annotated[DownwardVolume | None, Field(alias="downwardAPI")] = None
    empty_dir: EmptyDir | None = None
    ephemeral: EphemeralVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    projected: ProjectedVolume | None = None
    secret: SecretVolume | None = None

    types: ClassVar[tuple[str, ...]] = ()
    """The fields of which exactly one is set."""

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from exactly_one(self, self.types)


Volume.types = tuple(name for name in Volume.model_fields if name != "name")
VOLUME_TYPES = tuple(str(Volume.model_fields[name].alias) for name in Volume.types)
"""As they are written."""
Volume.cel = (one_of(*VOLUME_TYPES),)


class VolumeMount(KubernetesModel):
    name: VolumeName
    mount_path: Path
    sub_path: Annotated[str, Field(max_length=1024)] | None = None
    sub_path_expr: Annotated[str, Field(max_length=1024)] | None = None
    read_only: bool | None = None
    recursive_read_only: Literal["Disabled", "IfPossible", "Enabled"] | None = None
    mount_propagation: Literal["None", "HostToContainer"] | None = None

    def rules(self) -> Iterator[Finding]:
        yield from super().rules()
        yield from _inside("subPath", self.sub_path or "")
        yield from _inside("subPathExpr", self.sub_path_expr or "")
        if self.sub_path is not None and self.sub_path_expr is not None:
            yield Finding(("subPathExpr",), "found subPath and subPathExpr; expected one of them")
