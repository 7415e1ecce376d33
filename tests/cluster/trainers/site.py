"""A cluster with the chart installed and this project's images on its node, and what jobs need there."""

from __future__ import annotations

import atexit
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.binaries import program
from cluster.chart.helm import CHART, NAMESPACE, helm

ROOT = Path(__file__).resolve().parents[3]
VALUES = Path(__file__).parent / "values.yaml"
PATIENCE = 1800.0
"""Seconds that something may take on a busy machine: a bound on hanging, never a measure."""
OPERATOR = "app.kubernetes.io/name=rlhf-operator"
HOSTNAME = "kubernetes.io/hostname"
MAKE_DATA = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import small_data, tiny
folder = Path(sys.argv[2])
tiny.tiny_policy(folder / "model")
small_data.chat(folder / "chat.jsonl")
small_data.preferences(folder / "preferences.jsonl")
for path in folder.rglob("*"):
    path.chmod(path.stat().st_mode | 0o444)  # a claim that is mounted to be read keeps its owner: pods are others
"""

Object = dict[str, Any]


class Refused(AssertionError):
    """What kubectl was asked for did not come."""


class Site:
    """An installed release, reached with kubectl as people do."""

    def __init__(self, kubeconfig: Path, folder: Path, operator: str, trainer: str) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self.images = {"image": operator, "trainerImage": trainer}

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl says; fails with its words."""
        command = [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        ended = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise Refused(f"{' '.join(arguments)}: {ended.stderr}")
        return ended.stdout

    def get(self, kind: str, name: str, namespace: str) -> Object:
        """An object."""
        fetched: Object = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return fetched

    def install(self, *arguments: str) -> None:
        """Install the chart, or upgrade it, and wait until it is up."""
        images = [f"--set={key}.repository={image.partition('@')[0]}" for key, image in self.images.items()]
        images += [f"--set={key}.digest={image.partition('@')[2]}" for key, image in self.images.items()]
        command = ("upgrade", "--install", "rlhf-operator", str(CHART), "--namespace", NAMESPACE, "--create-namespace")
        ended = helm(
            *(*command, "--values", str(VALUES), *images, *arguments, "--wait", "--timeout=10m"),
            kubeconfig=self.kubeconfig,
        )
        assert ended.returncode == 0, ended.stderr + self.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide")

    def namespace(self) -> Namespace:
        """A namespace of a test's own, with Pod Security enforced and storage."""
        name = f"team-{secrets.token_hex(3)}"
        enforce = "pod-security.kubernetes.io/enforce=restricted"
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, enforce)
        return Namespace(self, name)

    def volume(self, namespace: str, claim: str) -> Path:
        """A folder of the node as a volume, kept for the claim of that name; gives the folder."""
        folder = self.folder / namespace / claim
        folder.mkdir(parents=True)
        (node,) = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        on = {"key": HOSTNAME, "operator": "In", "values": [node["metadata"]["labels"][HOSTNAME]]}
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on]}]}},
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-{claim}"}}
        self.kubectl("create", "-f", "-", stdin=json.dumps({**volume, "spec": spec}))
        return folder

    def forget(self, namespace: str) -> None:
        """Delete a namespace's volumes, and itself unless it is the default one."""
        volumes = [f"{namespace}-{claim}" for claim in ("models", "data")]
        self.kubectl("delete", "persistentvolumes", *volumes, "--ignore-not-found", "--wait=false")
        if namespace != "default":
            self.kubectl("delete", "namespace", namespace, "--wait=false")

    def until(self, true: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait until it is true; what kubectl cannot tell now (the API server is busy) is not so yet."""
        end, refusal = time.monotonic() + seconds, ""
        while True:
            try:
                if true():
                    return
            except Refused as refused:
                refusal = f"; kubectl last said {refused}"
            assert time.monotonic() < end, f"not so after {seconds:.0f} s: {what}{refusal}"
            time.sleep(0.5)


class Namespace:
    """Where a test's jobs run. `models` is their storage, `data` holds a tiny model and rows."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.models = self._claim("models")
        self.data = self._claim("data")
        make_data(self.data)

    def _claim(self, name: str) -> Path:
        """A claim on a folder of the node; gives the folder."""
        folder = self.site.volume(self.name, name)
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
        self.kubectl("create", "-f", "-", stdin=json.dumps(claim))
        return folder

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """kubectl in this namespace."""
        return self.site.kubectl("-n", self.name, *arguments, stdin=stdin)

    def apply(self, job: Object) -> None:
        """kubectl apply."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(job))

    def status(self, job: str) -> Object:
        """The job's status."""
        status: Object = self.site.get("rlhfjob", job, self.name).get("status") or {}
        return status

    def stage(self, job: str, name: str) -> Object:
        """A stage's entry in it; empty before there is one."""
        return next((entry for entry in self.status(job).get("stages", []) if entry["name"] == name), {})

    def until(self, job: str, true: Callable[[Object], bool], what: str) -> Object:
        """Wait until it is true of the job's status; gives that."""
        status: Object = {}

        def check() -> bool:
            nonlocal status
            status = self.status(job)
            return true(status)

        try:
            self.site.until(check, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(status, indent=1)}\n{self.diagnosis()}") from None
        return status

    def ended(self, job: str) -> Object:
        """Wait for the job's end; gives its status."""
        return self.until(job, lambda status: status.get("phase") in ("Complete", "Failed", "Invalid"), f"{job} ended")

    def diagnosis(self) -> str:
        """What a person would look at when it goes wrong."""
        parts = [self.kubectl("get", "rlhfjobs,jobs,pods", "-o", "wide")]
        parts.append(self.kubectl("get", "events", "--sort-by=.lastTimestamp"))
        parts.append(self.site.kubectl("logs", "-n", NAMESPACE, "-l", OPERATOR, "--tail=40", "--prefix"))
        for pod in self.kubectl("get", "pods", "-o", "name").split():
            ended = subprocess.run(
                [
                    *(str(program("kubectl")), f"--kubeconfig={self.site.kubeconfig}", "-n", self.name),
                    *("logs", pod, "--tail=15"),
                ],
                capture_output=True,
                text=True,
                check=False,  # a pod that never started has none
            )
            parts.append(f"{pod}:\n{ended.stdout or ended.stderr}")
        return "\n".join(parts)


@functools.cache
def _made_data() -> Path:
    """Made once a process: it takes an import of torch."""
    scratch = tempfile.mkdtemp(prefix="rlhf-data-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    folder = Path(scratch, "data")  # whose rights a copy has, too
    folder.mkdir()
    command = [sys.executable, "-c", MAKE_DATA, str(ROOT / "tests" / "trainer"), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


def make_data(folder: Path) -> None:
    """A tiny model and rows for it, as the trainer's tests make them."""
    shutil.copytree(_made_data(), folder, dirs_exist_ok=True)


def images_given() -> tuple[str, str] | None:
    """References of images that the cluster of KUBECONFIG can pull."""
    images = [os.environ.get(f"RLHF_{name}_IMAGE") for name in ("OPERATOR", "TRAINER")]
    return (images[0], images[1]) if images[0] and images[1] else None
