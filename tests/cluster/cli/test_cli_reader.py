"""The reader pod on a real API server that enforces Pod Security, without a node: it is made, and always deleted."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import pytest

from cluster.cli.ground import Command, until, written
from cluster.control_plane import ControlPlane
from cluster.operator.ground import job, serve_jobs
from fakes.cluster_jobs import SUCCEEDED

_numbers = itertools.count()
READERS = "--selector=app.kubernetes.io/name=rlhf-reader"


class JobNamespace:
    """A namespace with a finished job in it, and its claim."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.name = f"reader-{os.getpid()}-{next(_numbers)}"
        serve_jobs(plane)
        plane.kubectl("create", "namespace", self.name)
        plane.kubectl("label", "namespace", self.name, "pod-security.kubernetes.io/enforce=restricted")
        until(lambda: "default" in self.kubectl("get", "serviceaccounts", "-o", "name"), "its service account")
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        self.kubectl("create", "-f", "-", stdin=json.dumps(claim))
        self.kubectl("create", "-f", str(written(folder, job())))
        patch = json.dumps({"status": SUCCEEDED})
        self.kubectl("patch", "rlhfjob", "beaver", "--type=merge", "--subresource=status", f"--patch={patch}")
        self.command = Command(plane.kubeconfig, self.name, folder)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("-n", self.name, *arguments, stdin=stdin)

    def readers(self) -> list[dict[str, object]]:
        pods: list[dict[str, object]] = json.loads(self.kubectl("get", "pods", READERS, "-o", "json"))["items"]
        return pods


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)],
)
def test_it_is_deleted_when_the_command_is_broken_off(
    controlled_plane: ControlPlane, tmp_path: Path, number: int, code: int
) -> None:
    namespace = JobNamespace(controlled_plane, tmp_path)
    process = namespace.command.start("pull", "beaver")
    until(lambda: bool(namespace.readers()), "the reader is made")
    (pod,) = namespace.readers()
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "models"  # type: ignore[index]
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    until(lambda: not namespace.readers(), "the reader is deleted")
    assert not (tmp_path / "beaver").exists()


def test_one_that_cannot_start_is_deleted_and_its_reason_told(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = JobNamespace(controlled_plane, tmp_path)
    process = namespace.command.start("logs", "beaver", "sft")
    until(lambda: bool(namespace.readers()), "the reader is made")
    name = namespace.readers()[0]["metadata"]["name"]  # type: ignore[index]
    waiting = {"reason": "ErrImageNeverPull", "message": "it is not there"}
    container = {
        "name": "reader",
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": waiting},
    }
    patch = json.dumps({"status": {"phase": "Pending", "containerStatuses": [container]}})
    namespace.kubectl("patch", "pod", str(name), "--subresource=status", f"--patch={patch}")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the pod that reads the storage does not start: ErrImageNeverPull: it is not there" in err
    until(lambda: not namespace.readers(), "the reader is deleted")


def test_who_may_not_make_pods_is_told_so(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = JobNamespace(controlled_plane, tmp_path)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    namespace.kubectl("create", "-f", "-", stdin=json.dumps(quota))
    until(lambda: "hard" in json.loads(namespace.kubectl("get", "quota", "none", "-o", "json"))["status"], "it counts")
    result = namespace.command.run("pull", "beaver")
    assert result.code == 1
    assert "exceeded quota: none" in result.err
    assert len(result.err.splitlines()) == 1, result.err


def test_a_claim_that_is_gone_is_said(controlled_plane: ControlPlane, tmp_path: Path) -> None:
    namespace = JobNamespace(controlled_plane, tmp_path)
    namespace.kubectl("delete", "persistentvolumeclaim", "models", "--wait=false")
    until(lambda: "models" not in namespace.kubectl("get", "persistentvolumeclaim", "-o", "name"), "it is gone")
    result = namespace.command.run("pull", "beaver")
    assert (result.code, result.err) == (2, "beaver: its claim models is gone, and what was on it\n")
