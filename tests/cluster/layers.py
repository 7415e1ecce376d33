"""An image of buildah's for containerd, without copying its gigabytes: both keep a layer as a folder for overlayfs, so that
containerd's folders can be made of hard links to buildah's."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import images

KIND = "application/vnd.oci.image.index.v1+json"
LINK = """\
mount --bind / /mnt
[ "/mnt$1" -ef "$1" ] && [ "/mnt$2" -ef "$2" ] || exit 3
cp --archive --link "/mnt$1/." "/mnt$2"
"""
"""buildah mounts its storage over itself, and no link leads from a mount to another: so both are seen from the root's."""


def link(socket: Path, image: str) -> bool:
    """Give containerd the image.

    Returns:
        Whether it has it now; it has not where buildah keeps layers in another form or on another file system.
    """
    described = json.loads(_run("buildah", "inspect", "--type=image", image))
    manifest, config = described["Manifest"], described["Config"]
    digests: list[str] = json.loads(config)["rootfs"]["diff_ids"]
    with _folders(image) as folders:
        if len(folders) != len(digests):
            return False
        parent = ""
        for digest, folder in zip(digests, folders, strict=True):
            chain = digest if not parent else _sha256(f"{parent} {digest}")
            if not _has(socket, chain) and not _link_layer(socket, folder, parent, chain):
                return False
            parent = chain
    _ctr(socket, "images", "import", "-", stdin=_archive(image, manifest, config))
    return True


@contextmanager
def _folders(image: str) -> Iterator[list[Path]]:
    """Where buildah keeps the image's layers, the lowest first; empty where it does not mount them as an overlay."""
    container = _run("buildah", "from", "--pull-never", image).strip()
    try:
        mounted = re.escape(_run("buildah", "mount", container).strip())
        overlay = re.search(
            rf"^overlay {mounted} overlay \S*lowerdir=([^,\s]+),upperdir=([^,\s]+)",
            Path("/proc/mounts").read_text(),
            re.MULTILINE,
        )
        if overlay is None:
            yield []
            return
        storage = Path(overlay[2]).parents[1]  # names of lower folders may begin here
        yield [(storage / name).resolve() for name in reversed(overlay[1].split(":"))]
    finally:
        _run("buildah", "rm", container)


def _link_layer(socket: Path, folder: Path, parent: str, chain: str) -> bool:
    """Make a layer's snapshot; False where it lies on another file system."""
    key = f"linked-{chain}"
    if _has(socket, key):  # of a process that was killed
        _ctr(socket, "snapshots", "rm", key)
    _ctr(socket, "snapshots", "prepare", key, *([parent] if parent else []))
    mounts = _ctr(socket, "snapshots", "mounts", "/", key)
    mounted = re.search(r"upperdir=([^,\s]+)", mounts) or re.search(r"^mount -t bind (\S+)", mounts)
    assert mounted is not None, mounts
    target = Path(mounted[1]).resolve()
    linked = _start("unshare", "--mount", "sh", "-euc", LINK, "sh", str(folder), str(target))
    if linked.returncode == 3:
        _ctr(socket, "snapshots", "rm", key)
        return False
    _checked(linked)
    _ctr(socket, "snapshots", "commit", chain, key)
    return True


def _has(socket: Path, snapshot: str) -> bool:
    return images.ctr(socket, "snapshots", "info", snapshot).returncode == 0


def _archive(image: str, manifest: str, config: str) -> bytes:
    """The image as an OCI archive that leaves out the layers, which containerd has."""
    name = {"io.containerd.image.name": image}
    entry = {
        "mediaType": json.loads(manifest)["mediaType"],
        "digest": _sha256(manifest),
        "size": len(manifest.encode()),
    }
    index = {"schemaVersion": 2, "mediaType": KIND, "manifests": [{**entry, "annotations": name}]}
    files = {"oci-layout": '{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index)}
    files |= {f"blobs/sha256/{_sha256(text).partition(':')[2]}": text for text in (manifest, config)}
    return images.tar({path: (text.encode(), 0o644) for path, text in files.items()})


def _sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _ctr(socket: Path, *arguments: str, stdin: bytes | None = None) -> str:
    return _run(*images.CTR, "-a", str(socket), *arguments, stdin=stdin)


def _run(*command: str, stdin: bytes | None = None) -> str:
    return _checked(_start(*command, stdin=stdin))


def _start(*command: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def _checked(ended: subprocess.CompletedProcess[bytes]) -> str:
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(ended.args)}: {ended.stderr.decode(errors='replace')[-2000:]}")
    return ended.stdout.decode()
