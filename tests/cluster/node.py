"""A node beside a control plane: containerd with runc, kubelet, kube-proxy and DNS, as plain processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster import images
from cluster.binaries import Missing, home, program
from cluster.control_plane import ControlPlane
from cluster.processes import Process, living, stop_all, wait

NAME = "node1"
BRIDGE = "cluster0"
ADDRESS = "10.99.0.1"
PODS = "10.99.0.0/16"
FIRST_POD = "10.99.1.2"
CHECK = Path(__file__).resolve().parents[2] / "tools" / "check-machine"
CONTAINERD = """\
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true  # in a container without CAP_SYS_RESOURCE runc cannot lower it
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
COREFILE = """\
cluster.local:53 {{
  bind {address}
  errors
  kubernetes cluster.local {{
    kubeconfig {kubeconfig} test
    pods insecure
  }}
}}
"""


def check_machine() -> None:
    """Raises Missing, with everything that this machine lacks."""
    checked = subprocess.run([CHECK, sys.executable, "node"], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        raise Missing(checked.stderr.strip())


class Node:
    """The one node of a control plane. Its parts may be stopped, paused and started again."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        folder = self.folder = plane.folder
        self.socket = folder / "containerd.sock"
        config = f"--kubeconfig={plane.kubeconfig}"
        self.containerd = Process("containerd", lambda: ["containerd", "-c", folder / "containerd.toml"], folder)
        self.scheduler = Process(
            "kube-scheduler", lambda: [program("kube-scheduler"), config, "--leader-elect=false"], folder
        )
        self.kubelet = Process(
            "kubelet",
            lambda: [
                *(str(program("kubelet")), config, f"--config={folder / 'kubelet.json'}"),
                *(f"--hostname-override={NAME}", f"--root-dir={folder / 'kubelet'}", f"--node-ip={ADDRESS}"),
            ],
            folder,
        )
        self.proxy = Process(
            "kube-proxy",
            lambda: [
                *(str(program("kube-proxy")), config, "--proxy-mode=iptables", f"--cluster-cidr={PODS}"),
                f"--hostname-override={NAME}",
            ],
            folder,
        )
        self.dns = Process("coredns", lambda: [program("coredns"), "-conf", folder / "Corefile"], folder)

    def start(self) -> Node:
        """Start all of it; returns when the node is Ready."""
        check_machine()
        self._write_configuration()
        self.containerd.start()
        self.containerd.until(lambda: self._ctr("version").returncode == 0, 300)
        images.stream(self.socket, ["cat", str(images.pause(home() / "images"))])
        for process in (self.scheduler, self.kubelet, self.proxy, self.dns):
            process.start()
        self.kubelet.until(self.ready, 600)
        return self

    def ready(self) -> bool:
        """Whether the kubelet says so to the API server."""
        try:
            node = json.loads(self.plane.kubectl("get", "node", NAME, "-o", "json"))
        except subprocess.CalledProcessError:
            return False
        return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))

    def remove(self) -> None:
        """Stop it and everything that its pods left on this machine; the control plane is left alone."""
        self.kubelet.stop()
        self._end_pods()
        for process in (self.dns, self.proxy, self.scheduler, self.containerd):
            process.stop()
        _end_shims(self.socket)
        _unmount(self.folder)
        _remove_cgroups()
        subprocess.run([str(program("kube-proxy")), "--cleanup"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)
        shutil.rmtree("/var/lib/cni/networks/pods", ignore_errors=True)

    def _end_pods(self) -> None:
        for task in self._ctr("tasks", "ls", "-q").stdout.split():
            self._ctr("tasks", "kill", "-s", "KILL", task)
        wait(lambda: "RUNNING" not in self._ctr("tasks", "ls").stdout, 10)
        for container in self._ctr("containers", "ls", "-q").stdout.split():
            self._ctr("tasks", "rm", "-f", container)
            self._ctr("containers", "rm", container)

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return images.ctr(self.socket, *arguments)

    def _write_configuration(self) -> None:
        folder = self.folder
        (folder / "cni").mkdir(parents=True, exist_ok=True)
        (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder, pause=images.PAUSE))
        (folder / "Corefile").write_text(COREFILE.format(address=ADDRESS, kubeconfig=self.plane.kubeconfig))
        (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(_network()))
        (folder / "kubelet.json").write_text(json.dumps(_kubelet(self.socket)))
        if subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True, check=False).returncode != 0:
            _ip("link", "add", BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{ADDRESS}/16", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")


def _network() -> dict[str, object]:
    """The bridge that pods hang on. It enforces no NetworkPolicy."""
    ranges = [[{"subnet": PODS, "rangeStart": FIRST_POD}]]
    addresses = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{**bridge, "ipam": addresses}, ports]}


def _kubelet(socket: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": [],  # a container's cgroups may not be divided
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{socket}",
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "failSwapOn": False,
        "resolvConf": "",
        # Images are never collected, on no account of the disk: it is the machine's own, and none can be fetched again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
    }


def _end_shims(socket: Path) -> None:
    """A shim outlives its containerd by design."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "containerd-shim" in line[0] and str(socket) in line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.parent.name), signal.SIGKILL)


def _remove_cgroups() -> None:
    """The kubelet leaves the groups of its pods, in every hierarchy."""
    roots = [*Path("/sys/fs/cgroup").glob("kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")]
    for root in roots:
        for folder, _, _ in os.walk(root, topdown=False):
            with contextlib.suppress(OSError):  # a process that is still ending; the next one finds it empty
                Path(folder).rmdir()


def _mounts(folder: Path) -> list[str]:
    mounts = re.findall(rf"^\S+ ({re.escape(str(folder))}/\S*)", Path("/proc/mounts").read_text(), re.MULTILINE)
    return sorted(mounts, reverse=True)


def _unmount(folder: Path) -> None:
    for mount in _mounts(folder):
        subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
    if _mounts(folder):  # removing the folder would remove what is mounted there: a claim's files
        raise RuntimeError(f"still mounted: {', '.join(_mounts(folder))}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def plane_folder() -> Path:
    """Where the cluster that the command runs lies."""
    return home() / "run"


def running(folder: Path) -> Sequence[str]:
    """Names of the processes that run."""
    return sorted(file.stem for file in folder.glob("*.pid") if living(file) is not None)


def leftovers(folder: Path) -> None:
    """End what another command started there, node or not."""
    if (folder / "containerd.toml").exists():
        Node(ControlPlane(folder)).remove()
    stop_all(folder)
    _unmount(folder)
    shutil.rmtree(folder, ignore_errors=True)
