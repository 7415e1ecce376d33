"""The `cluster` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from cluster import project_images
from cluster.binaries import RECIPES, Missing, program
from cluster.control_plane import ControlPlane
from cluster.node import ADDRESS, Node, check_machine, leftovers, plane_folder, running
from cluster.processes import Died
from cluster.project_images import MADE_OF


def main(usage: str | None, arguments: Sequence[str]) -> int:
    """Do what the first argument says; gives the exit code."""
    verbs: dict[str, Callable[..., int]] = {
        "up": up,
        "apiserver": apiserver,
        "down": down,
        "status": status,
        "env": environment,
        "load": load,
        "build": build,
    }
    if not arguments or arguments[0] not in verbs:
        print(usage, file=sys.stderr)
        return 2
    try:
        return verbs[arguments[0]](*arguments[1:])
    except (Missing, Died) as error:
        print(error, file=sys.stderr)
        return 1


def up() -> int:
    """A node."""
    check_machine()
    plane = _fresh(ControlPlane(plane_folder(), controllers=True, address=ADDRESS))
    Node(plane).start()
    return status()


def apiserver() -> int:
    """A control plane alone."""
    _fresh(ControlPlane(plane_folder(), controllers=True))
    return status()


def _fresh(plane: ControlPlane) -> ControlPlane:
    if running(plane.folder):
        raise Missing("a cluster runs; `cluster down` ends it")
    return plane.start()


def down() -> int:
    """Nothing is left."""
    leftovers(plane_folder())
    return 0


def status() -> int:
    """What runs."""
    names = running(plane_folder())
    print(f"running: {', '.join(names)}" if names else "nothing runs")
    return 0 if names else 1


def environment() -> int:
    """For the shell."""
    print(f"export KUBECONFIG={plane_folder() / 'admin.kubeconfig'}")
    print(f"export PATH={program('kubectl').parent}:$PATH")
    return 0


def load(*names: str) -> int:
    """This project's images for the node."""
    for name in names or MADE_OF:
        if name not in MADE_OF:
            print(f"{name}: no such image; expected {', '.join(MADE_OF)}", file=sys.stderr)
            return 2
        print(project_images.load(Node(ControlPlane(plane_folder())).socket, name))
    return 0


def build(*names: str) -> int:
    """Programs, before they are needed."""
    for name in names or RECIPES:
        if name not in RECIPES:
            print(f"{name}: no such program; expected {', '.join(RECIPES)}", file=sys.stderr)
            return 2
        print(os.fspath(program(name)))
    return 0
