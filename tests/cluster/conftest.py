"""Real API servers for tests. README.md says where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from cluster import project_images
from cluster.control_plane import ControlPlane
from cluster.node import ADDRESS, Node, leftovers, plane_folder, running
from cluster.operator.standin import KEEP_PODS
from cluster.sessions import new_folder
from cluster.trainers.site import Namespace, Site, images_given

LONGEST = (
    "operator_faults",
    "cli_jobs",
    "load",
    "runtime_client",
    "operator_killed",
    "rendered",
    "installed",
    "operator_rights",
)
"""Files of the tests that take longest. A file is one worker's: what begins late ends alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    first = {f"test_{name}": position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


class NewPlane(Protocol):
    """Makes a control plane that is gone when the test is over; takes what ControlPlane takes."""

    def __call__(
        self, *, controllers: bool = False, audit: bool = False, arguments: tuple[str, ...] = ()
    ) -> ControlPlane: ...


@pytest.fixture
def new_plane() -> Iterator[NewPlane]:
    """For tests that stop, pause or overload it, or that need it empty: a few seconds each."""
    planes: list[ControlPlane] = []

    def new(*, controllers: bool = False, audit: bool = False, arguments: tuple[str, ...] = ()) -> ControlPlane:
        plane = ControlPlane(new_folder(), controllers=controllers, audit=audit, arguments=arguments)
        planes.append(plane)
        return plane.start()

    yield new
    for plane in planes:
        plane.remove()


@pytest.fixture(scope="session")
def shared_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver for every test of a process that leaves them as they are: use a namespace of your own."""
    plane = ControlPlane(new_folder()).start()
    yield plane
    plane.remove()


@pytest.fixture(scope="session")
def controlled_plane() -> Iterator[ControlPlane]:
    """The same with the controller manager: Jobs make pods (which nothing runs), and owners' children are collected."""
    plane = ControlPlane(new_folder(), controllers=True, controller_arguments=KEEP_PODS).start()
    yield plane
    plane.remove()


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[Path]:
    """A cluster whose pods run: KUBECONFIG's, else the one that `cluster up` started, else one for this session."""
    existing = os.environ.get("KUBECONFIG")
    if existing:
        yield Path(existing)
        return
    folder = plane_folder()
    if "kubelet" in running(folder):
        yield folder / "admin.kubeconfig"
        return
    leftovers(folder)
    plane = ControlPlane(folder, controllers=True, address=ADDRESS).start()
    Node(plane).start()
    yield plane.kubeconfig
    leftovers(folder)


@pytest.fixture(scope="session")
def site(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The chart, installed with this project's images; one a session, because they are gigabytes."""
    images = images_given()
    if images is None:
        assert "KUBECONFIG" not in os.environ, (
            "found KUBECONFIG alone; expected RLHF_OPERATOR_IMAGE and RLHF_TRAINER_IMAGE too: "
            "name@sha256:... of images that your cluster can pull"
        )
        socket = Node(ControlPlane(plane_folder(), controllers=True)).socket
        images = (project_images.load(socket, "operator"), project_images.load(socket, "trainer"))
    folder = tmp_path_factory.mktemp("volumes")
    for parent in (folder, *folder.parents[:2]):  # pytest's folders are their owner's alone; pods have another user
        parent.chmod(0o755)
    installed = Site(kubeconfig, folder, *images)
    installed.install()
    return installed


@pytest.fixture
def team(site: Site) -> Iterator[Namespace]:
    """A namespace with storage, gone after the test."""
    namespace = site.namespace()
    yield namespace
    site.forget(namespace.name)
