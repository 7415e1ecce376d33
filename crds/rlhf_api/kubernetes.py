"""Parts of a pod as Kubernetes defines them, bounded: where it may run. Their fields are documented there."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rlhf_api.base import ApiModel

Key = Annotated[str, Field(min_length=1, max_length=317)]
"""Of a label or a taint: a DNS subdomain, a slash, a name."""
LabelValue = Annotated[str, Field(max_length=63)]
Terms = 16
"""The most terms, expressions or namespaces of a list."""


class KubernetesModel(ApiModel):
    """Fields as Kubernetes has them; the CRD and the job reference leave their description to its documentation."""

    unknown: ClassVar[str | None] = None
    """What is said of a field that is not there, where there is more to say."""


def written(model: KubernetesModel) -> dict[str, Any]:
    """As Kubernetes takes it: what was not given is left out, what was given empty stays."""
    return model.model_dump(mode="json", exclude_unset=True)


class NodeSelectorRequirement(KubernetesModel):
    key: Key
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: Annotated[list[LabelValue], Field(max_length=64)] = []


class NodeFieldRequirement(KubernetesModel):
    key: Key
    operator: Literal["In", "NotIn"]
    values: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=64)] = []


class NodeSelectorTerm(KubernetesModel):
    match_expressions: Annotated[list[NodeSelectorRequirement], Field(max_length=Terms)] = []
    match_fields: Annotated[list[NodeFieldRequirement], Field(max_length=Terms)] = []


class NodeSelector(KubernetesModel):
    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(max_length=Terms)]


class PreferredSchedulingTerm(KubernetesModel):
    weight: Annotated[int, Field(ge=1, le=100)]
    preference: NodeSelectorTerm


class NodeAffinity(KubernetesModel):
    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredSchedulingTerm], Field(max_length=Terms)
    ] = []


class LabelSelectorRequirement(KubernetesModel):
    key: Key
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[list[LabelValue], Field(max_length=64)] = []


class LabelSelector(KubernetesModel):
    match_labels: Annotated[dict[Key, LabelValue], Field(max_length=Terms)] = {}
    match_expressions: Annotated[list[LabelSelectorRequirement], Field(max_length=Terms)] = []


class PodAffinityTerm(KubernetesModel):
    label_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    namespaces: Annotated[list[LabelValue], Field(max_length=Terms)] = []
    topology_key: Key
    match_label_keys: Annotated[list[Key], Field(max_length=Terms)] = []
    mismatch_label_keys: Annotated[list[Key], Field(max_length=Terms)] = []


class WeightedPodAffinityTerm(KubernetesModel):
    weight: Annotated[int, Field(ge=1, le=100)]
    pod_affinity_term: PodAffinityTerm


class PodAffinity(KubernetesModel):
    """Also of what pods keep away from."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodAffinityTerm], Field(max_length=Terms)] = []
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[WeightedPodAffinityTerm], Field(max_length=Terms)
    ] = []


class Affinity(KubernetesModel):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class Toleration(KubernetesModel):
    key: Key | None = None
    operator: Literal["Equal", "Exists"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None
