"""A real Kueue beside a control plane: its chart's CRDs and webhooks, its manager as a plain process.

The API server finds the webhooks by their Service, here one that names localhost: certificates are then Kueue's own
affair, as in a cluster. What a kubelet would do is done here: its Secret is written where the manager looks for it.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.request

from cluster.binaries import program
from cluster.chart.helm import helm
from cluster.control_plane import LOOPBACK, ControlPlane, free_port
from cluster.modules import folder_of
from cluster.processes import Process, wait

NAMESPACE = "kueue-system"
_SERVICE, _SECRET = "kueue-webhook-service", "kueue-webhook-server-cert"
_NEEDED = ("CustomResourceDefinition", "MutatingWebhookConfiguration", "Secret", "ValidatingWebhookConfiguration")
_PATIENCE = 300


class Kueue:
    """Kueue for the batch Jobs of a control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._port, self._health = free_port(), free_port()
        self._certificates = plane.folder / "kueue"
        self._process = Process("kueue", self._command, plane.folder)

    def start(self) -> Kueue:
        """Install and start it; returns when its webhooks answer."""
        self._certificates.mkdir()
        (self._certificates / "config.json").write_text(json.dumps(self._configuration()))
        self._plane.kubectl("create", "namespace", NAMESPACE)
        self._plane.kubectl("create", "-f", "-", stdin=json.dumps(_service()))
        self._plane.kubectl("apply", "--server-side", "-f", "-", stdin=self._manifests())
        self._plane.serve_all()
        self._process.start()
        self._process.until(self._mounted, _PATIENCE)
        self._process.until(self._ready, _PATIENCE)
        return self

    def make(self, *objects: dict[str, object]) -> None:
        """Make objects of its kinds; the first ones may come before the API server has found its webhooks."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        errors: list[str] = []

        def applied() -> bool:
            try:
                self._plane.kubectl("apply", "--server-side", "-f", "-", stdin=text)
            except subprocess.CalledProcessError as error:
                errors.append(error.stderr)
                return False
            return True

        if not wait(applied, _PATIENCE):
            raise RuntimeError(f"not taken in {_PATIENCE} s: {errors[-1]}")

    def _command(self) -> list[str]:
        config = self._certificates / "config.json"
        return [str(program("kueue")), f"--config={config}", f"--kubeconfig={self._plane.kubeconfig}"]

    def _configuration(self) -> dict[str, object]:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": NAMESPACE,
            "health": {"healthProbeBindAddress": f"{LOOPBACK}:{self._health}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"port": self._port, "certDir": str(self._certificates)},
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"qps": 200, "burst": 400},
            "integrations": {"frameworks": ["batch/job"]},
            "featureGates": {"VisibilityOnDemand": False},  # another API server, on a port of its own
        }

    def _manifests(self) -> str:
        """Of its chart, what a manager outside the cluster needs, its webhooks on our port."""
        chart = folder_of("kueue", "sigs.k8s.io/kueue") / "charts" / "kueue"
        ended = helm("template", "kueue", str(chart), "--namespace", NAMESPACE)
        if ended.returncode != 0:
            raise RuntimeError(ended.stderr)
        kinds = "|".join(_NEEDED)
        documents = re.split(r"^---$", ended.stdout, flags=re.MULTILINE)
        needed = "---".join(
            document for document in documents if re.search(rf"^kind: ({kinds})$", document, re.MULTILINE)
        )
        return re.sub(rf"^( +)name: '{_SERVICE}'$", rf"\g<0>\n\1port: {self._port}", needed, flags=re.MULTILINE)

    def _mounted(self) -> bool:
        """Whether the manager has made its certificate; then its files are there, too."""
        secret = json.loads(self._plane.kubectl("get", "secret", _SECRET, "-n", NAMESPACE, "-o", "json"))
        data = secret.get("data") or {}
        for name in ("tls.key", "tls.crt"):
            if name not in data:
                return False
            (self._certificates / name).write_bytes(base64.b64decode(data[name]))
        return True

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self._health}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # refused, or 500: not yet
            return False


def _service() -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _SERVICE, "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    }


def queues(namespace: str, *, memory: str) -> list[dict[str, object]]:
    """A quota of memory for one namespace, the priorities low and high, and the queue `team`."""
    version = "kueue.x-k8s.io/v1beta2"

    def manifest(
        kind: str, name: str, rest: dict[str, object], *, in_namespace: str | None = None
    ) -> dict[str, object]:
        metadata = {"name": name, **({"namespace": in_namespace} if in_namespace else {})}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    flavor = {"name": namespace, "resources": [{"name": "memory", "nominalQuota": memory}]}
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "resourceGroups": [{"coveredResources": ["memory"], "flavors": [flavor]}],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    return [
        manifest("ResourceFlavor", namespace, {}),
        manifest("ClusterQueue", namespace, {"spec": spec}),
        manifest("LocalQueue", "team", {"spec": {"clusterQueue": namespace}}, in_namespace=namespace),
        manifest("WorkloadPriorityClass", "low", {"value": 10}),
        manifest("WorkloadPriorityClass", "high", {"value": 1000}),
    ]
