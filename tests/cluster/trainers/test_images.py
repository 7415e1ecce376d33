"""The images, as what they are made of."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster import project_images
from cluster.project_images import BASES, MADE_OF
from cluster.trainers.site import ROOT, Site, images_given

TOOL = ("tools/images", "pyproject.toml", ".dockerignore")


def test_two_builds_of_the_same_sources_are_one_image(site: Site, tmp_path: Path) -> None:
    """The second one elsewhere, at another time, of files that only their owner may read, no step taken from the first."""
    if images_given() is not None:
        pytest.skip("this cluster's images were not built here")
    for source in (*TOOL, *MADE_OF["operator"]):
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
        copy(ROOT / source, target)
    for path in tmp_path.rglob("*"):
        path.chmod(0o700 if path.is_dir() or path.name == "images" else 0o600)
    environment = {"BASE_IMAGE": BASES[0], **os.environ, "BUILDER": "buildah", "TAG": "again", "FRESH": "1"}
    command = [str(tmp_path / "tools" / "images"), "operator"]
    built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    first, again = identity(project_images.image_of("operator")), identity("localhost/rlhf-operator:again")
    buildah("rmi", "localhost/rlhf-operator:again")
    assert again == first


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_no_module_is_compiled_by_its_time(site: Site, name: str) -> None:
    """Files of the image are of 1970: such a module would be compiled anew by every process that imports it."""
    if images_given() is not None:
        pytest.skip("this cluster's images were not built here")
    container = buildah("from", "--pull-never", project_images.image_of(name))
    try:
        root = Path(buildah("mount", container)) / "opt" / "rlhf"
        compiled = list(root.rglob("*.pyc"))
        by_time = [str(path.relative_to(root)) for path in compiled if path.read_bytes()[4] & 1 == 0]
    finally:
        buildah("rm", container)
    assert len(compiled) > 500
    assert by_time == []


def buildah(*words: str) -> str:
    """By buildah."""
    return subprocess.run(["buildah", *words], check=True, capture_output=True, text=True).stdout.strip()


def identity(image: str) -> str:
    """Digest of its configuration, which has those of its layers."""
    return buildah("inspect", "--type=image", "--format={{.FromImageID}}", image)
