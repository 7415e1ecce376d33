"""The programs of a real Kubernetes: found, or built from Go modules that their go.sum pins."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KUBERNETES = "1.35.4"
VERSION = "k8s.io/component-base/version"


class Missing(Exception):
    """This machine lacks something; the message says what, and what gives it."""


@dataclass(frozen=True)
class Recipe:
    """How a program is built."""

    module: str
    """Folder below go/."""
    package: str
    """What to build there."""
    flags: tuple[str, ...] = ()
    """For the linker."""


KUBE = Recipe(
    "kube",
    ".",
    (f"-X {VERSION}.gitVersion=v{KUBERNETES}", f"-X {VERSION}.gitMajor=1", f"-X {VERSION}.gitMinor=35"),
)
"""One program for all of Kubernetes: it runs the component that it is called as."""
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
RECIPES = {
    **dict.fromkeys(COMPONENTS, KUBE),
    "etcd": Recipe("etcd", "go.etcd.io/etcd/server/v3"),
    "coredns": Recipe("coredns", "."),
    "helm": Recipe("helm", "helm.sh/helm/v4/cmd/helm"),
    "kwok": Recipe("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "jobset": Recipe("jobset", "sigs.k8s.io/jobset"),
    "kueue": Recipe("kueue", "sigs.k8s.io/kueue/cmd/kueue"),
}


def home() -> Path:
    """Where programs and running clusters lie: outside the clone, so that a fresh one finds them."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("RLHF_CLUSTER_HOME") or Path(base) / "rlhf-cluster")


def program(name: str) -> Path:
    """The program of that name: KUBEBUILDER_ASSETS' own, else built, the first time.

    Raises:
        Missing: it cannot be built here.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / name).exists():
        return Path(assets) / name
    recipe = RECIPES[name]
    folder = home() / "programs" / f"{recipe.module}-{pins(recipe)}"
    found = folder / name
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:  # test processes side by side build once
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not found.exists():
                build(recipe, folder)
    return found


def pins(recipe: Recipe) -> str:
    """Digest of all that decides what is built: another pin is another program."""
    files = sorted((HERE / "go" / recipe.module).iterdir())
    text = b"".join(path.name.encode() + path.read_bytes() for path in files) + repr(recipe).encode()
    return hashlib.sha256(text).hexdigest()[:12]


def build(recipe: Recipe, folder: Path) -> None:
    """Build a module's program into a folder, under every name it goes by.

    Raises:
        Missing: Go is not there, or the build failed.
    """
    if shutil.which("go") is None:
        raise Missing(f"{recipe.module} is built with Go 1.26 or newer; or set KUBEBUILDER_ASSETS and KUBECONFIG")
    print(f"building {recipe.module} from its Go module (minutes, the first time)", file=sys.stderr)
    made = folder / f"{recipe.module}.new"
    flags = " ".join(("-s", "-w", *recipe.flags))
    command = ["nice", "-n", "10", "go", "build", "-trimpath", "-ldflags", flags, "-o", str(made), recipe.package]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    ended = subprocess.run(command, cwd=HERE / "go" / recipe.module, env=environment, check=False)
    if ended.returncode != 0:
        raise Missing(f"{recipe.module}: go build failed with exit code {ended.returncode}; its own words are above")
    for name, other in RECIPES.items():
        if other == recipe and name != recipe.module:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(recipe.module)
    made.rename(folder / recipe.module)  # the links lead somewhere only now
