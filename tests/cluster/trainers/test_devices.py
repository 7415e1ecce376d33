"""Accelerators that a node has too few of. The device is a fake: a number in the node's capacity; the pods are real."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cluster.trainers.jobs import sft_only
from cluster.trainers.site import Namespace, Object, Site

GPU = "nvidia.com/gpu"


@pytest.fixture
def one_gpu(site: Site) -> Iterator[None]:
    """A node that says it has one."""
    (node,) = site.kubectl("get", "nodes", "-o", "name").split()
    path = f"/status/capacity/{GPU.replace('/', '~1')}"
    for patch in ({"op": "add", "path": path, "value": "1"}, {"op": "remove", "path": path}):
        site.kubectl("patch", node, "--subresource=status", "--type=json", "-p", json.dumps([patch]))
        if patch["op"] == "add":
            yield


@pytest.mark.usefixtures("one_gpu")
def test_a_stage_waits_for_a_device_and_says_so(team: Namespace) -> None:
    def trained(name: str, steps: int) -> Object:
        job = sft_only(name, path=name, steps=steps)
        job["spec"]["stages"][0]["resources"] = {"limits": {GPU: "1", "memory": "4Gi"}}
        return job

    team.apply(trained("first", 60))
    running = "sft is under way"
    team.until("first", lambda status: _sft(status).get("state") == "Running", running)
    team.apply(trained("second", 2))
    team.until(
        "second", lambda status: f"Insufficient {GPU}" in str(_sft(status).get("message")), "why it waits is told"
    )
    assert team.ended("first")["phase"] == "Succeeded", team.said()
    assert team.ended("second")["phase"] == "Succeeded", team.said()
    pods = json.loads(team.kubectl("get", "pods", "-l", "rlhf.dev/stage=prepare", "-o", "json"))["items"]
    assert not any(GPU in str(pod["spec"]) for pod in pods)  # preparing needs none


def _sft(status: Object) -> Object:
    return next((one for one in status.get("stages", []) if one["name"] == "sft"), {})
