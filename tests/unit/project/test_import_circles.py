"""No package of the project has an import circle; imports inside functions and for the type checker count as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = {
    "rlhf_api": ROOT / "crds",
    "rlhf_operator": ROOT / "operator",
    "rlhf_sdk": ROOT / "sdk",
    "rlhf_trainer": ROOT / "trainer_image",
}


def modules(package: str) -> dict[str, ast.Module]:
    """The modules of a package by their dotted names, parsed."""
    folder = PACKAGES[package]
    paths = {path.relative_to(folder).with_suffix(""): path for path in (folder / package).rglob("*.py")}
    return {
        ".".join(name.parts).removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
    }


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports, absolutely, anywhere in it: `a.b.c` for `from a.b import c` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges(package: str) -> dict[str, set[str]]:
    """The modules of the package that each module imports by name. A name that a package's `__init__` only passes on
    is that `__init__`'s."""
    trees = modules(package)
    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        targets = (name if name in trees else name.rpartition(".")[0] for name in imported(tree))
        graph[module] = {target for target in targets if target in trees and target != module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module."""

    def reachable(start: str) -> set[str]:
        reached: set[str] = set()
        waiting = [start]
        while waiting:
            fresh = graph[waiting.pop()] - reached
            reached |= fresh
            waiting += fresh
        return reached

    below = {module: reachable(module) for module in graph}
    components = {frozenset(peer for peer in below[module] if module in below[peer]) for module in graph}
    return sorted((set(component) for component in components if component), key=sorted)


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(graph) == [{"b", "c"}]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_has_an_import_circle(package: str) -> None:
    assert len(modules(package)) > 10
    assert circles(edges(package)) == []
