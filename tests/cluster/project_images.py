"""This project's images on the node: built once for each state of what they are made of, and given to containerd."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from cluster import images, layers
from cluster.binaries import Missing, home

ROOT = Path(__file__).resolve().parents[2]
MADE_OF = {
    "operator": ("operator/Dockerfile", "operator/rlhf_operator", "crds/rlhf_api", "requirements/operator.txt"),
    "trainer": (
        *("trainer_image/Dockerfile", "trainer_image/rlhf_trainer", "crds/rlhf_api"),
        *("requirements/trainer.txt", "requirements/build.txt"),
    ),
}
BASES = ("localhost/rlhf-base:bookworm", "localhost/rlhf-base-build:bookworm")
"""What `tools/images base --with-compiler` makes."""


def load(socket: Path, name: str) -> str:
    """Give containerd the image of these sources, built when there is none yet; its reference by digest.

    Raises:
        Missing: it cannot be built here.
    """
    if shutil.which("buildah") is None:
        raise Missing("images are built with Debian's buildah and debootstrap: apt-get install buildah debootstrap")
    image = image_of(name)
    home().mkdir(parents=True, exist_ok=True)
    with (home() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _built(image):
            _build(name, image.rpartition(":")[2])
            _forget_others(name, image)
        if images.digest(socket, image) is None and not layers.link(socket, image):
            images.stream(socket, ["buildah", "push", "--quiet", image, f"docker-archive:/dev/stdout:{image}"])
        return images.pinned(socket, image)


def image_of(name: str) -> str:
    """What it is called where it was built: after its sources."""
    return f"localhost/rlhf-{name}:{_digest(name)}"


def _build(name: str, tag: str) -> None:
    print(f"building rlhf-{name} (minutes, the first time)", flush=True)
    environment = {**os.environ, "BUILDER": "buildah", "TAG": tag}
    if "BASE_IMAGE" not in environment:
        if not all(_built(base) for base in BASES):
            _checked(_run(str(ROOT / "tools" / "images"), "base", "--with-compiler"))
        environment |= {"BASE_IMAGE": BASES[0], "BUILD_IMAGE": BASES[1]}
    _checked(_run(str(ROOT / "tools" / "images"), name, environment=environment))


def _forget_others(name: str, current: str) -> None:
    """Of the images of other states, gigabytes each; what buildah keeps of their steps is still there to build on. One
    in use stays."""
    listed = _run("buildah", "images", "--format", "{{.Name}}:{{.Tag}}")
    _checked(listed)
    for image in listed.stdout.split():
        if image.startswith(f"localhost/rlhf-{name}:") and image != current:
            _run("buildah", "rmi", image)


def _built(image: str) -> bool:
    return _run("buildah", "inspect", "--type=image", image).returncode == 0


def _run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _checked(ended: subprocess.CompletedProcess[str]) -> None:
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(ended.args)}: {(ended.stdout + ended.stderr)[-2000:]}")


def _digest(name: str) -> str:
    digest = hashlib.sha256((ROOT / "tools" / "images").read_bytes())
    for source in MADE_OF[name]:
        path = ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
