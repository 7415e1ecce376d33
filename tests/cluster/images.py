"""Images for the node."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from cluster.binaries import HERE

PAUSE = "localhost/pause:1"
CTR = ("ctr", "-n", "k8s.io")


def ctr(socket: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """containerd's own command, in Kubernetes' namespace."""
    return subprocess.run([*CTR, "-a", str(socket), *arguments], capture_output=True, text=True, check=False)


def digest(socket: Path, image: str) -> str | None:
    """`sha256:...` of an image that containerd has."""
    rows = [line.split() for line in ctr(socket, "images", "ls").stdout.splitlines()]
    return next((row[2] for row in rows if row and row[0] == image), None)


def pinned(socket: Path, image: str) -> str:
    """`name@sha256:...` of an image that containerd has, under which a pod may name it from now on."""
    image_digest = digest(socket, image)
    name = f"{image.rpartition(':')[0]}@{image_digest}"
    ended = ctr(socket, "images", "tag", "--force", image, name)
    if image_digest is None or ended.returncode != 0:
        raise RuntimeError(f"containerd has no image {image} to name: {ended.stderr}")
    return name


def stream(socket: Path, source: Sequence[str]) -> None:
    """Give containerd the docker archive that a command writes: none lies on the disk in between."""
    with subprocess.Popen(source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writing:
        assert writing.stdout is not None and writing.stderr is not None
        taking = subprocess.run(
            [*CTR, "-a", str(socket), "images", "import", "-"], stdin=writing.stdout, capture_output=True, check=False
        )
        writing.stdout.close()  # whoever still writes to one who has given up is told so
        written = writing.stderr.read()
    if writing.returncode or taking.returncode:
        raise RuntimeError(
            f"{' '.join(source)}: containerd took no image: {(taking.stderr + written).decode()[-2000:]}"
        )


def pause(folder: Path) -> Path:
    """The archive of the image that holds a pod's namespaces, built from go/pause/pause.c."""
    source = HERE / "go" / "pause" / "pause.c"
    archive = folder / f"pause-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.tar"
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / "pause"
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", str(built), str(source)], check=True)
    write_archive(archive, PAUSE, {"pause": built.read_bytes()}, ["/pause"])
    return archive


def write_archive(archive: Path, name: str, files: dict[str, bytes], entrypoint: list[str]) -> None:
    """A docker archive of one layer of programs."""
    layer = tar({path: (content, 0o755) for path, content in files.items()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    text = json.dumps(config).encode()
    described = hashlib.sha256(text).hexdigest() + ".json"
    manifest = json.dumps([{"Config": described, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    image = tar({described: (text, 0o644), "layer.tar": (layer, 0o644), "manifest.json": (manifest, 0o644)})
    partial = archive.with_suffix(".new")
    partial.write_bytes(image)
    partial.rename(archive)


def tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    """An archive of files: content and mode by path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
