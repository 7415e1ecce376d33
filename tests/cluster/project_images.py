"""This project's images as archives for the node: built once for each state of what they are made of."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

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


def archive(name: str) -> Path:
    """The docker-archive of an image; built when there is none of these sources yet.

    Raises:
        Missing: it cannot be built here.
    """
    folder = home() / "images" / f"{name}-{_digest(name)}"
    file = folder / f"rlhf-{name}.tar"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            for old in folder.parent.glob(f"{name}-*"):  # gigabytes each
                shutil.rmtree(old)
            _build(name, folder)
    return file


def _build(name: str, folder: Path) -> None:
    if shutil.which("buildah") is None:
        raise Missing("images are built with Debian's buildah and debootstrap: apt-get install buildah debootstrap")
    print(f"building rlhf-{name} (minutes, the first time)", flush=True)
    environment = {**os.environ, "BUILDER": "buildah", "TAG": "test"}
    if "BASE_IMAGE" not in environment:
        if any(_run("buildah", "inspect", "--type=image", base).returncode for base in BASES):
            _checked(_run(str(ROOT / "tools" / "images"), "base", "--with-compiler"))
        environment |= {"BASE_IMAGE": BASES[0], "BUILD_IMAGE": BASES[1]}
    half = folder.with_name(f"{folder.name}.half")
    _checked(_run(str(ROOT / "tools" / "images"), name, environment={**environment, "ARCHIVES": str(half)}))
    half.rename(folder)


def _run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _checked(ended: subprocess.CompletedProcess[str]) -> None:
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(ended.args)}: {(ended.stdout + ended.stderr)[-2000:]}")


def _digest(name: str) -> str:
    found = hashlib.sha256((ROOT / "tools" / "images").read_bytes())
    for source in MADE_OF[name]:
        path = ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return found.hexdigest()[:12]
