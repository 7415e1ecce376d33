"""The control plane of tests does what tests of failures need: it stops, hangs and comes back with what it held."""

from __future__ import annotations

import json
import subprocess

import pytest

from cluster.conftest import NewPlane
from cluster.control_plane import ControlPlane
from cluster.processes import wait

JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: work}
spec:
  completions: 2
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: none}]
"""


def names(plane: ControlPlane, kind: str, namespace: str = "default") -> list[str]:
    """Names of a kind's objects."""
    return plane.kubectl("get", kind, "-n", namespace, "-o", "name").split()


def test_it_answers_and_keeps_what_it_is_given(shared_plane: ControlPlane) -> None:
    assert wait(shared_plane.ready, 60)
    shared_plane.kubectl("create", "configmap", "answers")
    assert "configmap/answers" in names(shared_plane, "configmaps")


def test_planes_stand_side_by_side(shared_plane: ControlPlane, new_plane: NewPlane) -> None:
    second_plane = new_plane()
    second_plane.kubectl("create", "configmap", "only-here")
    assert "configmap/only-here" in names(second_plane, "configmaps")
    assert "configmap/only-here" not in names(shared_plane, "configmaps")


def test_what_it_held_outlives_the_api_server_at_the_same_address(new_plane: NewPlane) -> None:
    plane = new_plane()
    plane.kubectl("create", "configmap", "kept")
    plane.apiserver.kill()
    assert wait(lambda: not plane.ready(), 10)
    plane.apiserver.start()
    plane.apiserver.until(plane.ready, 120)
    assert "configmap/kept" in names(plane, "configmaps")


def test_while_etcd_stands_still_writes_hang_and_then_go_on(new_plane: NewPlane) -> None:
    plane = new_plane()
    plane.etcd.pause()
    with pytest.raises(subprocess.CalledProcessError, match="non-zero"):
        plane.kubectl("create", "configmap", "late", "--request-timeout=2s")
    plane.etcd.resume()
    assert wait(plane.ready, 60)
    plane.kubectl("create", "configmap", "after")
    assert "configmap/after" in names(plane, "configmaps")


def test_every_request_is_in_the_audit_log(new_plane: NewPlane) -> None:
    plane = new_plane(audit=True)
    plane.kubectl("create", "configmap", "seen")

    def who() -> list[str]:
        lines = [json.loads(line) for line in plane.audit_log.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        creations = [line for line in lines if line["verb"] == "create" and line["objectRef"].get("name") == "seen"]
        return [line["user"]["username"] for line in creations]

    assert wait(lambda: bool(who()), 60)  # a request is told of after its answer
    assert who() == ["admin"]


def test_flags_reach_the_api_server(new_plane: NewPlane) -> None:
    plane = new_plane(arguments=("--default-not-ready-toleration-seconds=7",))
    path = "jsonpath={.spec.tolerations[?(@.key=='node.kubernetes.io/not-ready')].tolerationSeconds}"
    assert plane.kubectl("run", "bare", "--image=none", "--restart=Never", "--dry-run=server", "-o", path) == "7"


def test_without_controllers_pods_may_be_made_at_once(shared_plane: ControlPlane) -> None:
    shared_plane.kubectl("run", "bare", "--image=none", "--restart=Never")
    assert "pod/bare" in names(shared_plane, "pods")


def test_with_controllers_jobs_make_pods_and_their_end_takes_them_along(controlled_plane: ControlPlane) -> None:
    plane = controlled_plane
    plane.kubectl("create", "namespace", "jobs")
    assert wait(lambda: "serviceaccount/default" in names(plane, "serviceaccounts", "jobs"), 120)
    plane.kubectl("apply", "-n", "jobs", "-f", "-", stdin=JOB)
    assert wait(lambda: len(names(plane, "pods", "jobs")) == 2, 60)
    plane.kubectl("delete", "job", "work", "-n", "jobs")
    assert wait(lambda: not names(plane, "pods", "jobs"), 60)
