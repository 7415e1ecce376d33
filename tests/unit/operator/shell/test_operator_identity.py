"""Whose a child is: its namespace and the owner that controls it say so, never a label."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rlhf_operator.informers import ClusterState
from rlhf_operator.reconcile import naming
from rlhf_operator.runtime.client import Client
from rlhf_operator.runtime.kinds import JOBS, PODS, SERVICES, Kind
from rlhf_operator.runtime.metrics import Metrics

LABELS = naming.labels("beaver", "uid-1", "sft", 0)
RAW = {
    "metadata": {"name": "beaver", "namespace": "team", "uid": "uid-1"},
    "status": {"stages": [{"name": "sft", "attempts": [{"number": 0, "uid": "uid-gone"}]}]},
}


def child(name: str, namespace: str, owner: dict[str, Any] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "labels": LABELS}
    metadata["resourceVersion"] = "1"
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return {"metadata": metadata}


def names_by_kind(*objects: tuple[Kind, dict[str, Any]]) -> dict[str, list[str]]:
    """What a view knows of the job's children, by kind: their names."""

    async def main() -> dict[str, list[str]]:
        view = ClusterState(Client.__new__(Client), None, lambda *_: None, Metrics())
        for kind, obj in objects:
            view.children[kind].of(None)._put(obj)
        children = view.cached(RAW)
        return {
            kind: [obj["metadata"]["name"] for obj in getattr(children, kind)] for kind in ("jobs", "pods", "services")
        }

    return asyncio.run(main())


OF_JOB = {"kind": "Job", "uid": "team-mine", "controller": True}
OF_RLHFJOB = {"kind": "RLHFJob", "uid": "uid-1", "controller": True}
MINE = (JOBS, child("mine", "team", OF_RLHFJOB))


@pytest.mark.parametrize(
    ("namespace", "owner"),
    [
        ("other", OF_JOB),
        ("other", None),
        ("team", None),
        ("team", {**OF_JOB, "controller": False}),
        ("team", {"kind": "Job", "uid": "another", "controller": True}),
        ("team", OF_RLHFJOB),
    ],
)
def test_a_pod_that_carries_the_jobs_labels_but_is_no_pod_of_its_jobs_is_a_stranger(
    namespace: str, owner: dict[str, Any] | None
) -> None:
    pods = (PODS, child("real", "team", OF_JOB)), (PODS, child("forged", namespace, owner))
    assert names_by_kind(MINE, *pods)["pods"] == ["real"]


def test_objects_of_another_namespace_that_name_the_job_as_their_owner_are_strangers() -> None:
    names = names_by_kind(
        MINE,
        (JOBS, child("forged", "other", OF_RLHFJOB)),
        (SERVICES, child("forged", "other", OF_RLHFJOB)),
        (SERVICES, child("labelled", "team", None)),
        (PODS, child("forged", "other", {"kind": "Job", "uid": "other-forged", "controller": True})),
    )
    assert names == {"jobs": ["mine"], "pods": [], "services": []}


def test_pods_of_a_job_that_is_gone_are_known_by_the_uid_on_record() -> None:
    owner = {"kind": "Job", "uid": "uid-gone", "controller": True}
    assert names_by_kind((PODS, child("left", "team", owner)), (PODS, child("forged", "other", owner)))["pods"] == [
        "left"
    ]


def test_a_strangers_pod_wakes_no_job() -> None:
    async def main() -> None:
        woken: list[str] = []
        view = ClusterState(Client.__new__(Client), None, lambda key, _: woken.append(str(key)), Metrics())
        job = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", **RAW}
        job["metadata"] = {**RAW["metadata"], "resourceVersion": "1"}
        view.jobs.of(None)._put(job)
        view.children[PODS].of(None)._put(child("forged", "other", OF_JOB))
        assert woken == ["team/beaver"]

    asyncio.run(main())
