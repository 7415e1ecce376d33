"""An accelerator that the node has not got yet. The device is a fake, a number in the node's capacity; the pods are real."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from cluster.trainers.jobs import sft_only
from cluster.trainers.site import Namespace, Object, Site

GPU = "nvidia.com/gpu"


@pytest.fixture
def plug_in(site: Site) -> Iterator[Callable[[], None]]:
    """Gives the node one; taken away after the test."""
    (node,) = site.kubectl("get", "nodes", "-o", "name").split()

    def patch(operation: str, **value: str) -> None:
        change = {"op": operation, "path": f"/status/capacity/{GPU.replace('/', '~1')}", **value}
        site.kubectl("patch", node, "--subresource=status", "--type=json", "-p", json.dumps([change]))

    yield lambda: patch("add", value="1")
    patch("remove")


def test_a_stage_waits_for_a_device_and_says_so(team: Namespace, plug_in: Callable[[], None]) -> None:
    job = sft_only("waiting")
    job["spec"]["stages"][0]["resources"] = {"limits": {GPU: "1", "memory": "4Gi"}}
    team.apply(job)
    team.until("waiting", lambda status: f"Insufficient {GPU}" in str(_sft(status).get("message")), "why it waits")
    plug_in()
    assert team.ended("waiting")["phase"] == "Complete", team.diagnosis()
    pods = json.loads(team.kubectl("get", "pods", "-l", "rlhf.dev/stage=prepare", "-o", "json"))["items"]
    assert pods
    assert not any(GPU in str(pod["spec"]) for pod in pods)  # preparing needs none


def _sft(status: Object) -> Object:
    return next((stage for stage in status.get("stages", []) if stage["name"] == "sft"), {})
