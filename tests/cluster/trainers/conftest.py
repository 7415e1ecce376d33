"""The site: one a session, because its images are gigabytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.node import Node, plane_folder
from cluster.project_images import archive
from cluster.trainers.site import Namespace, Site, images_given


@pytest.fixture(scope="session")
def site(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The chart, installed with this project's images."""
    given = images_given()
    if given is None:
        assert "KUBECONFIG" not in os.environ, (
            "found KUBECONFIG alone; expected RLHF_OPERATOR_IMAGE and RLHF_TRAINER_IMAGE too: "
            "name@sha256:... of images that your cluster can pull"
        )
        node = Node(ControlPlane(plane_folder(), controllers=True))
        given = (node.load(archive("operator")), node.load(archive("trainer")))
    folder = tmp_path_factory.mktemp("volumes")
    for parent in (folder, *folder.parents[:2]):  # pytest's folders are their owner's alone; pods have another user
        parent.chmod(0o755)
    made = Site(kubeconfig, folder, *given)
    made.install()
    return made


@pytest.fixture
def team(site: Site) -> Iterator[Namespace]:
    """A namespace with storage, gone after the test."""
    made = site.namespace()
    yield made
    site.forget(made.name)
