"""Who makes Jobs: this operator, one in kopf, JobSet, and a plain script. Each a process; limits raised, equal for all."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.binaries import program
from cluster.control_plane import LOOPBACK, free_port
from cluster.modules import folder_of
from cluster.processes import Process
from load import jobs
from load.ground import Ground
from load.template import NAME, text_of
from rlhf_operator.kinds import RLHFJOBS
from rlhf_operator.reconcile import naming
from rlhf_operator.runtime.kinds import Kind, Object

HERE = Path(__file__).resolve().parent
QPS, WORKERS = 1000, 32
JOBSETS = Kind("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"


@dataclass(frozen=True)
class Contender:
    """Something that makes a Job for each object of a kind."""

    name: str
    agent: str
    """How its requests name it, at the start."""
    kind: Kind
    label: str
    """Of its Jobs: the owner's name."""
    body: Callable[[str, str | None], Object]
    """An object of that name, its Jobs suspended (for a queue) or not."""
    process: Callable[[Ground], Process]

    @contextlib.asynccontextmanager
    async def running(self, cluster: Ground) -> AsyncIterator[Process]:
        """It works when the block begins: it has made a Job already."""
        process = self.process(cluster)
        process.start()
        try:
            await cluster.post(self.kind, [self.body("warm", "queue")])
            await cluster.seen.until(["warm"], cluster.seen.first)
            yield process
        finally:
            process.stop()


def _rlhfjob(name: str, queue: str | None) -> Object:
    return jobs.job(name, queue=queue)


def operator(cluster: Ground, metrics_port: int = 0) -> Process:
    """This operator."""
    config: dict[str, Any] = {
        "operator": {"workers": WORKERS, "qps": QPS, "burst": QPS, "metricsPort": metrics_port, "healthPort": 0},
        "leaderElection": {"namespace": "default"},
        "settings": jobs.SETTINGS.model_dump(mode="json", by_alias=True, exclude_defaults=True),
    }
    config["operator"]["logLevel"] = "WARNING"
    file = cluster.plane.folder / "operator.json"
    file.write_text(json.dumps(config))
    command = [
        sys.executable,
        "-m",
        "rlhf_operator.main",
        f"--config={file}",
        f"--kubeconfig={cluster.plane.kubeconfig}",
    ]
    return Process("operator", lambda: command, cluster.plane.folder)


def template(cluster: Ground, queue: str | None) -> Path:
    """What the children of a job look like, for those who do not work it out themselves."""
    file = cluster.plane.folder / f"template-{queue or 'runs'}.json"
    file.write_text(json.dumps(text_of(jobs.course(jobs.job(NAME, queue=queue)).stages)))
    return file


def plain(cluster: Ground, queue: str | None) -> Process:
    """The plain script: it ends when all is done, and its log's last line says how long that took."""
    command: list[str | Path] = [
        *(sys.executable, "-m", "load.plain"),
        cluster.plane.kubeconfig,
        template(cluster, queue),
        *(["first"] if queue else []),
    ]
    return Process("plain", lambda: command, cluster.plane.folder)


def kopf(python: Path, *, queue: str | None) -> Contender:
    """A minimal operator in kopf, run by a Python that has it."""

    def process(cluster: Ground) -> Process:
        command: list[str | Path] = [
            *(python, "-m", "kopf", "run", "--quiet", f"--namespace={jobs.NAMESPACE}", "--standalone"),
            HERE / "kopf_operator.py",
        ]
        environment = {
            "KUBECONFIG": cluster.plane.kubeconfig,
            "LOAD_TEMPLATE": template(cluster, queue),
            "LOAD_SERVER": cluster.plane.url,
            "LOAD_TOKEN": cluster.plane.token,
            "LOAD_AUTHORITY": cluster.plane.pki / "ca.crt",
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        return Process("kopf", lambda: ["env", *words, *command], cluster.plane.folder)

    return Contender("kopf", "kopf", RLHFJOBS, naming.JOB, _rlhfjob, process)


def _jobset_process(cluster: Ground) -> Process:
    folder = cluster.plane.folder / "jobset"
    folder.mkdir()
    for name, source in (("tls.crt", "server.crt"), ("tls.key", "server.key")):
        shutil.copy(cluster.plane.pki / source, folder / name)
    config = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "internalCertManagement": {"enable": False},
        "leaderElection": {"leaderElect": False},
        "webhook": {"port": free_port(), "host": LOOPBACK, "certDir": str(folder)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": "0"},
        "clientConnection": {"qps": QPS, "burst": QPS},
    }
    (folder / "config.json").write_text(json.dumps(config))
    crds = folder_of("jobset", "sigs.k8s.io/jobset") / "config" / "components" / "crd" / "bases"
    cluster.plane.kubectl("apply", "--server-side", "-f", str(crds))
    cluster.plane.serve_all()
    command: list[str | Path] = [
        *(program("jobset"), f"--config={folder / 'config.json'}", f"--kubeconfig={cluster.plane.kubeconfig}"),
        "--zap-log-level=error",
    ]
    return Process("jobset", lambda: command, cluster.plane.folder)


def _jobset(name: str, queue: str | None) -> Object:
    """One suspended Job of the pod template that prepare has here; what its webhook would default is written out."""
    child = jobs.course(jobs.job(name)).stages[0][-1]
    spec = {**child["spec"], "suspend": True}
    return {
        "apiVersion": JOBSETS.api_version,
        "kind": JOBSETS.kind,
        "metadata": {"name": name, "namespace": jobs.NAMESPACE},
        "spec": {
            "suspend": True,
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All"},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "replicatedJobs": [{"name": "prepare", "replicas": 1, "template": {"spec": spec}}],
        },
    }


OPERATOR = Contender("operator", "rlhf-operator", RLHFJOBS, naming.JOB, _rlhfjob, operator)
JOBSET = Contender("jobset", "jobset", JOBSETS, JOBSET_NAME, _jobset, _jobset_process)
