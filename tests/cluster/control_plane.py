"""etcd and kube-apiserver, with the controllers where a test needs them: no node, no root, free ports."""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from cluster import certificates
from cluster.binaries import program
from cluster.processes import Process, stop_all

LOOPBACK = "127.0.0.1"
SERVICES = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
"""Who asked for what; no bodies."""
PORTS = 1500
"""A worker's, of those from 20000 to 32000."""


class ControlPlane:
    """A control plane in a folder. `etcd`, `apiserver` and `controllers` may be stopped, paused and started again;
    their ports, and what etcd holds, stay.

    Args:
        folder: its state; removed by `remove`.
        controllers: whether the controller manager runs too, so that Jobs make pods and owners' children are
            collected. Without it pods need no service account.
        address: where nodes and pods find the API server; by default nowhere.
        audit: whether every request is written to audit.log.
        arguments: further ones for the API server, such as --max-requests-inflight=10.
        controller_arguments: further ones for the controller manager.
    """

    def __init__(
        self,
        folder: Path,
        *,
        controllers: bool = False,
        address: str | None = None,
        audit: bool = False,
        arguments: Sequence[str] = (),
        controller_arguments: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        self.pki = folder / "pki"
        self.audit_log = folder / "audit.log"
        self.address = address
        self.with_controllers = controllers
        self._ports = _ports(folder, ("etcd", "apiserver", "controllers"))
        self.url = f"https://{LOOPBACK}:{self._ports['apiserver']}"
        self._arguments = list(arguments)
        self._controller_arguments = controller_arguments
        if audit:
            self._arguments += [f"--audit-policy-file={folder / 'audit.json'}", f"--audit-log-path={self.audit_log}"]
            self._arguments += ["--audit-log-maxsize=100000"]  # MiB: by default a new file is begun after 100
        self.etcd = Process("etcd", self._etcd, folder)
        self.apiserver = Process("kube-apiserver", self._apiserver, folder)
        self.controllers = Process("kube-controller-manager", self._controllers, folder)

    def start(self) -> ControlPlane:
        """Start all of it; returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        addresses = [LOOPBACK, FIRST_SERVICE, *([self.address] if self.address else [])]
        certificates.make(self.pki, addresses)
        self._write_kubeconfig(secrets.token_hex(16))
        (self.folder / "audit.json").write_text(json.dumps(AUDIT))
        self.etcd.start()
        self.apiserver.start()
        self.apiserver.until(self.ready, 120)
        if self.with_controllers:
            self.controllers.start()
            self.controllers.until(lambda: self._answers("/api/v1/namespaces/default/serviceaccounts/default"), 120)
        return self

    def stop(self) -> None:
        """End its processes; what etcd holds stays."""
        for process in (self.controllers, self.apiserver, self.etcd):
            process.stop()

    def remove(self) -> None:
        """End its processes and forget everything."""
        stop_all(self.folder)
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)

    def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        return self._answers("/readyz")

    def serve_all(self, seconds: float = 120) -> None:
        """Return when every CRD is served; kubectl wait gives up on one that has no conditions yet."""

        def established() -> bool:
            crds = json.loads(self.kubectl("get", "crds", "-o", "json"))["items"]
            conditions = [(entry.get("status") or {}).get("conditions") or () for entry in crds]
            return all(
                any((entry["type"], entry["status"]) == ("Established", "True") for entry in these)
                for these in conditions
            )

        self.apiserver.until(established, seconds)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl says.

        Raises:
            subprocess.CalledProcessError: kubectl failed; its stderr says why.
        """
        command = [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def _answers(self, path: str) -> bool:
        return self.get(path) is not None

    def get(self, path: str) -> bytes | None:
        """What the API server answers; None: it is not there yet, or not found."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                content: bytes = answer.read()
                return content
        except OSError:  # refused, reset, 404, 500: not yet
            return None

    @property
    def token(self) -> str:
        """The administrator's."""
        return (self.pki / "tokens.csv").read_text().partition(",")[0]

    def _write_kubeconfig(self, token: str) -> None:
        (self.pki / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        self.kubeconfig.write_text(json.dumps(kubeconfig(self.url, self.pki / "ca.crt", token), indent=1))
        self.kubeconfig.chmod(0o600)

    @property
    def etcd_url(self) -> str:
        """Where etcd answers, also to JSON."""
        return f"http://{LOOPBACK}:{self._ports['etcd']}"

    def _etcd(self) -> list[str | Path]:
        url = self.etcd_url
        return [
            *(str(program("etcd")), f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn"),
            *(f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
            *(f"--listen-peer-urls=http://{LOOPBACK}:0", f"--quota-backend-bytes={8 << 30}"),
        ]

    def _apiserver(self) -> list[str | Path]:
        if self.address:
            flags = ["--bind-address=0.0.0.0", f"--advertise-address={self.address}"]
        else:
            flags = [f"--bind-address={LOOPBACK}", f"--advertise-address={LOOPBACK}"]
            flags.append("--endpoint-reconciler-type=none")  # a loopback address is no endpoint
        if not self.with_controllers:
            flags.append("--disable-admission-plugins=ServiceAccount")  # nobody makes the default account
        return [
            *(str(program("kube-apiserver")), f"--etcd-servers={self.etcd_url}", *flags),
            *(f"--secure-port={self._ports['apiserver']}", f"--tls-cert-file={self.pki / 'server.crt'}"),
            *(f"--tls-private-key-file={self.pki / 'server.key'}", "--authorization-mode=Node,RBAC"),
            f"--token-auth-file={self.pki / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self.pki / 'accounts.key'}",
            f"--service-account-key-file={self.pki / 'accounts.pub'}",
            *(f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true"),
            *("--kubelet-preferred-address-types=InternalIP", *self._arguments),
        ]

    def _controllers(self) -> list[str | Path]:
        return [
            *(str(program("kube-controller-manager")), f"--kubeconfig={self.kubeconfig}", "--leader-elect=false"),
            *(f"--bind-address={LOOPBACK}", f"--secure-port={self._ports['controllers']}"),
            *("--use-service-account-credentials", f"--root-ca-file={self.pki / 'ca.crt'}"),
            *(f"--service-account-private-key-file={self.pki / 'accounts.key'}", *self._controller_arguments),
        ]


def kubeconfig(url: str, authority: Path, token: str) -> dict[str, object]:
    """A kubeconfig of one cluster and one user. The authority stays a file: of what is inline, the Python client leaves
    copies in the temporary folder when a test's worker ends."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }


def _ports(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """A free port each, the same ones for as long as the folder is there."""
    file = folder / "ports.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({name: free_port() for name in names}))
    ports: dict[str, int] = json.loads(file.read_text())
    return ports


_given: set[int] = set()


def free_port() -> int:
    """A free port below those that the kernel gives to clients, so that it stays free while a server restarts; none that
    this process, or another of seven workers of the tests, was given before."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    first = 20000 + PORTS * (int(worker.removeprefix("gw")) % 7 + 1 if worker else 0)
    dice = random.Random()
    for _ in range(100):
        port = dice.randrange(first, first + PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {first} and {first + PORTS}")
