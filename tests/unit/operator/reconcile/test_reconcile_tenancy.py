"""What the operator's configuration lets the jobs of a namespace use, named or not."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.cluster_model import SETTINGS, Cluster, Raw, job
from rlhf_operator.reconcile import Settings

TEMPLATE = {"claimTemplate": {"accessModes": ["ReadWriteMany"], "size": "900Ti"}}


def limited(limits: Raw, **more: Any) -> Settings:
    """Settings under which the job's namespace has these limits."""
    changes = {"namespaces": {"team": limits}, **more}
    return Settings.model_validate(SETTINGS.model_dump(mode="json", exclude_defaults=True) | changes)


def refused(settings: Settings, **spec: Any) -> str:
    """Why a job may not run; empty: it ran to its end."""
    cluster = Cluster(job(**spec), settings)
    cluster.settle()
    if cluster.status["phase"] == "Complete":
        return ""
    assert cluster.condition("Stalled") == "True:Forbidden"
    assert cluster.ever == set()
    return next(
        str(condition["message"]) for condition in cluster.status["conditions"] if condition["type"] == "Stalled"
    )


def test_the_default_profile_is_used_by_those_that_name_none() -> None:
    message = refused(limited({"profiles": ["cpu"]}))
    assert message == "spec.profile: this namespace may not use the default profile default (it may use cpu)"
    assert refused(limited({"profiles": ["pair"]}), profile="pair") == ""


def test_a_profile_that_nothing_runs_with_is_not_used() -> None:
    stages = [stage | {"profile": "pair"} for stage in job()["spec"]["stages"]]
    assert refused(limited({"profiles": ["pair"]}), stages=[*stages, {"name": "report", "report": {}}]) == ""


@pytest.mark.parametrize("claims", [[], ["data"], ["data", "models*"]])
def test_a_claim_from_a_template_is_allowed_by_the_name_it_gets(claims: list[str]) -> None:
    message = refused(limited({"claims": claims}), storage=TEMPLATE)
    assert "spec.storage.claimTemplate: this namespace may not use the claim beaver-storage" in message
    assert refused(limited({"claims": [*claims, "data", "*-storage"]}), storage=TEMPLATE) == ""


@pytest.mark.parametrize("field", ["dataSource", "dataSourceRef"])
def test_a_claim_may_not_be_copied_either(field: str) -> None:
    source = {"kind": "PersistentVolumeClaim", "name": "theirs"}
    volume = {"name": "copy", "ephemeral": {"volumeClaimTemplate": {"spec": {field: source}}}}
    message = refused(limited({"claims": ["data", "models"]}), pod={"volumes": [volume]})
    at = f"spec.pod.volumes[0].ephemeral.volumeClaimTemplate.spec.{field}.name"
    assert message.startswith(f"{at}: this namespace may not use the claim theirs")


CSI = {"volumes": [{"name": "v", "csi": {"driver": "file.csi.azure.com"}}]}


@pytest.mark.parametrize(
    ("limits", "spec", "expected"),
    [
        ({}, {"pod": CSI}, "spec.pod.volumes[0].csi: this namespace may not use the volume type csi"),
        ({"volumeTypes": ["csi"]}, {"pod": CSI}, ""),
        ({"priorityClasses": ["low"]}, {"pod": {"priorityClassName": "high"}}, "the priority class high"),
        ({}, {"pod": {"priorityClassName": "system-node-critical"}}, "the priority class system-node-critical"),
        ({"priorityClasses": ["system-*"]}, {"pod": {"priorityClassName": "system-node-critical"}}, ""),
        ({}, {"pod": {"priorityClassName": "high"}}, ""),
        ({"runtimeClasses": []}, {"pod": {"runtimeClassName": "kata"}}, "the runtime class kata"),
        ({"maxPods": 2}, {"nodes": 3}, "stage sft has 3 pods; this namespace may use 2 a stage"),
        ({"maxDevices": 8}, {"nodes": 2, "resources": {"limits": {"nvidia.com/gpu": "8"}}}, "has 16 devices"),
        ({"maxDevices": 16}, {"nodes": 2, "resources": {"limits": {"nvidia.com/gpu": "8"}}}, ""),
    ],
)
def test_volumes_classes_and_sizes_are_limited(limits: Raw, spec: Raw, expected: str) -> None:
    message = refused(limited(limits), **spec)
    assert expected in message and bool(expected) == bool(message)
