"""The programs of a real Kubernetes: found, or built from Go modules that their go.sum pins."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KUBERNETES = "1.35.4"
VERSION = "k8s.io/component-base/version"
SAY_SECONDS = 15.0
"""Between two lines that say how far a build is."""


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
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:  # test processes side by side build once
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                build(recipe, folder)
    return path


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
    print(f"building {recipe.module} from its Go module (minutes, the first time)", file=sys.stderr, flush=True)
    path = folder / f"{recipe.module}.new"
    flags = " ".join(("-s", "-w", *recipe.flags))
    command = ["nice", "-n", "10", "go", "build", "-v", "-trimpath", "-ldflags", flags, "-o", str(path), recipe.package]
    compile_packages(command, recipe)
    for name, candidate in RECIPES.items():
        if candidate == recipe and name != recipe.module:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(recipe.module)
    path.rename(folder / recipe.module)  # the links lead somewhere only now


def compile_packages(command: list[str], recipe: Recipe) -> None:
    """Run `go build -v`, and say now and then how many packages are compiled.

    Raises:
        Missing: it failed; Go's own words are printed before.
    """
    environment = {**os.environ, "CGO_ENABLED": "0"}
    where = HERE / "go" / recipe.module
    listing = ["go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", recipe.package]
    listed = subprocess.run(listing, cwd=where, env=environment, check=False, stdout=subprocess.PIPE, text=True)
    packages = set(listed.stdout.split())
    compiled, spoken = 0, time.monotonic()
    words: list[str] = []
    with subprocess.Popen(command, cwd=where, env=environment, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr is not None
        for line in build.stderr:
            if line.strip() in packages:
                compiled += 1
            else:
                words.append(line)
            if time.monotonic() - spoken >= SAY_SECONDS:
                spoken = time.monotonic()
                print(f"{recipe.module}: {compiled} packages compiled of {len(packages)}", file=sys.stderr, flush=True)
    if build.returncode != 0:
        sys.stderr.write("".join(words))
        raise Missing(f"{recipe.module}: go build failed with exit code {build.returncode}; its own words are above")
