"""Images for the node, as docker archives."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from cluster.binaries import HERE

PAUSE = "localhost/pause:1"


def ctr(socket: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """containerd's own command, in Kubernetes' namespace."""
    command = ["ctr", "-a", str(socket), "-n", "k8s.io", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def load(socket: Path, archive: Path) -> str:
    """Give containerd an image; gives `name@sha256:...`, under which a pod may name it too."""
    names = json.loads(_member(archive, "manifest.json"))[0]["RepoTags"]
    ended = ctr(socket, "images", "import", str(archive))
    if ended.returncode != 0:
        raise RuntimeError(f"{archive}: containerd refused it: {ended.stderr}")
    rows = [line.split() for line in ctr(socket, "images", "ls").stdout.splitlines()]
    digest = next(row[2] for row in rows if row and row[0] == names[0])
    pinned = f"{names[0].rpartition(':')[0]}@{digest}"
    ctr(socket, "images", "tag", "--force", names[0], pinned)
    return pinned


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
    layer = _tar({path: (content, 0o755) for path, content in files.items()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    text = json.dumps(config).encode()
    described = hashlib.sha256(text).hexdigest() + ".json"
    manifest = json.dumps([{"Config": described, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    whole = _tar({described: (text, 0o644), "layer.tar": (layer, 0o644), "manifest.json": (manifest, 0o644)})
    partial = archive.with_suffix(".new")
    partial.write_bytes(whole)
    partial.rename(archive)


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(name)
        if member is None:
            raise RuntimeError(f"{archive}: no {name}; expected a docker-archive")
        return member.read()
